"""Clients of a simulated cloud: what they ask for, and what they were told.

`Told` outlives the processes: it is what the cloud must keep true. A request whose answer never came (the process died, or a 5xx)
promises nothing: its server may exist or not, and its delete may have happened or not.
"""

import random
from collections.abc import Awaitable, Callable
from typing import Any

from kilonova.testing.asgi import Client, Response
from kilonova.testing.cloud import OCTETS, WholeCloud
from kilonova.testing.faults import FaultRuntime

ABSENT = "00000000-0000-4000-8000-00000000dead"
PEOPLE = ("admin", "demo")
MOST = {"servers": 40, "ports": 12, "networks": 6, "images": 8, "floating_ips": 8, "routers": 4, "groups": 6}
ACTIONS = {
    "stop": {"os-stop": None},
    "start": {"os-start": None},
    "soft reboot": {"reboot": {"type": "SOFT"}},
    "hard reboot": {"reboot": {"type": "HARD"}},
}


class Asked:
    """One server that a client asked for. deleting: "" nobody asked, "asked" without an answer, "told" by a 204."""

    def __init__(self, name: str, who: str) -> None:
        self.name = name
        self.who = who
        self.id = ""
        self.accepted = False
        self.deleting = ""


class Told:
    def __init__(self) -> None:
        self.servers: dict[str, Asked] = {}
        self.things: dict[str, dict[str, str]] = {kind: {} for kind in MOST}
        """kind -> id -> whose it is: what was made and whose delete nobody has asked for. It must be there."""
        self.copies: dict[str, None] = {}
        """Images that a createImage promised: gone when the copying failed, and never without bytes."""
        self.filled: dict[str, None] = {}
        """Images whose upload was answered with success."""
        self.broken: list[str] = []
        """Promises that an answer broke."""
        self.statuses: dict[int, int] = {}
        self.requests = 0
        self.made = 0


class Workload:
    """One life's clients. `begin` starts requests at random moments until `stop`."""

    def __init__(self, cloud: WholeCloud, runtime: FaultRuntime, told: Told, chance: random.Random, ids: dict[str, str]) -> None:
        self.cloud = cloud
        self.runtime = runtime
        self.told = told
        self.chance = chance
        self.ids = ids
        self.clients: dict[tuple[str, str], Client] = {}
        self.others: dict[tuple[str, str], Client] = {}
        """The same service of another process; a client uses either."""
        self.verbs: list[tuple[int, Callable[[str], Awaitable[None]]]] = [
            (14, self.create_server), (9, self.delete_server), (12, self.act), (3, self.rebuild), (2, self.snapshot), (3, self.upload),
            (2, self.delete_image), (3, self.create_network), (2, self.delete_network), (3, self.create_port), (2, self.delete_port),
            (3, self.create_floating_ip), (3, self.move_floating_ip), (2, self.delete_floating_ip), (2, self.create_router),
            (2, self.join_router), (2, self.delete_router), (2, self.create_group), (2, self.add_rule), (2, self.delete_group),
            (1, self.change_quota), (9, self.look), (3, self.bad_request),
        ]  # fmt: skip

    async def log_in(self) -> None:
        for who in PEOPLE:
            token = await self.cloud.token(who)
            for service in ("compute", "network", "image"):
                self.clients[(who, service)] = self.cloud.client(service, token)

    async def one(self) -> None:
        """One client's next wish."""
        weights = [weight for weight, _ in self.verbs]
        _, verb = self.chance.choices(self.verbs, weights)[0]
        await verb(self.chance.choice(PEOPLE))

    # ---- asking

    async def ask(self, who: str, service: str, method: str, path: str, body: Any = None, **options: Any) -> Response:
        self.told.requests += 1
        client = self.clients[(who, service)]
        if (who, service) in self.others and self.chance.random() < 0.5:
            client = self.others[(who, service)]
        reply = await client.request(method, path, body, **options)
        self.told.statuses[reply.status] = self.told.statuses.get(reply.status, 0) + 1
        if reply.status == 401:
            await self.log_in()
        self.runtime.note(f"{who} {method} {service}{path.partition('?')[0]} {reply.status}")
        return reply

    def name(self, kind: str) -> str:
        self.told.made += 1
        return f"{kind}-{self.told.made}"

    def some(self, kind: str, who: str) -> str | None:
        found = [ident for ident, owner in self.told.things[kind].items() if owner == who]
        return self.chance.choice(found) if found else None

    def full(self, kind: str) -> bool:
        return len(self.told.things[kind]) >= MOST[kind]

    def learned(self, kind: str, who: str, reply: Response, key: str = "") -> str | None:
        if reply.status not in (200, 201, 202):
            return None
        ident = str((reply.json[key] if key else reply.json)["id"])
        self.told.things[kind][ident] = who
        return ident

    async def delete(self, kind: str, who: str, service: str, path: str) -> None:
        ident = self.some(kind, who)
        if ident is None:
            return
        del self.told.things[kind][ident]
        reply = await self.ask(who, service, "DELETE", f"{path}/{ident}")
        if reply.status == 404 and ident not in self.told.copies:
            self.told.broken.append(f"one of the {kind}, {ident}, was made, nobody asked for its delete, and it is not found")
        elif reply.status in (400, 403, 409):
            self.told.things[kind][ident] = who

    # ---- servers

    def server(self, who: str) -> Asked | None:
        found = [s for s in self.told.servers.values() if s.who == who and s.id and not s.deleting]
        return self.chance.choice(found) if found else None

    async def create_server(self, who: str) -> None:
        if sum(1 for s in self.told.servers.values() if s.deleting != "told") >= MOST["servers"]:
            await self.delete_server(who)
            return
        count = self.chance.choice((1, 1, 1, 1, 2, 3))
        name = self.name("server")
        networks: Any = [{"uuid": self.ids["network"]}]
        port = self.some("ports", who)
        dice = self.chance.random()
        if dice < 0.1:
            networks = "none"
        elif dice < 0.25 and port is not None and count == 1:
            networks = [{"port": port}]
        elif dice < 0.4 and self.some("networks", who):
            networks = [{"uuid": self.some("networks", who)}]
        image = self.chance.choice((self.ids["image"], self.some("images", who) or self.ids["image"]))
        body: dict[str, Any] = {"name": name, "imageRef": image, "flavorRef": self.ids["flavor"], "networks": networks}
        if count > 1:
            body |= {"min_count": count, "max_count": count}
        asked = [Asked(n, who) for n in ([name] if count == 1 else [f"{name}-{i + 1}" for i in range(count)])]
        self.told.servers.update({a.name: a for a in asked})
        reply = await self.ask(who, "compute", "POST", "/v2.1/servers", {"server": body})
        if reply.status == 202:
            for each in asked:
                each.accepted = True
            asked[0].id = reply.json["server"]["id"]
        elif reply.status < 500:
            for each in asked:
                self.told.servers.pop(each.name, None)

    async def delete_server(self, who: str) -> None:
        server = self.server(who)
        if server is None:
            return
        server.deleting = "asked"
        reply = await self.ask(who, "compute", "DELETE", f"/v2.1/servers/{server.id}")
        if reply.status == 204:
            server.deleting = "told"
        elif reply.status == 404:
            self.told.broken.append(f"server {server.name} {server.id} was accepted, nobody asked for its delete, and it is not found")
        elif reply.status < 500:
            server.deleting = ""

    async def act(self, who: str) -> None:
        server = self.server(who)
        if server is not None:
            verb = self.chance.choice(sorted(ACTIONS))
            await self.ask(who, "compute", "POST", f"/v2.1/servers/{server.id}/action", ACTIONS[verb])

    async def rebuild(self, who: str) -> None:
        server = self.server(who)
        if server is not None:
            image = self.chance.choice((self.ids["image"], self.some("images", who) or self.ids["image"]))
            await self.ask(who, "compute", "POST", f"/v2.1/servers/{server.id}/action", {"rebuild": {"imageRef": image}})

    async def snapshot(self, who: str) -> None:
        server = self.server(who)
        if server is None or self.full("images"):
            return
        body = {"createImage": {"name": self.name("copy")}}
        reply = await self.ask(who, "compute", "POST", f"/v2.1/servers/{server.id}/action", body)
        if reply.status == 202:
            self.told.things["images"][reply.json["image_id"]] = who
            self.told.copies[reply.json["image_id"]] = None

    async def look(self, who: str) -> None:
        service, path = self.chance.choice(
            (
                ("compute", "/v2.1/servers/detail"),
                ("compute", "/v2.1/limits"),
                ("compute", "/v2.1/servers"),
                ("network", "/v2.0/ports"),
                ("network", "/v2.0/networks"),
                ("network", "/v2.0/floatingips"),
                ("image", "/v2/images"),
            )
        )
        reply = await self.ask(who, service, "GET", path)
        if path == "/v2.1/servers/detail" and reply.status == 200:
            for shown in reply.json["servers"]:
                known = self.told.servers.get(shown["name"])
                if known is not None and not known.id:
                    known.id, known.accepted = shown["id"], True

    async def bad_request(self, who: str) -> None:
        body: dict[str, Any] = {"name": "bad", "imageRef": self.ids["image"], "flavorRef": self.ids["flavor"], "networks": "none"}
        wrong = self.chance.choice(
            ({"flavorRef": "nothing"}, {"imageRef": ABSENT}, {"networks": [{"uuid": ABSENT}]}, {"min_count": 0}, {"max_count": -1})
        )
        reply = await self.ask(who, "compute", "POST", "/v2.1/servers", {"server": {**body, **wrong}})
        if reply.status < 400:
            self.told.broken.append(f"a bad request was accepted: {wrong}")
        reply = await self.ask(who, "compute", "POST", f"/v2.1/servers/{ABSENT}/action", {"os-stop": None})
        if reply.status < 400:
            self.told.broken.append("a server that is not there was stopped")

    async def boots(self) -> str:
        """Whether a server can be made and deleted, as on the first day; else what happened instead."""
        quota = {"quota_set": {"instances": -1, "cores": -1}}
        await self.ask("admin", "compute", "PUT", f"/v2.1/os-quota-sets/{self.ids['project admin']}", quota)
        body = {"imageRef": self.ids["image"], "flavorRef": self.ids["flavor"], "networks": [{"uuid": self.ids["network"]}]}
        asked = Asked(self.name("server"), "admin")
        self.told.servers[asked.name] = asked
        reply = await self.ask("admin", "compute", "POST", "/v2.1/servers", {"server": {"name": asked.name, **body}})
        if reply.status != 202:
            return f"a create is refused: {reply}"
        asked.id, asked.accepted = reply.json["server"]["id"], True
        for _ in range(60):
            await self.runtime.sleep(1.0)
            shown = (await self.ask("admin", "compute", "GET", f"/v2.1/servers/{asked.id}")).json["server"]
            if shown["status"] in ("ACTIVE", "ERROR"):
                break
        return "" if shown["status"] == "ACTIVE" else f"a new server is {shown['status']}: {shown.get('fault')}"

    async def delete_all(self) -> None:
        """Every server that anybody has."""
        found = (await self.ask("admin", "compute", "GET", "/v2.1/servers?all_tenants=1")).json["servers"]
        for shown in found:
            asked = self.told.servers.get(shown["name"])
            reply = await self.ask("admin", "compute", "DELETE", f"/v2.1/servers/{shown['id']}")
            if asked is not None:
                asked.deleting = "told" if reply.status == 204 else "asked"

    async def change_quota(self, who: str) -> None:
        project = self.ids[f"project {who}"]
        body = {"quota_set": {"instances": self.chance.randint(8, 40), "cores": 200}}
        await self.ask("admin", "compute", "PUT", f"/v2.1/os-quota-sets/{project}", body)

    # ---- images

    async def upload(self, who: str) -> None:
        if self.full("images"):
            await self.delete_image(who)
            return
        body = {"name": self.name("image"), "disk_format": "raw", "container_format": "bare"}
        image = self.learned("images", who, await self.ask(who, "image", "POST", "/v2/images", body))
        if image is not None:
            data = bytes(self.chance.choice((0, 512, 70_000)))
            put = await self.ask(who, "image", "PUT", f"/v2/images/{image}/file", raw=data, headers=OCTETS)
            if put.status == 204:
                self.told.filled[image] = None

    async def delete_image(self, who: str) -> None:
        await self.delete("images", who, "image", "/v2/images")

    # ---- networks

    async def create_network(self, who: str) -> None:
        if self.full("networks"):
            await self.delete_network(who)
            return
        network = self.learned(
            "networks", who, await self.ask(who, "network", "POST", "/v2.0/networks", {"network": {"name": self.name("net")}}), "network"
        )
        if network is not None:
            subnet = {
                "network_id": network,
                "ip_version": 4,
                "cidr": f"10.{self.chance.randint(1, 250)}.{self.chance.randint(0, 255)}.0/24",
            }
            await self.ask(who, "network", "POST", "/v2.0/subnets", {"subnet": subnet})

    async def delete_network(self, who: str) -> None:
        await self.delete("networks", who, "network", "/v2.0/networks")

    async def create_port(self, who: str) -> None:
        network = self.some("networks", who)
        if network is not None and not self.full("ports"):
            body = {"port": {"network_id": network, "name": self.name("port")}}
            self.learned("ports", who, await self.ask(who, "network", "POST", "/v2.0/ports", body), "port")

    async def delete_port(self, who: str) -> None:
        await self.delete("ports", who, "network", "/v2.0/ports")

    async def create_floating_ip(self, who: str) -> None:
        if not self.full("floating_ips"):
            body = {"floatingip": {"floating_network_id": self.ids["public"]}}
            self.learned("floating_ips", who, await self.ask(who, "network", "POST", "/v2.0/floatingips", body), "floatingip")

    async def move_floating_ip(self, who: str) -> None:
        floating_ip = self.some("floating_ips", who)
        if floating_ip is None:
            return
        ports = await self.ask(who, "network", "GET", "/v2.0/ports")
        found = [p["id"] for p in ports.json["ports"] if p["device_owner"].startswith("compute:")] if ports.status == 200 else []
        port = self.chance.choice([*found, None]) if found else None
        await self.ask(who, "network", "PUT", f"/v2.0/floatingips/{floating_ip}", {"floatingip": {"port_id": port}})

    async def delete_floating_ip(self, who: str) -> None:
        await self.delete("floating_ips", who, "network", "/v2.0/floatingips")

    async def create_router(self, who: str) -> None:
        if not self.full("routers"):
            body = {"router": {"name": self.name("router"), "external_gateway_info": {"network_id": self.ids["public"]}}}
            self.learned("routers", who, await self.ask(who, "network", "POST", "/v2.0/routers", body), "router")

    async def join_router(self, who: str) -> None:
        router, network = self.some("routers", who), self.some("networks", who)
        if router is None or network is None:
            return
        shown = await self.ask(who, "network", "GET", f"/v2.0/networks/{network}")
        subnets = shown.json["network"]["subnets"] if shown.status == 200 else []
        if subnets:
            verb = self.chance.choice(("add_router_interface", "add_router_interface", "remove_router_interface"))
            await self.ask(who, "network", "PUT", f"/v2.0/routers/{router}/{verb}", {"subnet_id": subnets[0]})

    async def delete_router(self, who: str) -> None:
        await self.delete("routers", who, "network", "/v2.0/routers")

    async def create_group(self, who: str) -> None:
        if not self.full("groups"):
            body = {"security_group": {"name": self.name("group")}}
            self.learned("groups", who, await self.ask(who, "network", "POST", "/v2.0/security-groups", body), "security_group")

    async def add_rule(self, who: str) -> None:
        group = self.some("groups", who)
        if group is None:
            return
        port = self.chance.randint(1, 60000)
        rule = {"security_group_id": group, "direction": "ingress", "protocol": "tcp", "port_range_min": port, "port_range_max": port}
        if self.chance.random() < 0.3:
            rule["remote_group_id"] = group
        await self.ask(who, "network", "POST", "/v2.0/security-group-rules", {"security_group_rule": rule})
        ports = self.some("ports", who)
        if ports is not None:
            await self.ask(who, "network", "PUT", f"/v2.0/ports/{ports}", {"port": {"security_groups": [group]}})

    async def delete_group(self, who: str) -> None:
        await self.delete("groups", who, "network", "/v2.0/security-groups")
