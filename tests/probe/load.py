"""Clients of a cloud whose parts die: boots, stops, starts, reboots and deletes at random moments through any of the API processes.

What was asked and promised is kept in the books that the simulation's invariants read (`Told`).
"""

import asyncio
import random
import time
from collections import Counter
from typing import Any

from kilonova.plan import PORTS
from kilonova.testing.workload import Asked, Told
from tests.cluster.cluster import PASSWORD
from tests.probe.http import Answer, Broken, Http
from tests.probe.stand import Stand

MOST_SERVERS = 60
TIMEOUT_S = 60.0
MOST_WAITING = 60
"""Requests under way: clients lose patience before there are more."""
PROJECT = "admin"


class Load:
    def __init__(self, stand: Stand, chance: random.Random, rate: float) -> None:
        """rate: requests a second."""
        self.stand, self.chance, self.rate = stand, chance, rate
        self.token = ""
        self.ids: dict[str, str] = {}
        self.told = Told()
        self.wrong: list[str] = []
        """Answers that are never right: 500, or a promise broken."""
        self.answers = Counter[str]()
        self.requests = 0
        self.stopped = False
        self._tasks: set[asyncio.Task[None]] = set()

    # ---- asking

    async def ask(self, service: str, method: str, path: str, body: Any = None, *, control: str = "") -> Answer | None:
        """One request to one of the API processes; None: no answer, so nobody knows."""
        control = control or self.chance.choice(self.stand.controls)
        http = Http(self.token, TIMEOUT_S, self.stand.net.address(control))
        self.requests += 1
        try:
            answer = await http(method, PORTS[service], path, body, OpenStack_API_Version="compute 2.90")
        except Broken:
            self.answers["none"] += 1
            return None
        finally:
            http.close()
        self.answers[str(answer.status)] += 1
        if answer.status == 500:
            self.wrong.append(f"{method} {path} at {control}: {answer.body[:400]!r} {answer.headers.get('x-openstack-request-id')}")
        if answer.status == 401:
            await self.log_in()
        return answer

    async def sure(self, service: str, method: str, path: str, body: Any = None) -> Any:
        """The first that answers well; asks again for a minute."""
        for _ in range(60):
            answer = await self.ask(service, method, path, body)
            if answer is not None and answer.status < 300:
                return answer.json if answer.body else None
            await asyncio.sleep(1)
        raise RuntimeError(f"{method} {path}: {answer.status if answer else None} {answer.body[:500] if answer else b''!r}")

    async def log_in(self) -> None:
        user = {"name": "admin", "password": PASSWORD, "domain": {"id": "default"}}
        scope = {"project": {"name": PROJECT, "domain": {"id": "default"}}}
        body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
        control = self.chance.choice(self.stand.controls)
        http = Http("", TIMEOUT_S, self.stand.net.address(control))
        try:
            answer = await http("POST", PORTS["identity"], "/v3/auth/tokens", body)
            if answer.status == 201:
                self.token = answer.headers["x-subject-token"]
        except Broken:
            pass
        finally:
            http.close()

    async def prepare(self) -> None:
        while not self.token:
            await self.log_in()
        image = await self.sure("image", "POST", "/v2/images", {"name": "probe", "disk_format": "raw", "container_format": "bare"})
        await self.sure("image", "PUT", f"/v2/images/{image['id']}/file", bytes(4096))
        flavor = {"flavor": {"id": "nano", "name": "nano", "ram": 64, "vcpus": 1, "disk": 1}}
        await self.sure("compute", "POST", "/v2.1/flavors", flavor)
        network = await self.sure("network", "POST", "/v2.0/networks", {"network": {"name": "probe"}})
        subnet = {"subnet": {"network_id": network["network"]["id"], "ip_version": 4, "cidr": "10.33.0.0/16"}}
        await self.sure("network", "POST", "/v2.0/subnets", subnet)
        self.ids = {"image": image["id"], "network": network["network"]["id"]}

    # ---- what clients do

    async def run(self) -> None:
        """Until `stopped`; returns when the last answer has come."""
        while not self.stopped:
            await asyncio.sleep(self.chance.expovariate(self.rate))
            if len(self._tasks) < MOST_WAITING:
                task = asyncio.create_task(self._one())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        if self._tasks:
            await asyncio.gather(*self._tasks)

    def living(self) -> list[Asked]:
        return [asked for asked in self.told.servers.values() if asked.accepted and not asked.deleting]

    async def _one(self) -> None:
        living = self.living()
        what = self.chance.choices(["create", "delete", "act", "look"], [6, 4 if len(living) > 10 else 1, 5, 2])[0]
        if what == "create" and len(living) >= MOST_SERVERS:
            what = "delete"
        if what == "create" or not living:
            await self._create()
        elif what == "delete":
            await self._delete(self.chance.choice(living))
        elif what == "act":
            await self._act(self.chance.choice(living))
        else:
            await self.ask("compute", "GET", "/v2.1/servers/detail?limit=20")

    async def boot_on(self, host: str, limit_s: float) -> str:
        """The server's status, when it is ACTIVE or in ERROR, or after `limit_s`; "" if it was not accepted."""
        asked = await self._create(availability_zone=f"nova:{host}")
        end = time.monotonic() + limit_s
        status = ""
        while asked.accepted and status not in ("ACTIVE", "ERROR") and time.monotonic() < end:
            answer = await self.ask("compute", "GET", f"/v2.1/servers/{asked.id}")
            if answer is not None and answer.status == 200:
                status = str(answer.json["server"]["status"])
            await asyncio.sleep(0.2)
        return status

    async def _create(self, **more: Any) -> Asked:
        asked = Asked(f"s{len(self.told.servers)}", PROJECT)
        self.told.servers[asked.name] = asked
        server = {
            "name": asked.name, "imageRef": self.ids["image"], "flavorRef": "nano", "networks": [{"uuid": self.ids["network"]}], **more
        }  # fmt: skip
        answer = await self.ask("compute", "POST", "/v2.1/servers", {"server": server})
        if answer is not None and answer.status == 202:
            asked.id, asked.accepted = answer.json["server"]["id"], True
        return asked

    async def _delete(self, asked: Asked) -> None:
        asked.deleting = "asked"
        answer = await self.ask("compute", "DELETE", f"/v2.1/servers/{asked.id}")
        if answer is not None and answer.status == 204:
            asked.deleting = "told"
        elif answer is not None and answer.status == 404:
            self.wrong.append(f"server {asked.id} was accepted, its delete was not, and it is gone")

    async def _act(self, asked: Asked) -> None:
        action: dict[str, Any] = self.chance.choice(
            [{"os-stop": None}, {"os-start": None}, {"os-start": None}, {"reboot": {"type": "HARD"}}]
        )
        answer = await self.ask("compute", "POST", f"/v2.1/servers/{asked.id}/action", action)
        if answer is not None and answer.status == 404 and not asked.deleting:
            self.wrong.append(f"server {asked.id} was accepted and is not found")
