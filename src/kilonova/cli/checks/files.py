"""The state directory: who can read it, and whether the database is sound."""

import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

from kilonova.cli.checks import Finding, Subject

SECRETS = ("clouds.yaml", "admin-openrc", "demo-openrc", "kilonova.db", "kilonova.db-wal", "tls/key.pem")


def permissions(subject: Subject) -> Iterator[Finding]:
    if subject.state is None:
        return
    top = subject.state.path
    for path, wanted in [(top, 0o700), *((top / name, 0o600) for name in SECRETS)]:
        try:
            about = path.stat()
        except OSError:
            continue
        mode = stat.S_IMODE(about.st_mode)
        if about.st_uid != os.stat(top).st_uid:
            yield Finding(
                check="permissions",
                severity="error",
                sentence=f"{path} belongs to user {about.st_uid}, not to the cloud's owner.",
                hint="chown it.",
            )
        elif mode & 0o077:
            yield Finding(
                check="permissions",
                severity="error",
                sentence=f"{path} can be reached by others (mode {mode:o}).",
                hint=f"chmod {wanted:o} {path}",
                fix=lambda path=path, wanted=wanted: path.chmod(wanted),  # type: ignore[misc]
            )


def database(subject: Subject) -> Iterator[Finding]:
    if subject.state is None or not subject.state.database.exists():
        return
    sentences = quick_check(subject.state.database)
    for sentence in sentences[:5]:
        yield Finding(
            check="database",
            severity="error",
            sentence=f"The database {subject.state.database} is damaged: {sentence}.",
            hint="Stop the cloud, keep a copy, and restore a backup (or try sqlite3's .recover).",
        )


def quick_check(path: Path) -> list[str]:
    """What SQLite finds wrong; nothing when all is well. Reads only."""
    connection = None
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
        found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(5)")]
        found += [f"row {row[1]} of {row[0]} refers to nothing in {row[2]}" for row in connection.execute("PRAGMA foreign_key_check")]
    except sqlite3.DatabaseError as error:
        return [str(error)]
    finally:
        if connection is not None:
            connection.close()
    return [line for line in found if line != "ok"]


def credentials(subject: Subject) -> Iterator[Finding]:
    ours = subject.state is not None and "identity" in subject.state.read_json("run/ports.json")
    if subject.state is not None and ours and subject.running and subject.rest is None:
        yield Finding(
            check="credentials",
            severity="error",
            sentence=f"The administrator of {subject.state.clouds_yaml} cannot log in.",
            hint="If the password was changed, write the new one there.",
        )
