"""Why there is no connection to the broker, in words for a log line."""

import socket

import pytest
from aiormq.exceptions import AMQPConnectionError, ConnectionClosed

from kilonova.core.bus.rabbit_link import why


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionRefusedError(111, "Connect call failed ('192.0.2.1', 5672)"), "Connection refused"),
        (AMQPConnectionError(111, "Connect call failed ('192.0.2.1', 5672)"), "Connection refused"),
        (ConnectionClosed(320, "CONNECTION_FORCED - user 'agent.one' is deleted"), "320 CONNECTION_FORCED - user 'agent.one' is deleted"),
        (socket.gaierror(-2, "Name or service not known"), "-2 Name or service not known"),
        (TimeoutError(), "it does not answer"),
        (Exception(), "the connection was closed"),
    ],
)
def test_why(error: Exception, said: str) -> None:
    assert why(error) == said
