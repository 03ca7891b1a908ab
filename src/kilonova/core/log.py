"""JSON logs: one object a line, with the request id and without secrets.

Fields whose names say that they hold a secret are masked, as are bearer-like values in messages. Traces of exceptions go to the log
only, never to a client.
"""

import contextvars
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any, TextIO

import msgspec

from kilonova.core import times

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")

_SECRET = re.compile(r"pass(word|wd)?|secret|token|private_key|admin_pass|user_data|authorization|credential", re.I)
_VALUE = re.compile(r"gAAAA[\w\-=]{20,}|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END|$)|(?<=://)[^/@\s:]+:[^/@\s]+(?=@)", re.S)
_encoder = msgspec.json.Encoder(enc_hook=str)
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def mask(value: Any, name: str = "") -> Any:
    """The value with secrets replaced by ***."""
    if name and _SECRET.search(name) and not isinstance(value, (bool, int, float)) and value is not None:
        return "***"
    if isinstance(value, str):
        return _VALUE.sub("***", value)
    if isinstance(value, dict):
        return {key: mask(item, str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [mask(item) for item in value]
    return value


class Sink:
    """Where lines go: a stream, or a list in tests. Lines at one level below `level` are dropped."""

    def __init__(self, stream: TextIO | None = None, level: str = "info", now_us: Callable[[], int] | None = None) -> None:
        self.stream = stream if stream is not None else sys.stderr
        self.level = LEVELS[level]
        self.now_us = now_us or (lambda: 0)
        self._access: list[bytes] = []
        self._in_trouble = False

    def write(self, level: str, name: str, message: str, fields: dict[str, Any]) -> None:
        if LEVELS[level] < self.level:
            return
        line: dict[str, Any] = {"time": times.iso_us_z(self.now_us()), "level": level, "log": name, "message": mask(message)}
        ident = request_id.get()
        if ident:
            line["request_id"] = ident
        for key, value in fields.items():
            if isinstance(value, BaseException):
                line[key] = mask(f"{type(value).__name__}: {value}")
                if level == "error":
                    line["trace"] = mask("".join(traceback.format_exception(value)))
            else:
                line[key] = mask(value, key)
        try:
            self.stream.write(_encoder.encode(line).decode() + "\n")
        except (ValueError, OSError):
            return

    def access(self, line: dict[str, Any]) -> None:
        """An access line (level info); written with the next flush (the edge must not wait for a disk)."""
        if self.level > LEVELS["info"]:
            return
        self._access.append(_encoder.encode(line))
        if len(self._access) >= 200:
            self.flush()

    def flush(self) -> None:
        """A disk that is full is no error to the caller. It is told of once, in the log, where it is read when there is room again."""
        try:
            if self._access:
                self.stream.write(b"\n".join(self._access).decode() + "\n")
                self._access.clear()
            self.stream.flush()
        except (ValueError, OSError) as error:
            self._access.clear()
            if not self._in_trouble:
                self._in_trouble = True
                self.write("error", "log", "the log cannot be written; lines are lost until it can", {"reason": str(error)})
            return
        self._in_trouble = False


class Log:
    def __init__(self, name: str, sink: Sink) -> None:
        self.name = name
        self.sink = sink

    def child(self, name: str) -> "Log":
        return Log(f"{self.name}.{name}" if self.name else name, self.sink)

    def debug(self, message: str, **fields: Any) -> None:
        self.sink.write("debug", self.name, message, fields)

    def info(self, message: str, **fields: Any) -> None:
        self.sink.write("info", self.name, message, fields)

    def warning(self, message: str, **fields: Any) -> None:
        self.sink.write("warning", self.name, message, fields)

    def error(self, message: str, **fields: Any) -> None:
        self.sink.write("error", self.name, message, fields)
