"""python -m tests.probe [--minutes N] [--seed N] [--rate N]: a cloud on eight machines (namespaces), and what befalls it.

Three control nodes (APIs, conductor, broker node each; a database and its synchronous standby on two of them), five hypervisors. Clients
boot, stop, start, reboot and delete throughout; disasters (`disasters.py`) come at moments that the seed chooses. Afterwards everything
must come to rest within a bound, and then the truth is looked at (`truth.py`). The last line says whether it holds; the exit status too.
A seed gives the same disasters at the same moments, not the same interleaving. Needs root; takes a minute more than it is told.
"""

import argparse
import asyncio
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.probe.disasters import Disasters
from tests.probe.load import Load
from tests.probe.stand import Stand, standing
from tests.probe.truth import Truth, errors, mistakes

REST_S = 300.0
BOOT_S = 30.0
LOOK_S = 5.0


class Probe:
    def __init__(self, stand: Stand, seed: int, rate: float) -> None:
        self.stand, self.seed = stand, seed
        self.began = time.monotonic()
        self.load = Load(stand, random.Random(seed), rate)
        self.disasters = Disasters(stand, random.Random(seed + 1), self.tell)
        self.truth = Truth(stand)
        self.broken: list[str] = []
        self.rest_s = REST_S
        """Within so long after the last request all must have come to rest."""
        self.stopped = False

    def tell(self, what: str) -> None:
        print(f"{time.monotonic() - self.began:7.1f} {what}", flush=True)

    async def run(self, minutes: float, calm_s: float = 5.0) -> bool:
        """Whether the truth holds. calm_s: requests go on so long after the last disaster."""
        try:
            await self.load.prepare()
            await self._hosts_are_there()
            self.tell(f"the cloud is there: {len(self.stand.programs)} processes; {minutes:g} minutes, seed {self.seed}")
            loading = asyncio.create_task(self.load.run())
            watching = asyncio.create_task(self._watch())
            await self.disasters.run(time.monotonic() + minutes * 60)
            self.tell("no more disasters")
            await asyncio.sleep(calm_s)
            self.load.stopped = self.stopped = True
            await loading
            await watching
            if await self._rest():
                await self._hosts_boot()
            await self._report()
        finally:
            await self.truth.close()
        return not self.broken

    async def _hosts_are_there(self) -> None:
        wanted = sum(1 for _ in self.stand.of("node-")) * self.stand.hosts
        for _ in range(60):
            answer = await self.load.sure("compute", "GET", "/v2.1/os-services?binary=nova-compute")
            if sum(service["state"] == "up" for service in answer["services"]) == wanted:
                return
            await asyncio.sleep(1)
        raise RuntimeError("the hypervisors do not come up")

    async def _watch(self) -> None:
        """What must be true at every moment."""
        while not self.stopped:
            await asyncio.sleep(LOOK_S)
            for found in self.truth.twice():
                if found not in self.broken:
                    self.tell(found)
                    self.broken.append(found)

    async def _hosts_boot(self) -> None:
        """Everything is mended: each host boots a server, at once, and then all is at rest again."""
        answer = await self.load.sure("compute", "GET", "/v2.1/os-services?binary=nova-compute")
        hosts = [service["host"] for service in answer["services"]]
        found = await asyncio.gather(*(self.load.boot_on(host, BOOT_S) for host in hosts))
        ended = zip(hosts, found, strict=True)
        bad = [f"{host} boots no server when all is over: {status or 'not accepted'}" for host, status in ended if status != "ACTIVE"]
        self.broken += bad
        self.tell(f"{len(hosts) - len(bad)} of {len(hosts)} hosts boot a server")
        await self._rest()

    async def _rest(self) -> bool:
        began = time.monotonic()
        left: list[str] = []
        while time.monotonic() < began + self.rest_s:
            before = left
            try:
                left = await self.truth.at_rest(self.load.told)
            except Exception as error:  # a connection of the time before the last fail-over
                left = [repr(error)]
            if not left:
                self.tell(f"at rest {time.monotonic() - began:.1f} s after the last request")
                return True
            if left != before:
                more = f", and {len(left) - 3} more" if len(left) > 3 else ""
                self.tell(f"not at rest yet: {'; '.join(left[:3])}{more}")
            await asyncio.sleep(2)
        self.broken += left
        return False

    async def _report(self) -> None:
        load = self.load
        made = sum(asked.accepted for asked in load.told.servers.values())
        deleted = sum(asked.deleting == "told" for asked in load.told.servers.values())
        self.tell(f"{load.requests} requests: {dict(sorted(load.answers.items()))}; {made} servers accepted, {deleted} deletes")
        self.tell(f"{sum(self.disasters.counts.values())} disasters: {dict(sorted(self.disasters.counts.items()))}")
        self.tell(f"servers left: {dict(await self.truth.statuses())}")
        for reason, count in (await self.truth.faults()).most_common():
            self.tell(f"  fault, {count} times: {reason}")
        for (message, error), count in errors(self.stand).most_common(25):
            self.tell(f"  error line, {count} times: {message}: {error}")
        self.broken += [*load.wrong, *self.disasters.failed, *mistakes(self.stand)]
        ended = [program.name for program in self.stand.programs.values() if not program.runs]
        self.broken += [f"{name} has ended" for name in ended]


def commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def keep(stand: Stand, where: Path) -> None:
    """The logs of a run that failed."""
    where.mkdir(parents=True, exist_ok=True)
    for program in stand.programs.values():
        (where / f"{program.name}.log").write_text(program.log())
        (where / f"{program.name}.out").write_text(program.out.read_text(errors="replace"))
    for machine, broker in stand.brokers.items():
        for file in sorted((broker.folder / "log").glob("*.log")):
            (where / f"broker-{machine}-{file.name}").write_text(file.read_text(errors="replace"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=3, help="requests a second")
    parser.add_argument("--keep", type=Path, help="a folder for the logs of a run that fails")
    given = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("make probe needs root: its machines are network namespaces.")
    with standing(Stand(controls=3, hypervisors=5, hosts=3), enter=True) as stand:
        probe = Probe(stand, given.seed, given.rate)
        good = asyncio.run(probe.run(given.minutes))
        if not good:
            for what, count in Counter(probe.broken).most_common(40):
                print(f"BROKEN {count}x: {what}")
            for program in stand.programs.values():
                print(f"---- {program.name}\n{program.log()[-1500:]}")
            if given.keep:
                keep(stand, given.keep)
    print(f"seed {given.seed}, commit {commit()}, {given.minutes:g} minutes: {'the truth holds' if good else 'BROKEN'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
