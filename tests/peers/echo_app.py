"""What keystonemiddleware's auth_token tells the application behind it. Runs in .venv-peers; see running.Middleware."""

import json
import os

from keystonemiddleware import auth_token


def echo(environ, start_response):
    seen = {name: value for name, value in environ.items() if name.startswith("HTTP_X_") and isinstance(value, str)}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(seen).encode()]


application = auth_token.AuthProtocol(echo, json.loads(os.environ["AUTH_TOKEN_SETTINGS"]))
