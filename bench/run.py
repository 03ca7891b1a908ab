"""The benchmarks: every row of the table "Speed and size", the cloud and its floor in turn, in the same run.

    make bench                            everything (some 20 minutes)
    make bench ONLY="boot reads"          some rows: start memory boot sustained reads tokens vm images
    .venv/bin/python bench/run.py --quick --runs 1 tokens

Prints a table and writes bench/out/<time>.json and bench/out/latest.json. Exit status 1 when a row could not be measured; a bar that is
missed is shown, and is no error. The rows start, memory and vm need root for the libvirt driver.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from cloud import TOP
from figures import Figure, table
from rows import ROWS, Bench, Skip

OUT = TOP / "bench" / "out"


def calibration_ms() -> float:
    """CPU time of a fixed loop, the least of three: two runs compare only where it agrees."""
    best = 1e9
    for _ in range(3):
        started, total = time.process_time(), 0
        for i in range(1_000_000):
            total += i * i % 7
        best = min(best, (time.process_time() - started) * 1e3)
    return round(best, 1)


def commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(TOP), *arguments], capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + (" with changes" if git("status", "--porcelain", "--", "src") else "")


def machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return {
        "cpus": os.cpu_count(),
        "memory_gib": memory,
        "system": platform.freedesktop_os_release()["PRETTY_NAME"],
        "python": platform.python_version(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all when left out")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small sizes: to see that it works, not to measure")
    parser.add_argument("--scratch", type=Path, help="folder for states and files (default: the system's temporary one)")
    given = parser.parse_args()
    unknown = [name for name in given.rows if name not in ROWS]
    if unknown:
        parser.error(f"there is no row {unknown[0]}; there are {', '.join(ROWS)}")
    document: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "arguments": sys.argv[1:],
        "rows": {},
    }
    figures: list[Figure] = []
    failed = False
    with tempfile.TemporaryDirectory(prefix="knb", dir=given.scratch) as scratch:
        bench = Bench(Path(scratch), given.runs, quick=given.quick)
        for name in given.rows or list(ROWS):
            print(f"{name}: {(ROWS[name].__doc__ or '').strip().partition(chr(10))[0]}", flush=True)
            row: dict[str, Any] = {"load_before": os.getloadavg()[0], "calibration_ms": calibration_ms()}
            started = time.monotonic()
            try:
                measured = ROWS[name](bench)
                figures += measured
                row["figures"] = measured
                print(table(measured), flush=True)
                for figure in measured:
                    print("".join(f"  {key}: {value}\n" for key, value in figure.notes.items()), end="", flush=True)
            except Skip as reason:
                row["skipped"] = str(reason)
                print(f"  Left out: {reason}.", flush=True)
            except Exception as error:
                failed = True
                row["failed"] = f"{type(error).__name__}: {error}"
                print(f"  Failed: {row['failed']}", flush=True)
            row["took_s"] = round(time.monotonic() - started, 1)
            document["rows"][name] = row
    if figures:
        print("\n" + table(figures))
    OUT.mkdir(exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(document))
    for file in (OUT / f"{document['at'].replace(':', '')[:17]}.json", OUT / "latest.json"):
        file.write_bytes(text)
    print(f"\n{OUT / 'latest.json'} holds every run.")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
