"""kilonova where: the chain of source that does a thing, in running order.

The source is read, not run, which takes no time to speak of: the lines of each routes.py, what a handler names in domain/ or ops/, which
messages an op sends, which function of an agent takes each, and which verbs of the driver that calls. Words are compared with the
names that an operator would use; then with files called so.
"""

import ast
import builtins
import functools
import gc
import importlib
import re
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

import kilonova
from kilonova.cli.failure import Failure
from kilonova.cli.output import format_option, show_json

TOP = Path(kilonova.__file__).parent
LAYERS = ("domain", "ops", "agent", "drivers", "scheduler", "store")
MOST = 40


class Step(msgspec.Struct, frozen=True, kw_only=True):
    kind: str
    """route, handler, domain, op, message, agent, driver, …"""
    place: str
    about: str
    depth: int = 0


@click.command("where")
@format_option
@click.argument("words", nargs=-1, required=True)
def command(output: str, words: tuple[str, ...]) -> None:
    """Show where in the source WORDS is done: route, handler, operation, agent, driver. No cloud needs to run."""
    gc.disable()
    steps = find(words)
    if not steps:
        raise Failure(f"Nothing in the source is called {' '.join(words)}.", "Try fewer words, as an operator would say them.")
    if output == "json":
        show_json(steps)
        return
    kinds = [("  " * step.depth + step.kind) for step in steps]
    first, second = max(map(len, kinds)) + 2, max(len(step.place) for step in steps) + 2
    for kind, step in zip(kinds, steps, strict=True):
        click.echo(f"{kind.ljust(first)}{step.place.ljust(second)}{step.about}".rstrip())


# ---------------------------------------------------------------- matching


def roots(text: str) -> list[str]:
    """Words in small letters, without what grammar adds: migrateLive -> migrat, live."""
    parts = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", text)
    return [_root(part.lower()) for part in parts]


def _root(word: str) -> str:
    for ending in ("ings", "ing", "ions", "ion", "es", "ed", "e", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def matches(wanted: Sequence[str], text: str) -> bool:
    """Whether each word is in the text (as the beginning of one of its words)."""
    have = roots(text)
    return all(any(word.startswith(want) for word in have) for want in wanted)


# ---------------------------------------------------------------- reading the source


def statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Every statement with those inside it. Expressions, which are most of a tree, are left alone."""
    waiting: list[ast.stmt] = list(reversed(tree.body))
    while waiting:
        node = waiting.pop()
        yield node
        for field in ("body", "orelse", "finalbody"):
            waiting += reversed(getattr(node, field, ()))


class Source:
    """One module: its functions by name, and what it imports."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree = ast.parse(path.read_text())
        self.functions: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = {}
        self.imports: dict[str, str] = {}
        for node in statements(self.tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                self.functions.setdefault(node.name, node)
            elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("kilonova"):
                for name in node.names:
                    self.imports[name.asname or name.name] = f"{node.module}.{name.name}"

    @property
    def name(self) -> str:
        return str(self.path.relative_to(TOP))

    def about(self) -> str:
        return first_sentence(ast.get_docstring(self.tree))


@functools.cache
def source(path: Path) -> Source:
    return Source(path)


def first_sentence(text: str | None) -> str:
    line = (text or "").strip().split("\n\n")[0].replace("\n", " ")
    return re.split(r"(?<=\.)\s", line, maxsplit=1)[0]


def module_file(dotted: str) -> tuple[Path, str] | None:
    """File of a dotted name below kilonova, and what is left of the name (an object in it)."""
    parts = dotted.split(".")[1:]
    for count in range(len(parts), 0, -1):
        base = TOP.joinpath(*parts[:count])
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path, ".".join(parts[count:])
    return None


def called(module: Source, code: ast.AST) -> list[tuple[Path, str]]:
    """(file, attribute) of what a piece of code names in our own modules, in order, each once. Modules alone do not count."""
    seen: dict[tuple[Path, str], None] = {}
    inner: set[ast.AST] = set()
    for node in ast.walk(code):
        if node in inner or not isinstance(node, (ast.Attribute, ast.Name)):
            continue
        names: list[str] = []
        at: ast.AST = node
        while isinstance(at, ast.Attribute):
            names.append(at.attr)
            at = at.value
            inner.add(at)
        if isinstance(at, ast.Name) and at.id in module.imports:
            found = module_file(".".join([module.imports[at.id], *reversed(names)]))
            if found and found[1]:
                seen.setdefault((found[0], found[1].partition(".")[0]))
    return list(seen)


def layer(path: Path) -> str:
    """The layer of a service that a file belongs to, or "" for none."""
    parts = path.relative_to(TOP).parts
    return parts[1] if len(parts) > 2 and parts[1] in LAYERS else ""


# ---------------------------------------------------------------- the chain


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a service's table of routes."""

    service: str
    method: str
    path: str
    handler: str
    """Dotted name of the function."""
    policy: str
    action: str = ""
    since: tuple[int, int] = (0, 0)
    until: tuple[int, int] = (99, 999)

    @property
    def name(self) -> str:
        return self.handler.rpartition(".")[2]


class Named:
    """Stands for whatever a routes.py imports: it knows its own name. Called, it is the same (a function that makes handlers)."""

    def __init__(self, dotted: str) -> None:
        self._dotted = dotted

    def __getattr__(self, name: str) -> "Named":
        if name.startswith("__"):
            raise AttributeError(name)
        return Named(f"{self._dotted}.{name}")

    def __call__(self, *arguments: Any, **options: Any) -> "Named":
        return self

    def __getitem__(self, key: Any) -> "Named":
        return self

    def __iter__(self) -> Iterator[Any]:
        """What its module says, where that is a literal. (Without this, __getitem__ would make it a sequence without an end.)"""
        found = module_file(self._dotted)
        for node in source(found[0]).tree.body if found else ():
            targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
            if any(isinstance(target, ast.Name) and found and target.id == found[1] for target in targets):
                assert isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None
                return iter(ast.literal_eval(node.value))
        raise TypeError(self._dotted)

    def __str__(self) -> str:
        return self._dotted

    def __format__(self, form: str) -> str:
        """A path or a policy made from a value that is not known here."""
        return UNKNOWN


UNKNOWN = "\0"


def routes(*, whole: bool = False) -> list[Line]:
    """What every routes.py says. They are run with stand-ins for their imports: importing every service would take most of a second.

    Lines that are made from values of other modules are missing, unless `whole`: then the services that have such lines are imported.
    """
    out: list[Line] = []
    for path in sorted(TOP.glob("*/routes.py")):
        try:
            lines = list(_run(path)["ROUTES"])
        except Exception:  # it does more with its imports than name them
            lines = []
        known = [line for line in lines if UNKNOWN not in line.path + line.policy]
        out += _imported(path.parent.name) if whole and (not lines or len(known) < len(lines)) else known
    return out


def _imported(service: str) -> list[Line]:
    return [
        Line(
            service=service,
            method=route.method,
            path=route.path,
            handler=f"{route.handler.__module__}.{route.handler.__qualname__}",
            policy=route.policy,
            action=route.action,
            since=route.since,
            until=route.until,
        )
        for route in importlib.import_module(f"kilonova.{service}.routes").ROUTES
    ]


def _run(path: Path) -> dict[str, Any]:
    """The globals of a routes.py, in which each Route is a Line."""
    service = path.parent.name

    def route(method: str, where: str, handler: Any, policy: str, **options: Any) -> Line:
        kept = {name: options[name] for name in ("action", "since", "until") if name in options}
        return Line(service=service, method=method, path=where, handler=str(handler), policy=str(policy), **kept)

    routing = {"Route": route, "PUBLIC": "!public", "ANY_TOKEN": "!any"}

    def imported(name: str, *rest: Any) -> Any:
        names = rest[2] if len(rest) > 2 and rest[2] else ()
        if not name.startswith("kilonova"):
            return __import__(name, *rest)
        module = types.ModuleType(name)
        sibling = module_file(name)
        if sibling and sibling[0].parent == path.parent and sibling[0].stem.startswith("routes"):
            module.__dict__.update(_run(sibling[0]))
        else:
            for each in names:
                setattr(module, each, routing.get(each) or Named(f"{name}.{each}"))
        return module

    space: dict[str, Any] = {"__name__": f"kilonova.{service}.{path.stem}", "__builtins__": {**vars(builtins), "__import__": imported}}
    exec(compile(path.read_text(), str(path), "exec"), space)
    return space


def find(words: Sequence[str]) -> list[Step]:
    wanted = [root for word in words for root in roots(word)]
    steps: list[Step] = []
    shown: set[Path] = set()
    for line in _called(routes(), wanted) or _called(routes(whole=True), wanted):
        steps.append(Step(kind="route", place=f"{line.method} {line.path} {line.action}".strip(), about=_route_about(line)))
        steps += _handler(line, shown)
        if len(steps) > MOST:
            return steps
    steps += _files(wanted, shown)
    return (steps or list(_functions(wanted)))[:MOST]


def _called(lines: Sequence[Line], wanted: Sequence[str]) -> list[Line]:
    """Actions of exactly this name; else routes that an operator would call so; else those with the words in their path or policy."""
    named = [line for line in lines if line.action and roots(line.action) == wanted]
    called_so = named or [line for line in lines if matches(wanted, _words(line))]
    return called_so or [line for line in lines if matches(wanted, f"{_words(line)} {line.path} {line.policy}")]


def _words(line: Line) -> str:
    """What an operator would call it: actions by their name, others by what the method means for the path."""
    verb = {"POST": "create", "PUT": "update put", "PATCH": "update", "DELETE": "delete", "GET": "get show list"}.get(line.method, "")
    return f"{line.service} {line.action} {line.name}" if line.action else f"{line.service} {line.path} {line.name} {verb}"


def _route_about(line: Line) -> str:
    notes = []
    if line.since != (0, 0):
        notes.append(f"since {line.since[0]}.{line.since[1]}")
    if line.until != (99, 999):
        notes.append(f"until {line.until[0]}.{line.until[1]}")
    notes.append({"!public": "no token needed", "!any": "any token"}.get(line.policy, f"policy {line.policy}"))
    return ", ".join(notes)


def _handler(line: Line, shown: set[Path]) -> Iterator[Step]:
    found = module_file(line.handler)
    if found is None:
        return
    module = source(found[0])
    first, _, last = found[1].partition(".")
    function = module.functions.get(first) or module.functions.get(last.rpartition(".")[2])
    if function is None:
        yield Step(kind="handler", place=f"{module.name}:1", about=line.handler)
        return
    yield _function("handler", module, function)
    for file, name in called(module, function):
        kind = layer(file)
        if kind in ("domain", "ops"):
            yield from _step(file, name, "op" if kind == "ops" else kind, shown)


def _step(file: Path, name: str, kind: str, shown: set[Path]) -> Iterator[Step]:
    """A function that a handler calls; of an op also its `run`, and what that reaches."""
    module = source(file)
    function = module.functions.get(name)
    if function is None:
        return
    yield _function(kind, module, function)
    if kind == "op" and file not in shown:
        shown.add(file)
        run = module.functions.get("run")
        if run is not None and run is not function:
            yield _function(kind, module, run)
        yield from _below(file)


def _function(kind: str, module: Source, function: ast.FunctionDef | ast.AsyncFunctionDef) -> Step:
    about = first_sentence(ast.get_docstring(function))
    return Step(kind=kind, place=f"{module.name}:{function.lineno}", about=f"{function.name}  {about}".rstrip())


def _below(file: Path) -> Iterator[Step]:
    """What an op reaches on a node: its messages, the agent's functions that take them, and the driver's verbs."""
    service = TOP / file.relative_to(TOP).parts[0]
    module = source(file)
    for path, name in called(module, module.tree):
        if path.name == "rpc.py" and name[:1].isupper():
            yield from _agent(path.parent if path.parent != service else service, name)


def _agent(service: Path, message: str) -> Iterator[Step]:
    for file in sorted((service / "agent").glob("*.py")):
        module = source(file)
        for function in module.functions.values():
            arguments = [*function.args.args, *function.args.kwonlyargs]
            if not function.name.startswith("_") and any(
                argument.annotation and message == ast.unparse(argument.annotation).rpartition(".")[2] for argument in arguments
            ):
                place = f"{module.name}:{function.lineno}"
                yield Step(kind="agent", place=place, about=f"{message} -> {function.name}", depth=1)
                yield from _driver(service, function)


def _driver(service: Path, function: ast.AST) -> Iterator[Step]:
    protocol = service / "drivers" / "__init__.py"
    if not protocol.is_file():
        return
    verbs = source(protocol).functions
    seen = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute) and node.attr in verbs and "driver" in ast.unparse(node.value) and node.attr not in seen:
            seen.add(node.attr)
            yield Step(kind="driver", place=f"{source(protocol).name}:{verbs[node.attr].lineno}", about=node.attr, depth=2)


def _functions(wanted: Sequence[str]) -> Iterator[Step]:
    """The last resort: functions with these words in their names, below the API."""
    for kind in ("domain", "ops", "agent", "drivers", "scheduler"):
        for path in sorted(TOP.glob(f"*/{kind}/**/*.py")):
            if not any(matches(wanted, name) for name in re.findall(r"def ([a-z]\w*)", path.read_text())):
                continue  # parsing is what takes time
            for function in source(path).functions.values():
                if matches(wanted, function.name) and not function.name.startswith("_"):
                    about = f"{function.name}  {first_sentence(ast.get_docstring(function))}".rstrip()
                    yield Step(
                        kind="op" if kind == "ops" else kind.rstrip("s"), place=f"{source(path).name}:{function.lineno}", about=about
                    )


def _files(wanted: Sequence[str], shown: set[Path]) -> Iterator[Step]:
    """Files whose name (or name and folder) is what was asked for; pages of the documentation last."""
    for kind in ("domain", "ops", "agent", "drivers", "scheduler"):
        for path in sorted(TOP.glob(f"*/{kind}/**/*.py")):
            words = path.stem if path.stem != "__init__" else path.parent.name
            if path in shown or not matches(wanted, words):
                continue
            yield Step(kind="op" if kind == "ops" else kind.rstrip("s"), place=f"{source(path).name}:1", about=source(path).about())
    for path in sorted((TOP.parent.parent / "docs").glob("**/*.md")):
        if matches(wanted, path.stem):
            yield Step(kind="page", place=str(path.relative_to(TOP.parent.parent)), about=path.read_text().split("\n", 1)[0].lstrip("# "))
