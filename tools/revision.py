#!/usr/bin/env python3
"""Write the next revision of a service's tables: what its metadata have that its history has not.

    .venv/bin/python tools/revision.py compute/cell server_tags      →  src/kilonova/compute/store/migrations/cell/0002_server_tags.py
    .venv/bin/python tools/revision.py --first image                  0001 anew, from nothing (only before it was released)

The history is run on SQLite in memory and compared with the metadata. Read what comes out: it may only add.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.migration import MigrationContext
from alembic.operations import Operations

from kilonova.core.db.schema import History
from kilonova.core.db.statements import Json

SOURCE = Path(__file__).resolve().parent.parent / "src"


def history_of(name: str) -> History:
    service, _, side = name.partition("/")
    package = f"kilonova.{service}.store.migrations" + (f".{side}" if side else "")
    found: History = importlib.import_module(package).HISTORY
    return found


def render(kind: str, item: Any, context: Any) -> Any:
    """JSON is text to a revision, which must not change when a struct does."""
    return "sa.Text()" if kind == "type" and isinstance(item, Json) else False


def difference(history: History, *, first: bool) -> str:
    """The body of `upgrade`."""
    with sa.create_engine("sqlite://").connect() as connection:
        context = MigrationContext.configure(connection, opts={"target_metadata": history.metadata, "compare_type": True})
        if not first:
            with Operations.context(context):
                for _, name in history.revisions():
                    importlib.import_module(f"{history.package}.{name}").upgrade()
        changes = produce_migrations(context, history.metadata)
        assert changes.upgrade_ops is not None
        return str(render_python_code(changes.upgrade_ops, render_item=render))


def main(arguments: list[str]) -> int:
    first = arguments[:1] == ["--first"]
    arguments = arguments[first:]
    if len(arguments) != (1 if first else 2):
        print(__doc__, file=sys.stderr)
        return 2
    history = history_of(arguments[0])
    number = 1 if first else len(history.revisions()) + 1
    name = "first" if first else arguments[1]
    body = difference(history, first=first)
    if body.strip() == "pass":
        print("nothing has changed")
        return 1
    body = "\n".join(line for line in body.splitlines() if "### commands" not in line and "# ### end" not in line)
    path = SOURCE / Path(*history.package.split(".")) / f"{number:04}_{name}.py"
    path.write_text(
        f'"""{name.replace("_", " ").capitalize()}."""\n\nimport sqlalchemy as sa\nfrom alembic import op\n\n\n'
        f"def upgrade() -> None:\n    {body.lstrip()}\n"
    )
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
