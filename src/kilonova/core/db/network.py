"""What both drivers need: patience with a silent peer, TLS, numbers, words for errors."""

import socket
import ssl
from typing import Any


def why(error: BaseException) -> str:
    """An error of the network in a few words."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return str(error) or type(error).__name__


def number(text: str) -> int | float:
    return int(text) if "." not in text and "e" not in text.lower() else float(text)


def patience(transport: Any, seconds: float) -> None:
    """A peer that vanished without a word (a cut cable, a dead machine) is noticed after this time, also while an answer is awaited."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, int(seconds)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))


def tls(mode: str, authority: str, certificate: str, key: str) -> "ssl.SSLContext | bool":
    if not authority and mode in ("", "disable", "allow", "prefer"):
        return False
    context = ssl.create_default_context(cafile=authority or None)
    context.check_hostname = mode not in ("require", "verify-ca")
    if mode == "require" and not authority:
        context.verify_mode = ssl.CERT_NONE
    if certificate:
        context.load_cert_chain(certificate, key or None)
    return context
