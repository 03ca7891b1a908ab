"""An earlier commit of this repository as a program of its own: its sources, and an environment whose packages are those of ours."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import msgspec

TOP = Path(__file__).resolve().parents[2]
COMMIT = "8c03b0d"
"""N−1. Move it forward when a release is made; never past a change of the wire or the tables that is to be tested."""
DRAINS = "1f6403d"
"""An N−1 that answers what it was asked before it ends. The one above does not: now and then a request finds its connection cut."""


class Release(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    python: str
    """The interpreter that has this release, and no other, as `kilonova`."""
    sources: Path


def ours() -> Release:
    return Release(name="N", python=sys.executable, sources=TOP)


def older(folder: Path, commit: str) -> Release:
    """Its tree and an environment with it, in `folder`. Nothing is downloaded."""
    sources, environment = folder / "sources", folder / "venv"
    sources.mkdir()
    archive = subprocess.run(["git", "-C", str(TOP), "archive", commit], capture_output=True, timeout=60, check=False)
    assert archive.returncode == 0, f"{commit}: {archive.stderr.decode()} (the whole history is needed)"
    subprocess.run(["tar", "-x", "-C", str(sources)], input=archive.stdout, timeout=60, check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], timeout=120, check=True)
    packages = next(environment.glob("lib/python3*/site-packages"))
    (packages / "older.pth").write_text(f"{sources / 'src'}\n{sysconfig.get_path('purelib')}\n")
    made = Release(name=commit, python=str(environment / "bin" / "python"), sources=sources)
    where = subprocess.run(
        [made.python, "-P", "-c", "import kilonova; print(kilonova.__file__)"], capture_output=True, text=True, timeout=60, check=True
    )
    assert where.stdout.startswith(str(sources)), where.stdout
    return made
