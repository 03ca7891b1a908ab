"""Two machines with real guests keep both cores busy for half a minute: they have a target of their own (`make probe`)."""

import os

collect_ignore = [] if os.environ.get("KILONOVA_STAND") else ["test_tunnels.py"]
