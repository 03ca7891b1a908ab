"""What goes wrong with a stand, at seeded moments. Each disaster begins, holds for a while, and is mended; the mending is part of it.

Up to three overlap when they touch different things: `touches` names machines, and "control" for what takes a part of the control plane's
common ground (a broker node, the database, a control node's cable), of which one at a time is survivable by design.
"""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from tests.probe.stand import Program, Stand

LEASE_S = 30.0
Story = Callable[[], Awaitable[None]]


class Disaster(NamedTuple):
    kind: str
    what: str
    touches: frozenset[str]
    run: Story


class Disasters:
    """`pause_s`: between two beginnings, least and most."""

    def __init__(
        self, stand: Stand, chance: random.Random, tell: Callable[[str], None], pause_s: tuple[float, float] = (1.0, 10.0)
    ) -> None:
        self.stand, self.chance, self.tell, self.pause_s = stand, chance, tell, pause_s
        self.longest_s = 60.0
        """No disaster holds for longer."""
        self.counts = Counter[str]()
        self.failed: list[str] = []
        self._busy: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        two = len(stand.controls) > 1
        self.kinds: list[tuple[int, Callable[[], Disaster]]] = [
            (4, lambda: self.kill("api")),
            (5, lambda: self.kill("conductor")),
            (5, lambda: self.kill("node-")),
            (3, lambda: self.sleep("conductor", (LEASE_S + 5, LEASE_S + 15))),
            (2, lambda: self.sleep("api", (3, 20))),
            (2, lambda: self.sleep("node-", (5, 40))),
            (3, self.cut_both),
            (3, self.cut_one_way),
            (3, self.unplug_node),
            (3, self.full_disk),
            (3, self.jump),
        ]
        if two:
            self.kinds += [
                (3, self.unplug_control),
                (3, self.kill_broker),
                (2, self.freeze_broker),
                (4, self.fail_over),
                (2, self.restart_database),
            ]

    async def run(self, until: float) -> None:
        """Until that moment of the monotonic clock; returns when all is mended."""
        while time.monotonic() < until:
            await asyncio.sleep(self.chance.uniform(*self.pause_s))
            disaster = self.next()
            if disaster is not None:
                task = asyncio.create_task(self._run(disaster))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        if self._tasks:
            await asyncio.gather(*self._tasks)

    def next(self) -> Disaster | None:
        """The first of a few that is possible beside those under way."""
        for _ in range(5):
            made = self.chance.choices([k for _, k in self.kinds], [w for w, _ in self.kinds])[0]()
            if len(self._tasks) < 3 and not any(self._busy[thing] for thing in made.touches):
                return made
        return None

    async def _run(self, disaster: Disaster) -> None:
        self.counts[disaster.kind] += 1
        self._busy.update(disaster.touches)
        began = time.monotonic()
        self.tell(f"{disaster.kind}: {disaster.what}")
        try:
            await disaster.run()
            if "control" in disaster.touches and len(self.stand.brokers) > 1:
                await self._heal_brokers()
        except Exception as error:
            self.failed.append(f"{disaster.kind}: {disaster.what}: {error!r}")
            self.tell(f"the disaster itself failed: {error!r}")
        finally:
            self._busy.subtract(disaster.touches)
        self.tell(f"  mended after {time.monotonic() - began:.1f} s: {disaster.what}")

    def length(self, least_s: float, most_s: float) -> float:
        return min(self.chance.uniform(least_s, most_s), self.longest_s)

    async def _heal_brokers(self) -> None:
        """What an operator does whose broker's nodes do not find together again: restart those that are not with the most."""
        brokers = self.stand.brokers
        for looks in range(1, 13):
            await asyncio.sleep(4)
            views = {machine: await asyncio.to_thread(broker.view) for machine, broker in brokers.items()}
            if len(set(views.values())) == 1 and next(iter(views.values())).endswith(",[]}") and views["c1"].count("@") == len(brokers):
                return
            if looks % 4:
                continue
            best = max(views, key=lambda machine: views[machine].partition("]")[0].count("@"))
            self.counts["broker split for good"] += 1
            self.tell(f"  the broker's nodes stay apart: {views}; all but {best} are restarted")
            for machine, broker in brokers.items():
                if machine != best:
                    await asyncio.to_thread(broker.kill)
                    broker.launch()
            for broker in brokers.values():
                await asyncio.to_thread(broker.wait)
        raise RuntimeError("the broker's nodes do not find together")

    # ---- processes

    def one(self, prefix: str) -> Program:
        return self.chance.choice(self.stand.of(prefix))

    def kill(self, prefix: str) -> Disaster:
        program, away_s = self.one(prefix), self.length(0.2, 12)

        async def run() -> None:
            program.end(signal.SIGKILL)
            await asyncio.sleep(away_s)
            await self.start_again(program)

        return Disaster(
            f"kill {prefix.rstrip('-')}", f"kill -9 {program.name}, back after {away_s:.1f} s", frozenset({program.machine}), run
        )

    async def start_again(self, program: Program) -> None:
        """A process that finds neither broker nor database gives up; whatever watches over it starts it again."""
        end = time.monotonic() + 120
        while True:
            program.start()
            while program.runs and not program.ready():  # noqa: ASYNC110
                await asyncio.sleep(0.2)
            if program.ready():
                return
            if time.monotonic() > end:
                raise RuntimeError(f"{program.name} does not start: {program.out.read_text(errors='replace')[-600:]}")
            await asyncio.sleep(2)

    def sleep(self, prefix: str, length_s: tuple[float, float]) -> Disaster:
        program, asleep_s = self.one(prefix), self.length(*length_s)

        async def run() -> None:
            program.send(signal.SIGSTOP)
            await asyncio.sleep(asleep_s)
            program.send(signal.SIGCONT)

        return Disaster(f"stop {prefix.rstrip('-')}", f"SIGSTOP {program.name} for {asleep_s:.0f} s", frozenset({program.machine}), run)

    def jump(self) -> Disaster:
        program = self.chance.choice(list(self.stand.programs.values()))
        ahead_s = self.chance.choice([-3600.0, -90.0, -5.0, 5.0, 40.0, 90.0, 7200.0])
        held_s = self.length(10, 40)

        async def run() -> None:
            program.jump(ahead_s)
            await asyncio.sleep(held_s)
            program.jump(0)

        what = f"clock of {program.name} {ahead_s:+.0f} s for {held_s:.0f} s"
        return Disaster("clock", what, frozenset({program.machine}), run)

    # ---- links

    def cut_both(self) -> Disaster:
        return self._cut(both=True)

    def cut_one_way(self) -> Disaster:
        return self._cut(both=False)

    def _cut(self, *, both: bool) -> Disaster:
        net, machines = self.stand.net, [*self.stand.controls, *self.stand.machines]
        control = self.chance.choice(self.stand.controls)
        other = self.chance.choice([machine for machine in machines if machine != control])
        one, two = (control, other) if self.chance.random() < 0.5 else (other, control)
        held_s = self.length(3, 30)

        async def run() -> None:
            net.cut(one, two)
            if both:
                net.cut(two, one)
            await asyncio.sleep(held_s)
            net.heal(one)
            net.heal(two)

        touches = {one, two, "control"} if other in self.stand.controls else {other}
        what = f"no packets from {one} to {two}{' nor back' if both else ''} for {held_s:.0f} s"
        return Disaster("cut both ways" if both else "cut one way", what, frozenset(touches), run)

    def unplug_node(self) -> Disaster:
        return self._unplug(self.chance.choice(self.stand.machines), frozenset())

    def unplug_control(self) -> Disaster:
        others = [machine for machine in self.stand.controls if machine != self.stand.primary_at]
        return self._unplug(self.chance.choice(others), frozenset({"control"}))

    def _unplug(self, machine: str, more: frozenset[str]) -> Disaster:
        held_s = self.length(3, 40)

        async def run() -> None:
            self.stand.net.plug(machine, out=True)
            await asyncio.sleep(held_s)
            self.stand.net.plug(machine, out=False)

        return Disaster("unplug", f"{machine} without network for {held_s:.0f} s", more | {machine}, run)

    # ---- disks, broker, database

    def full_disk(self) -> Disaster:
        program, held_s = self.one("node-"), self.length(5, 25)

        async def run() -> None:
            await asyncio.to_thread(program.fill_disk)
            await asyncio.sleep(held_s)
            program.free_disk()

        return Disaster("full disk", f"disk of {program.name} full for {held_s:.0f} s", frozenset({program.machine}), run)

    def kill_broker(self) -> Disaster:
        machine, away_s = self.chance.choice(self.stand.controls), self.length(0.5, 15)
        broker = self.stand.brokers[machine]

        async def run() -> None:
            await asyncio.to_thread(broker.kill)
            await asyncio.sleep(away_s)
            broker.launch()
            await asyncio.to_thread(broker.wait)
            await asyncio.sleep(5)

        return Disaster("kill broker", f"kill -9 broker of {machine}, back after {away_s:.0f} s", frozenset({machine, "control"}), run)

    def freeze_broker(self) -> Disaster:
        machine, held_s = self.chance.choice(self.stand.controls), self.length(3, 25)
        broker = self.stand.brokers[machine]

        async def run() -> None:
            broker.freeze()
            await asyncio.sleep(held_s)
            broker.thaw()
            await asyncio.sleep(5)

        return Disaster("stop broker", f"SIGSTOP broker of {machine} for {held_s:.0f} s", frozenset({machine, "control"}), run)

    def fail_over(self) -> Disaster:
        stand = self.stand
        old = stand.primary_at
        new = next(machine for machine in stand.controls[:2] if machine != old)
        decide_s = self.chance.uniform(0.5, 4)

        async def run() -> None:
            await asyncio.to_thread(stand.databases[old].kill)
            await asyncio.sleep(decide_s)
            await asyncio.to_thread(stand.databases[new].promote)
            stand.primary_at = new
            await asyncio.sleep(self.chance.uniform(2, 8))
            standby = await asyncio.to_thread(stand.copy_to, old)
            standby.start()
            await asyncio.to_thread(stand.databases[new].wait_for_standbys)

        touches = frozenset({"control", old, new})
        return Disaster("database fail-over", f"kill -9 the primary at {old}, promote {new} after {decide_s:.1f} s, rebuild", touches, run)

    def restart_database(self) -> Disaster:
        """It crashes and comes back by itself, before anybody has decided to promote the standby."""
        machine, away_s = self.stand.primary_at, self.length(0.5, 10)
        database = self.stand.databases[machine]

        async def run() -> None:
            await asyncio.to_thread(database.kill)
            await asyncio.sleep(away_s)
            database.start()

        touches = frozenset({"control", machine})
        return Disaster("database restart", f"kill -9 the primary at {machine}, back after {away_s:.1f} s", touches, run)
