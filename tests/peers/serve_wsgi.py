"""PORT MODULE: serve MODULE.application on loopback. Keystone reads the command line at its import, so it must not see ours.
Runs in .venv-peers; see running.wsgi."""

import importlib
import sys

from waitress import serve

port, module = int(sys.argv[1]), sys.argv[2]
sys.argv[1:] = []
serve(importlib.import_module(module).application, host="127.0.0.1", port=port, threads=8)
