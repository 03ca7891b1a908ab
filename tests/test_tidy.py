"""The shape of the tree: who may import whom, what may touch the world, names that line up. After STYLE's and the docs' rules.

Each check has a twin below that plants a breach and sees it caught.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src" / "kilonova"
SERVICES = ("identity", "image", "placement", "compute", "network", "volume", "objectstore")
ADAPTERS = ("ec2", "metadata", "console", "dashboard")
FREE = ("app", "admission", "hypervisor", "plan", "cli", "testing", "__main__")
LAYERS = {
    "routes": 5,
    "service": 4,
    "api": 4,
    "ops": 3,
    "domain": 3,
    "agent": 3,
    "scheduler": 2,
    "store": 2,
    "rpc": 2,
    "drivers": 2,
    "states": 1,
    "model": 0,
    "errors": 0,
}
WORLD = {
    "time": {"time", "monotonic", "perf_counter", "sleep", "time_ns", "monotonic_ns", "localtime", "gmtime"},
    "datetime.datetime": {"now", "utcnow", "today"},
    "uuid": {"uuid1", "uuid4"},
    "random": {"random", "randint", "choice", "randrange", "shuffle", "uniform", "sample", "getrandbits", "SystemRandom"},
    "secrets": None,
    "asyncio": {
        "sleep",
        "create_task",
        "ensure_future",
        "to_thread",
        "gather",
        "wait",
        "create_subprocess_exec",
        "create_subprocess_shell",
        "open_connection",
        "start_server",
        "TaskGroup",
        "as_completed",
    },
    "os": {"urandom", "system", "popen", "fork", "open", "remove", "rename", "replace", "unlink", "mkdir", "makedirs"},
    "subprocess": None,
    "socket": {"socket", "create_connection"},
    "threading": {"Thread", "Timer"},
    "shutil": None,
    "tempfile": None,
    "builtins": {"open"},
}


def modules() -> list[Path]:
    return sorted(p for p in SRC.rglob("*.py") if "__pycache__" not in p.parts)


def name_of(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """kilonova modules that are imported, with line numbers; `from a import b` counts as a.b and as a."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def forbidden(importer: str, imported: str) -> str:
    """Why this import is not allowed, or nothing. Names are relative to kilonova."""
    mine, theirs = importer.split("."), imported.split(".")
    if mine[0] in FREE:
        return ""
    if theirs[0] in FREE:
        return f"{theirs[0]} may be imported by app, cli and testing only"
    if mine[0] == "core":
        return "" if theirs[0] == "core" else "core knows none of ours"
    if theirs[0] == "core":
        return ""
    if mine[0] in ADAPTERS:
        if theirs[0] == mine[0] or theirs[1:2] == ["contract"]:
            return ""
        if theirs[:2] == ["network", "rpc"]:
            return ""
        return "an adapter speaks to services through contract.py only"
    if mine[0] != theirs[0]:
        return "" if theirs[1:2] == ["contract"] else "another service is reached through its contract.py only"
    return _downwards(mine[1:], theirs[1:])


def _downwards(mine: list[str], theirs: list[str]) -> str:
    if not mine or not theirs or mine[0] == theirs[0]:
        return ""
    if mine[0] == "agent" and theirs[0] == "store":
        return "an agent never opens the database"
    up, down = LAYERS.get(mine[0].partition("_")[0]), LAYERS.get(theirs[0].partition("_")[0])
    # Handlers and verbs take the service as their first argument: its type may be named from below, its wiring may not be used.
    if theirs[0] == "service" or up is None or down is None or down <= up:
        return ""
    return f"{mine[0]} is below {theirs[0]}"


def breaches(name: str, source: str) -> list[str]:
    found = []
    for imported, line in imports(ast.parse(source)):
        if imported.startswith("kilonova."):
            why = forbidden(name, imported.removeprefix("kilonova."))
            if why:
                found.append(f"{name}:{line} imports {imported}: {why}")
    return found


def world_reads(source: str) -> list[str]:
    """Calls that go around the Runtime."""
    tree = ast.parse(source)
    aliases: dict[str, str] = {"open": "builtins.open"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                aliases[alias.asname or alias.name.partition(".")[0]] = alias.name if alias.asname else alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        dotted = _dotted(node.func, aliases)
        holder, _, attribute = dotted.rpartition(".")
        if dotted == "time.gmtime" and node.args:
            continue  # of a given moment: it asks nobody
        if holder in WORLD and (WORLD[holder] is None or attribute in (WORLD[holder] or ())):
            found.append(f"line {node.lineno}: {dotted}()")
    return found


def _dotted(node: ast.expr, aliases: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return aliases.get(node.id, "")
    if isinstance(node, ast.Attribute):
        inner = _dotted(node.value, aliases)
        return f"{inner}.{node.attr}" if inner else ""
    return ""


def outside_the_seam(name: str) -> bool:
    parts = name.split(".")
    return parts[0] not in ("core", "cli", "testing", "app", "__main__") and "drivers" not in parts


def test_imports_go_down() -> None:
    found = [breach for path in modules() for breach in breaches(name_of(path), path.read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("core.edge", "compute.model"),
        ("compute.api.servers", "network.service"),
        ("compute.store.servers", "compute.api.servers"),
        ("compute.agent", "compute.store.servers"),
        ("metadata.handler", "compute.service"),
        ("image.service", "app"),
        ("compute.model", "compute.ops.create"),
        ("compute.scheduler.choose", "compute.domain.hosts"),
    ],
)
def test_a_planted_import_is_caught(importer: str, imported: str) -> None:
    assert breaches(importer, f"from kilonova.{imported} import x")


def test_services_do_not_import_each_other_in_circles() -> None:
    edges: dict[str, set[str]] = {}
    for path in modules():
        name = name_of(path)
        for imported, _ in imports(ast.parse(path.read_text())):
            if imported.startswith("kilonova."):
                target = imported.removeprefix("kilonova.")
                while target and not (
                    (SRC / Path(*target.split("."))).with_suffix(".py").exists() or (SRC / Path(*target.split("."), "__init__.py")).exists()
                ):
                    target = target.rpartition(".")[0]
                if target and target != name:
                    edges.setdefault(name, set()).add(target)
    for name in edges:
        assert not _reaches(edges, name), f"{name} imports itself through {' -> '.join(_reaches(edges, name))}"


def _is_module(name: str) -> bool:
    path = SRC / Path(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def _reaches(edges: dict[str, set[str]], start: str) -> list[str]:
    """A chain of imports from a module back to itself, packages (their __init__) not followed upwards."""
    seen: dict[str, str] = {}
    todo = [(n, start) for n in sorted(edges.get(start, ()))]
    while todo:
        at, via = todo.pop()
        if at in seen:
            continue
        seen[at] = via
        if at == start:
            chain, here = [start], via
            while here != start:
                chain.append(here)
                here = seen[here]
            return chain[::-1]
        todo += [(n, at) for n in sorted(edges.get(at, ()))]
    return []


def test_only_core_and_drivers_touch_the_world() -> None:
    found = [f"{name_of(p)} {read}" for p in modules() if outside_the_seam(name_of(p)) for read in world_reads(p.read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import time\ntime.time()",
        "from time import monotonic as m\nm()",
        "import datetime as d\nd.datetime.now()",
        "import uuid\nuuid.uuid4()",
        "import asyncio\nasyncio.create_task(x())",
        "open('x')",
        "from asyncio import sleep\nsleep(1)",
        "import secrets\nsecrets.token_hex()",
    ],
)
def test_a_planted_read_of_the_world_is_caught(source: str) -> None:
    assert world_reads(source)


def test_no_junk_drawers_and_no_type_checking_tricks() -> None:
    for path in modules():
        assert path.name not in ("utils.py", "common.py", "helpers.py", "manager.py"), path
        assert "TYPE_CHECKING" not in path.read_text(), path


def test_modules_say_what_they_are_for() -> None:
    missing = [str(p.relative_to(ROOT)) for p in modules() if not ast.get_docstring(ast.parse(p.read_text()))]
    assert not missing, "\n".join(missing)


def test_nothing_speaks_of_the_workplace() -> None:
    """The project stands alone: no path of the machine it was written on, nothing outside the checkout."""
    pattern = re.compile(r"\.\./shared|/work/|\.library|\bClaude\b|\bsubagent\b", re.I)
    tracked = [p for d in ("src", "tests", "docs", "tools", "guest", "conformance", "bench", "packaging") for p in (ROOT / d).rglob("*")]
    bad = []
    for path in [*tracked, ROOT / "README.md", ROOT / "Makefile", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"]:
        if path.is_file() and path.suffix in (".py", ".md", ".sh", ".yaml", ".toml", "", ".txt") and path != Path(__file__).resolve():
            try:
                if pattern.search(path.read_text()):
                    bad.append(str(path.relative_to(ROOT)))
            except UnicodeDecodeError:
                continue
    assert not bad, bad
