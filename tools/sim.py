"""Simulate a whole cloud under faults for many seeds: `tools/sim.py --seeds 1000 --minutes 10`, or one: `--seed 7`.

Each seed runs in a forked child, so that it can neither be influenced by another nor leave memory behind. One seed prints the digest of its
event log as the last line. With --write, a line with the count, the commit and the failures is appended to docs/simulated-hours.md; an
interrupt (SIGINT, SIGTERM) ends the run after the seeds that are under way, and the line names only what was run.
"""

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from kilonova.testing import ordeal

ROOT = Path(__file__).resolve().parents[1]
LEDGER = ROOT / "docs" / "simulated-hours.md"
PATIENCE_S = 300
"""A seed that takes longer hangs."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulate a whole cloud under seeded faults.")
    parser.add_argument("--seed", type=int, help="this one only, in this process; its log goes to --log")
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--minutes", type=float, default=ordeal.MINUTES, help="simulated minutes of faults for each seed (a rest follows)")
    parser.add_argument("--jobs", type=int, default=1, help="side by side")
    parser.add_argument("--log", type=Path, help="write the event log of a single seed there")
    parser.add_argument("--write", action="store_true", help="append a line to docs/simulated-hours.md")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--several", action="store_true", default=None, help="a cloud of several processes, whatever the seed says")
    shape.add_argument("--one", action="store_false", dest="several", help="a cloud of one process, whatever the seed says")
    asked = parser.parse_args()
    if asked.seed is not None:
        return single(asked.seed, asked.minutes, asked.log, several=asked.several)
    seeds = range(asked.first, asked.first + asked.seeds)
    return many(seeds, asked.minutes, asked.jobs, write=asked.write, several=asked.several)


def single(seed: int, minutes: float, log: Path | None, *, several: bool | None) -> int:
    began = time.process_time()
    result = ordeal.run(seed, minutes, several=several)
    if log is not None:
        log.write_text("\n".join(result.log) + "\n")
    answers = " ".join(f"{status}:{count}" for status, count in result.statuses.items())
    faults = " ".join(f"{name.replace(' ', '-')}:{count}" for name, count in result.faults.items())
    print(f"seed {seed}: {result.simulated_s / 60:.1f} simulated minutes, {result.lives} lives, {time.process_time() - began:.1f} s of CPU")
    print(f"{result.requests} requests: {answers}")
    print(f"{sum(result.faults.values())} faults: {faults}")
    for failure in result.failures:
        print(f"FAILED: {failure}")
    print(f"commit {commit()}")
    print(result.digest)
    return 1 if result.failures else 0


def many(seeds: range, minutes: float, jobs: int, *, write: bool, several: bool | None) -> int:
    began, at = time.monotonic(), commit()
    children: dict[int, tuple[int, int, float]] = {}
    waiting = list(seeds)[::-1]
    failed: dict[int, list[str]] = {}
    simulated_s = cpu_s = 0.0
    requests = faults = done = of_several = 0
    ending: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: ending.append(number))
    while children or (waiting and not ending):
        while waiting and not ending and len(children) < jobs:
            seed = waiting.pop()
            pipe, pid = _forked(seed, minutes, several)
            children[pipe] = (pid, seed, time.monotonic())
        ready, _, _ = select.select(list(children), [], [], 1.0)
        late = [pipe for pipe, (_, _, at) in children.items() if time.monotonic() - at > PATIENCE_S]
        for pipe in {*ready, *late}:
            pid, seed, _ = children.pop(pipe)
            if pipe in late:
                os.kill(pid, signal.SIGKILL)
            found = _read(pipe)
            os.waitpid(pid, 0)
            done += 1
            of_several += ordeal.several_processes(seed) if several is None else several
            simulated_s += found.get("simulated_s", 0.0)
            cpu_s += found.get("cpu_s", 0.0)
            requests += found.get("requests", 0)
            faults += found.get("faults", 0)
            if found["failures"]:
                failed[seed] = found["failures"]
                print(f"seed {seed} failed: {found['failures'][0][:400]}", flush=True)
                again = f"tools/sim.py --seed {seed} --minutes {minutes:g}{_shape(several)} --log /tmp/sim.log"
                print(f"  again: .venv/bin/python {again}   (commit {at})")
            if done % 50 == 0:
                print(
                    f"{done} seeds, {len(failed)} failed, {simulated_s / 3600:.1f} h simulated, {cpu_s / done:.1f} s of CPU each",
                    flush=True,
                )
    took = time.monotonic() - began
    print(
        f"{done} seeds of {minutes:g} minutes: {simulated_s / 3600:.1f} h simulated in {took:.0f} s, {requests} requests, {faults} faults, "
        f"{len(failed)} failed{': ' + ' '.join(map(str, sorted(failed))) if failed else ''}"
    )
    if write and done:
        _ledger(at, seeds[:done], of_several, minutes, simulated_s, requests, faults, sorted(failed))
    return 1 if failed else 0


def _shape(several: bool | None) -> str:
    return "" if several is None else " --several" if several else " --one"


def _forked(seed: int, minutes: float, several: bool | None) -> tuple[int, int]:
    """(pipe, process) of a child that simulates and writes what it found as JSON."""
    mine, theirs = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.close(theirs)
        return mine, pid
    os.close(mine)
    try:
        os.write(theirs, json.dumps(_simulated(seed, minutes, several)).encode()[:60_000])
    finally:
        os._exit(0)


def _simulated(seed: int, minutes: float, several: bool | None) -> dict[str, Any]:
    began = time.process_time()
    try:
        result = ordeal.run(seed, minutes, several=several)
    except BaseException as error:
        return {"failures": [f"the simulation itself: {type(error).__name__}: {error}"]}
    return {
        "failures": [failure[:500] for failure in result.failures[:20]],
        "simulated_s": result.simulated_s,
        "cpu_s": time.process_time() - began,
        "requests": result.requests,
        "faults": sum(result.faults.values()),
    }


def _read(pipe: int) -> dict[str, Any]:
    data = b""
    while piece := os.read(pipe, 65536):
        data += piece
    os.close(pipe)
    return json.loads(data) if data else {"failures": ["it died or hung without a word"]}


def commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    changed = subprocess.run(["git", "status", "--porcelain", "src"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    return f"{found or 'unknown'}{' with changes' if changed else ''}"


def _ledger(
    at: str, seeds: range, of_several: int, minutes: float, simulated_s: float, requests: int, faults: int, failed: list[int]
) -> None:
    """at: the commit when the run began. Seeds are begun in their order, and those that were begun are ended."""
    date = time.strftime("%Y-%m-%d", time.gmtime())
    which = f"{seeds.start}–{seeds.stop - 1}"
    bad = " ".join(map(str, failed)) or "none"
    with LEDGER.open("a") as file:
        file.write(
            f"| {date} | {at} | {which} | {len(seeds)} | {of_several} | {minutes:g} "
            f"| {simulated_s / 3600:.1f} | {requests} | {faults} | {bad} |\n"
        )


if __name__ == "__main__":
    sys.exit(main())
