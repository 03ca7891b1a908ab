"""Configuration in oslo.config's format. Options are declared next to what they set, in each service's config.py.

One ConfigOpts is built by the composition root and handed down; nobody imports a global one. Reading an option through oslo.config costs
tens of microseconds, so a service takes a `Settings` snapshot of its options when it is built.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oslo_config import cfg, iniparser

Options = Mapping[str, Sequence[Any]]
"""group -> options"""


class ConfigError(Exception):
    """A file cannot be read or a value has the wrong type; the message names file, option and what is expected."""


class Settings:
    """A snapshot: attributes by option name (dashes become underscores)."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no such setting: {name}")


def build(options: Sequence[Options], files: Sequence[str] = (), overrides: Mapping[tuple[str, str], Any] | None = None) -> Any:
    """A ConfigOpts with these options, files read in order (a later one wins), and overrides on top."""
    conf = cfg.ConfigOpts()
    for table in options:
        for group, opts in table.items():
            conf.register_opts(list(opts), group=None if group == "DEFAULT" else group)
    try:
        conf(args=[], project="kilonova", default_config_files=list(files), default_config_dirs=[])
    except cfg.Error as error:
        raise ConfigError(f"The configuration cannot be read: {error}") from None
    for (group, name), value in (overrides or {}).items():
        conf.set_override(name, value, group=None if group == "DEFAULT" else group)
    for table in options:
        for group, opts in table.items():
            for opt in opts:
                try:
                    _value(conf, group, opt.dest)
                except (ValueError, cfg.ConfigFileValueError) as error:
                    raise ConfigError(f"[{group}] {opt.name}: {error}") from None
    return conf


def _value(conf: Any, group: str, dest: str) -> Any:
    return conf[dest] if group == "DEFAULT" else conf[group][dest]


def settings(conf: Any, options: Options, group: str) -> Settings:
    return Settings({opt.dest: _value(conf, group, opt.dest) for opt in options[group]})


class _Lines(iniparser.BaseParser):
    """Where each option stands, for warnings with file and line."""

    def __init__(self) -> None:
        super().__init__()
        self.section = "DEFAULT"
        self.found: list[tuple[int, str, str]] = []
        self._begun = 0

    def new_section(self, section: str) -> None:
        self.section = section

    def _split_key_value(self, line: str) -> tuple[str, list[str]]:
        self._begun = self.lineno  # an assignment is told only when the next line has been seen
        found: tuple[str, list[str]] = super()._split_key_value(line)
        return found

    def assignment(self, key: str, value: list[str]) -> None:
        self.found.append((self._begun, self.section, key))


def unknown_options(options: Sequence[Options], path: str) -> list[str]:
    """A sentence for each option of a file that nobody declared, with the closest known name."""
    known = {(group, name) for table in options for group, opts in table.items() for opt in opts for name in (opt.name, opt.dest)}
    lines = _Lines()
    with Path(path).open() as file:
        lines.parse(file)
    out = []
    for number, section, key in lines.found:
        if (section, key) not in known and (section, key.replace("-", "_")) not in known:
            near = difflib.get_close_matches(key, [name for group, name in sorted(known) if group == section], 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            out.append(f"{path}:{number}: [{section}] {key} is not known.{hint}")
    return out
