"""Statements compiled once for a dialect, and run by name of their parameters.

SQLAlchemy's connection costs 12 to 43 µs a statement, this runner 4.5. It uses two private names of SQLAlchemy 2.1
(`_bind_processors`, `_cached_result_processor`) and `_process_parameters_for_postcompile`; tests/core/test_db.py would notice a change.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.sql import visitors
from sqlalchemy.sql.compiler import SQLCompiler

Processor = Callable[[Any], Any]
KEPT_LENGTHS = 256
"""Of one statement's lists."""


class Json(sa.types.TypeDecorator[Any]):
    """A column of JSON text that decodes to the given msgspec type. NULL stays None."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, kind: Any = Any) -> None:
        super().__init__()
        self.kind = kind
        self.decode = msgspec.json.Decoder(kind).decode
        self._encode = msgspec.json.Encoder().encode

    def encode(self, value: Any) -> str:
        return self._encode(value).decode()

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else self._encode(value).decode()

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else self.decode(value)


class Prepared:
    """A statement that is part of the program: compiled once per dialect and kept."""

    __slots__ = ("compiled", "element", "kept")

    def __init__(self, element: Any, kept: bool = False) -> None:
        self.element = element
        self.kept = kept
        self.compiled: dict[str, Compiled] = {}

    def on(self, dialect: DefaultDialect) -> "Compiled":
        found = self.compiled.get(dialect.name)
        if found is None:
            found = self.compiled[dialect.name] = Compiled(self.element, dialect)
            found.kept = self.kept
            found.reads = frozenset(part.name for part in visitors.iterate(self.element) if isinstance(part, sa.Table))
        return found


def prepared(element: Any, *, kept: bool = False) -> Prepared:
    """kept: answers may be used again until a table that they come from is written (core/db/kept.py); nobody changes what is in them."""
    return Prepared(element, kept)


def inserted(table: sa.Table) -> Prepared:
    """INSERT of every column of a table; its parameters are the columns' names."""
    return Prepared(sa.insert(table).values({column.name: sa.bindparam(column.name, type_=column.type) for column in table.columns}))


class Compiled:
    """SQL text, the order of its parameters, and conversions in and out (None where none is needed)."""

    __slots__ = (
        "_element_compiled",
        "_expanded",
        "_expanding",
        "_lists",
        "_literals",
        "_pick",
        "_places",
        "_template",
        "adds",
        "binds",
        "kept",
        "locks",
        "names",
        "reads",
        "results",
        "returns",
        "sql",
        "table",
        "writes",
    )

    def __init__(self, element: Any, dialect: DefaultDialect) -> None:
        compiled: SQLCompiler = element.compile(dialect=dialect)
        self._element_compiled = compiled
        self.table: Any = getattr(element, "table", None)
        """What an INSERT, UPDATE or DELETE writes."""
        self.writes: str = self.table.name if self.table is not None else ""
        self.adds = isinstance(element, sa.Insert)
        self.returns = bool(getattr(element, "_returning", ()))
        """A write with RETURNING."""
        self.reads: frozenset[str] | None = None
        """Names of the tables that it touches; None where nobody has looked (statements built for one use)."""
        self.kept = False
        self.locks = getattr(element, "_for_update_arg", None) is not None
        """A SELECT … FOR SHARE."""
        self._expanding = bool(compiled.post_compile_params or compiled.literal_execute_params)
        self._lists = [str(name) for bind, name in compiled.bind_names.items() if bind.expanding]
        self._expanded: dict[tuple[int, ...], tuple[str, list[tuple[str, int, Processor | None]]]] = {}
        """Lengths of the lists -> SQL, and for each of its parameters: name, place in the list (-1: no list), conversion."""
        self._literals = {str(name): bind.effective_value for bind, name in compiled.bind_names.items() if not bind.required}
        """Constants of the statement itself."""
        self.names: list[str] = list(compiled.positiontup or ())
        processors: Mapping[str, Any] = compiled._bind_processors
        kinds = {str(name): bind.type for bind, name in compiled.bind_names.items()}
        self.binds: list[tuple[str, Processor]] = [
            (name, kind.encode if isinstance(kind := kinds.get(name), Json) else f) for name, f in processors.items() if callable(f)
        ]
        self._places, self._pick, self._template = self._order()
        self.sql = str(compiled)
        self.results: list[tuple[int, Processor]] = []
        for i, column in enumerate(_columns(compiled)):
            kind = column.type
            f = kind.decode if isinstance(kind, Json) else kind._cached_result_processor(dialect, None)
            if f is not None:
                self.results.append((i, f))

    def apart(self, other: "Compiled") -> bool:
        """Whether these two writes can be done at once: neither touches what the other writes, or both only add rows to one table."""
        if self.reads is None or other.reads is None:
            return False
        if self.adds and other.adds and self.writes == other.writes:
            return True
        return self.writes not in other.reads and other.writes not in self.reads

    def _order(self) -> tuple[list[tuple[int, Processor]], Callable[[Any], Any] | None, list[Any] | None]:
        """(positions that are converted, all values at once by their names, the arguments with the statement's own constants in them)"""
        if self._expanding:
            return [], None, None
        converters = dict(self.binds)
        places = [(at, converters[name]) for at, name in enumerate(self.names) if name in converters]
        if any(name in self._literals for name in self.names):
            template = [self._literals.get(name) for name in self.names]
            for at, f in places:
                if template[at] is not None:
                    template[at] = f(template[at])
            return places, None, template
        return places, operator.itemgetter(*self.names) if len(self.names) > 1 else None, None

    def arguments(self, parameters: Mapping[str, Any]) -> tuple[str, Sequence[Any]]:
        """The SQL to run and its positional arguments. A missing parameter is a KeyError."""
        if self._expanding:
            compiled = self._element_compiled
            return self._expand(dict(compiled.construct_params(dict(parameters)) if self._literals else parameters))
        if self._template is not None:
            return self.sql, self._filled(parameters)
        picked = self._pick(parameters) if self._pick is not None else [parameters[name] for name in self.names]
        if not self._places:
            return self.sql, picked
        values = list(picked)
        for at, f in self._places:
            value = values[at]
            if value is not None:
                values[at] = f(value)
        return self.sql, values

    def _filled(self, parameters: Mapping[str, Any]) -> list[Any]:
        """With the statement's own constants, where the caller does not give others."""
        values = list(self._template or ())
        literals = self._literals
        given = [True] * len(values)
        for at, name in enumerate(self.names):
            if name in parameters:
                values[at] = parameters[name]
            elif name in literals:
                given[at] = False
            else:
                raise KeyError(name)
        for at, f in self._places:
            value = values[at]
            if given[at] and value is not None:
                values[at] = f(value)
        return values

    def _expand(self, values: dict[str, Any]) -> tuple[str, list[Any]]:
        """IN (…) has as many places as its list has items: expanded once for each length."""
        compiled = self._element_compiled
        for name in self._lists:
            values[name] = list(values[name])
        lengths = tuple([len(values[name]) for name in self._lists])
        known = self._expanded.get(lengths)
        if known is not None:
            sql, places = known
            items = [(values[name] if at < 0 else values[name][at], f) for name, at, f in places]
            return sql, [f(value) if f else value for value, f in items]
        state = compiled._process_parameters_for_postcompile(dict(values))
        processors: dict[str, Any] = {**dict(self.binds), **{k: v for k, v in (state.processors or {}).items() if callable(v)}}
        item_of = {item: (name, at) for name, items in state.parameter_expansion.items() for at, item in enumerate(items)}
        order = [(*item_of.get(name, (name, -1)), processors.get(name)) for name in state.positiontup or ()]
        plain = all(len(state.parameter_expansion.get(name, ())) == len(values[name]) for name in self._lists)
        if plain and not compiled.literal_execute_params:
            if len(self._expanded) >= KEPT_LENGTHS:
                self._expanded.clear()
            self._expanded[lengths] = (state.statement, order)
        out = []
        for name in state.positiontup or ():
            value = state.additional_parameters.get(name, values.get(name))
            f = processors.get(name)
            out.append(f(value) if f else value)
        return state.statement, out

    def converted(self, row: Sequence[Any]) -> tuple[Any, ...]:
        values = list(row)
        for i, f in self.results:
            value = values[i]
            if value is not None:
                values[i] = f(value)
        return tuple(values)


def _columns(compiled: SQLCompiler) -> Sequence[Any]:
    return [entry[2][0] if entry[2] and hasattr(entry[2][0], "type") else _Typed(entry[3]) for entry in compiled._result_columns]


class _Typed:
    def __init__(self, kind: Any) -> None:
        self.type = kind
