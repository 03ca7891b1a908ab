"""The stand of several machines and its real guests load both cores for a minute: they have a target of their own (`make probe`)."""

import os

collect_ignore = [] if os.environ.get("KILONOVA_STAND") else ["test_stand.py", "test_tunnels.py"]
