#!/usr/bin/env python3
"""The main job, step by step: start a cloud, boot a real VM in it with the unmodified `openstack` client, log in, remove everything.

Uses nothing of ours but `kilonova up`, `ssh`, `exec` and `down`; all else goes through the stock client of .venv-clients. Each
command is shown with its shortened result and its time. At the end snapshots of the machine and of the cloud, taken before and after,
are compared: network links, addresses, routes and namespaces, nftables rules, processes, files of instances, placement's allocations.

Environment: KILONOVA_PORT_OFFSET (added to every port), KILONOVA_DEMO_IGNORE (a regular expression; lines of the machine's snapshots
that match are left out, for a machine where others work on namespaces at the same time), NO_COLOR.
Exit status: 0 when every step succeeded and nothing was left behind; otherwise 1, and the failing command, its output and the place of the
logs are shown. The cloud is taken down in any case, also after Ctrl-C.
"""

import contextlib
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parent.parent
KILONOVA = os.environ.get("KILONOVA_BIN", str(TOP / ".venv" / "bin" / "kilonova"))
OPENSTACK = os.environ.get("OPENSTACK_BIN", str(TOP / ".venv-clients" / "bin" / "openstack"))
IMAGE = Path(os.environ.get("KILONOVA_DEMO_IMAGE", str(TOP / ".setup" / "cirros.qcow2")))
BOOT_TIMEOUT_S = 180  # a guest without KVM on a busy machine
POLL_S = 0.5
PATIENCE_S = float(os.environ.get("KILONOVA_DEMO_PATIENCE_S", "10"))  # for what is torn down to be gone
ADMIN, DEMO = "kilonova", "kilonova-demo"  # clouds in clouds.yaml
RUN_MARK = "KILONOVA_DEMO_RUN"  # in the environment of all that we start, so that leftovers can be recognised


class DemoError(Exception):
    """A step failed; the text says what was expected."""


@dataclass
class CommandFailed(DemoError):
    command: str
    code: int
    output: str


# ---------------------------------------------------------------- terminal


class Terminal:
    """Plain lines of text; colour and a right-hand column of times only where a person is looking."""

    def __init__(self) -> None:
        self.colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self.width = max(60, min(shutil.get_terminal_size((100, 24)).columns, 120))

    def style(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self.colour else text

    def line(self, text: str = "") -> None:
        print(text, flush=True)

    def title(self, text: str) -> None:
        self.line(self.style("1", text))

    def step(self, number: int, text: str) -> None:
        self.line()
        self.line(self.style("1;36", f" {number} ") + " " + self.style("1", text))

    def command(self, text: str) -> None:
        """The command, before it runs, on as many lines as it needs; `took` completes the last."""
        lines = textwrap.wrap(text, self.width - 16, break_long_words=False, break_on_hyphens=False)
        print("    " + self.style("2", "$ ") + " \\\n        ".join(lines), end="", flush=True)
        self.column = (6 if len(lines) == 1 else 8) + len(lines[-1])

    def took(self, seconds: float) -> None:
        self.line(" " * max(1, self.width - self.column - 8) + self.style("2", f"{seconds:6.1f} s"))

    def result(self, text: str, most: int = 8) -> None:
        """The first lines of a result, none wider than the screen."""
        lines = [x.rstrip() for x in text.strip("\n").splitlines()]
        for shown in lines[:most]:
            cut = shown if len(shown) <= self.width - 6 else shown[: self.width - 7] + "…"
            self.line("      " + self.style("2", cut))
        if len(lines) > most:
            self.line("      " + self.style("2", f"… {len(lines) - most} more lines"))

    def fact(self, text: str) -> None:
        self.line("    " + self.style("32", "✓") + " " + text)

    def problem(self, text: str) -> None:
        self.line("    " + self.style("31", "✗") + " " + text)


def whole(output: str) -> str:
    """The JSON document in a client's output (warnings may stand before it)."""
    found = re.search(r"^[\[{].*", output, re.S | re.M)
    if not found:
        raise DemoError(f"the client's answer holds no JSON: {output[:200]!r}")
    return found.group()


def table(rows: list[dict[str, Any]], columns: list[str]) -> str:
    cells = [columns] + [[str(row.get(c, "")) for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)


# ---------------------------------------------------------------- what is on this machine


def listing(*command: str) -> list[str]:
    """Lines that a system tool prints; a tool that is missing is a failure, not an empty list."""
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        raise CommandFailed(shlex.join(command), found.returncode, found.stdout + found.stderr)
    return [line.rstrip() for line in found.stdout.splitlines() if line.strip()]


def network_namespaces() -> list[str]:
    return sorted(line.split()[0] for line in listing("ip", "netns", "list"))


def links(namespace: str | None = None) -> list[str]:
    """Name and hardware address of each link (their state and counters may change by themselves)."""
    inside = ["-n", namespace] if namespace else []
    found = json.loads("\n".join(listing("ip", *inside, "-json", "link", "show")) or "[]")
    return sorted(f"{link['ifname']} {link.get('address', '')}".strip() for link in found)


def our_processes(mark: str, state: str) -> list[str]:
    """Processes started by this run: by a mark in their environment, or by the state directory on their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        if folder.name == str(os.getpid()):
            continue
        with contextlib.suppress(OSError):
            arguments = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            environment = (folder / "environ").read_bytes()
            if arguments and (f"{RUN_MARK}={mark}".encode() in environment or (state and state in arguments)):
                found.append(f"{folder.name} {arguments[:120]}")
    return sorted(found)


Snapshot = dict[str, list[str]]


def machine_snapshot(mark: str, state: str) -> Snapshot:
    """What is outside of the cloud: must be the same before `up` and after `down`."""
    ignored = re.compile(os.environ.get("KILONOVA_DEMO_IGNORE") or r"\Z\A.")
    taken = {
        "links": links(),
        "addresses": [re.sub(r"(valid|preferred)_lft \S+", "", line) for line in listing("ip", "-o", "addr", "show")],
        "routes": listing("ip", "route", "show", "table", "all"),
        "namespaces": network_namespaces(),
        "nftables": listing("nft", "--stateless", "list", "ruleset"),
    }
    kept = {name: [line for line in lines if not ignored.search(line)] for name, lines in taken.items()}
    return {**kept, "processes": our_processes(mark, state)}


def cloud_snapshot(state: Path, before: Snapshot, allocations: list[str]) -> Snapshot:
    """What is inside of the cloud: must be the same before the first resource is made and after the last is deleted."""
    own = [name for name in network_namespaces() if name not in before["namespaces"]]
    instances = state / "instances"
    files = [p.relative_to(state).as_posix() for p in instances.rglob("*") if p.is_file()] if instances.is_dir() else []
    return {
        "namespaces of the cloud": own,
        "links in them": [f"{name}: {link}" for name in own for link in links(name)],
        # base images are a cache, kept on purpose
        "instance files": sorted(f for f in files if not f.startswith("instances/_base")),
        "placement allocations": allocations,
    }


def differences(before: Snapshot, after: Snapshot) -> list[str]:
    found = []
    for name, old in before.items():
        new = after.get(name, [])
        found += [f"{name}: left behind: {line}" for line in (Counter(new) - Counter(old)).elements()]
        found += [f"{name}: gone: {line}" for line in (Counter(old) - Counter(new)).elements()]
    return found


# ---------------------------------------------------------------- the demo


@dataclass
class Demo:
    terminal: Terminal
    scratch: Path
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    state: Path | None = None
    up_tried: bool = False
    step_times_s: dict[str, float] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)

    # ---- running commands

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
        kept[RUN_MARK] = self.mark
        if self.state:
            kept["OS_CLIENT_CONFIG_FILE"] = str(self.state / "clouds.yaml")
        return kept

    def execute(self, command: list[str], timeout_s: float) -> tuple[int, str]:
        """Exit status and output. Through a file, not a pipe: what a command leaves running may hold its end open."""
        with tempfile.TemporaryFile(dir=self.scratch) as out:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=self.environment(), process_group=0
            )
            late = ""
            try:
                code = process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                code, late = 124, f"\n(no answer within {timeout_s:.0f} s)"
            finally:
                if process.poll() is None:  # too late or interrupted: gently first, so that it can clean up after itself
                    os.killpg(process.pid, signal.SIGTERM)
                    try:
                        process.wait(5)
                    except subprocess.TimeoutExpired:
                        os.killpg(process.pid, signal.SIGKILL)
                        process.wait()
            out.seek(0)
            return code, out.read().decode(errors="replace") + late

    def run(self, *command: str, show: int = 0, timeout_s: float = 120) -> str:
        """Show a command, run it, show its time and the first `show` lines of what it said."""
        shown = shlex.join([Path(command[0]).name, *command[1:]]).replace(str(self.scratch), "$TMP").replace(str(TOP) + "/", "")
        self.terminal.command(shown)
        started = time.monotonic()
        code, output = self.execute(list(command), timeout_s)
        self.terminal.took(time.monotonic() - started)
        if code != 0:
            raise CommandFailed(shown, code, output)
        if show:
            self.terminal.result(output, show)
        return output

    def openstack(self, *arguments: str, cloud: str = DEMO, show: int = 0) -> str:
        return self.run(OPENSTACK, "--os-cloud", cloud, *arguments, show=show)

    def ask(self, *arguments: str, cloud: str = DEMO) -> Any:
        """A command whose answer is needed as data; shown like any other."""
        return json.loads(whole(self.openstack(*arguments, "-f", "json", cloud=cloud)))

    def quietly(self, *command: str) -> tuple[int, str]:
        """For polling: the caller shows what came of it."""
        return self.execute(list(command), 60)

    def poll(self, shown: str, look: Callable[[], str | None], timeout_s: float, wanted: str) -> str:
        """Look until there is an answer; one line on the terminal for all the looks."""
        self.terminal.command(shown)
        started = time.monotonic()
        while True:
            answer = look()
            if answer is not None:
                self.terminal.took(time.monotonic() - started)
                return answer
            if time.monotonic() - started > timeout_s:
                self.terminal.took(time.monotonic() - started)
                raise DemoError(f"{wanted} did not come within {timeout_s:.0f} s")
            time.sleep(POLL_S)

    def kilonova(self, verb: str, *arguments: str, timeout_s: float = 120) -> str:
        return self.run(KILONOVA, verb, "--state", str(self.state), *arguments, timeout_s=timeout_s)

    def expect(self, condition: bool, fact: str, otherwise: str) -> None:
        if not condition:
            raise DemoError(otherwise)
        self.terminal.fact(fact)

    @contextlib.contextmanager
    def step(self, number: int, text: str) -> Iterator[None]:
        self.terminal.step(number, text)
        started = time.monotonic()
        yield
        self.step_times_s[text] = time.monotonic() - started

    # ---- the seven steps

    def start_cloud(self) -> None:
        self.up_tried = True
        offset = os.environ.get("KILONOVA_PORT_OFFSET", "")
        output = self.run(KILONOVA, "up", "--ephemeral", "--detach", *(["--port-offset", offset] if offset else []))
        found = re.search(r"OS_CLIENT_CONFIG_FILE=['\"]?(\S+?)/clouds\.yaml", output)
        if not found:
            raise CommandFailed("kilonova up --ephemeral --detach (its answer names no clouds.yaml)", 0, output)
        self.state = Path(found.group(1))
        self.terminal.result(output, 16)
        catalog = self.ask("catalog", "list", cloud=ADMIN)
        self.terminal.result(table(catalog, ["Name", "Type"]))
        wanted = {"identity", "image", "placement", "compute", "network"}
        missing = sorted(wanted - {row["Type"] for row in catalog})
        self.expect(not missing, f"{len(catalog)} services in the catalog", f"the catalog lacks {', '.join(missing)}")
        services = self.ask("compute", "service", "list", cloud=ADMIN)
        self.terminal.result(table(services, ["Binary", "Host", "Zone", "Status", "State"]))
        down = ", ".join(row["Binary"] for row in services if row["State"] != "up")
        self.expect(
            bool(services) and not down, "all compute services are up", f"compute services that are down: {down or 'there are none'}"
        )
        hypervisors = self.ask("hypervisor", "list", cloud=ADMIN)
        self.terminal.result(table(hypervisors, ["Hypervisor Hostname", "Hypervisor Type", "State"]))
        up = [row for row in hypervisors if row.get("State") == "up"]
        self.expect(bool(up), f"{len(up)} hypervisor up", "no hypervisor is up")

    def upload_image(self) -> None:
        size_mb = IMAGE.stat().st_size / 1e6
        made = self.ask("image", "create", "--disk-format", "qcow2", "--container-format", "bare", "--file", str(IMAGE), "cirros")
        status = made["status"]
        self.expect(status == "active", f"image {made['id']} is active, {size_mb:.1f} MB", f"the image is {status}, not active")
        copy = self.scratch / "copy.qcow2"
        self.openstack("image", "save", "--file", str(copy), "cirros")  # the client checks the hash that the cloud gave
        same = copy.read_bytes() == IMAGE.read_bytes()
        self.expect(same, "downloaded again: every byte is the same", "the downloaded image differs from the file")
        copy.unlink()

    def make_keypair_and_flavor(self) -> None:
        key = self.scratch / "key"
        made = self.ask("keypair", "create", "--private-key", str(key), "demo-key")
        key.chmod(0o600)
        self.terminal.fact(f"key pair with fingerprint {made['fingerprint']}")
        self.openstack("flavor", "create", "--ram", "128", "--disk", "1", "--vcpus", "1", "tiny", cloud=ADMIN)
        seen = any(flavor["Name"] == "tiny" for flavor in self.ask("flavor", "list"))
        self.expect(seen, "flavor tiny: 128 MB, 1 GB, 1 CPU", "the demo project does not see flavor tiny")

    def make_network(self) -> None:
        self.openstack("network", "create", "demo-net")
        self.openstack("subnet", "create", "--network", "demo-net", "--subnet-range", "10.1.0.0/24", "demo-subnet")
        self.openstack("router", "create", "demo-router")
        self.openstack("router", "set", "--external-gateway", "public", "demo-router")
        self.openstack("router", "add", "subnet", "demo-router", "demo-subnet")
        self.openstack("security", "group", "rule", "create", "--protocol", "icmp", "default")
        self.openstack("security", "group", "rule", "create", "--protocol", "tcp", "--dst-port", "22", "default")
        router = self.ask("router", "show", "demo-router")
        gateway = router.get("external_gateway_info") or {}
        addresses = [a["ip_address"] for a in gateway.get("external_fixed_ips", [])]
        self.expect(bool(addresses), f"router to the outside through {', '.join(addresses)}", "the router has no address on network public")

    def boot_server(self) -> None:
        started = time.monotonic()
        wanted = ["--image", "cirros", "--flavor", "tiny", "--network", "demo-net", "--key-name", "demo-key"]
        made = self.ask("server", "create", "--wait", *wanted, "demo-server")
        self.facts["create --wait"] = f"{time.monotonic() - started:.1f} s"
        status = made["status"]
        self.expect(status == "ACTIVE", f"server {made['id']} is ACTIVE", f"the server is {status}: {made.get('fault', '')}")
        self.facts["server"] = made["id"]
        server = self.ask("server", "show", "demo-server")
        shown = {k: server.get(k) for k in ("name", "status", "addresses", "flavor", "image", "OS-EXT-STS:power_state", "created")}
        self.terminal.result("\n".join(f"{name:<24}{value}" for name, value in shown.items()))
        command = f"openstack --os-cloud {DEMO} console log show demo-server"
        log = self.poll(command, self.console_with_login, BOOT_TIMEOUT_S, "the login prompt")
        told = [line for line in log.splitlines() if line.startswith(("===", "dhcp:", "ds:")) or "login:" in line]
        self.terminal.result("\n".join(told), 10)
        self.facts["boot to login"] = f"{time.monotonic() - started:.1f} s"
        self.terminal.fact(f"login prompt {self.facts['boot to login']} after the request")

    def console_with_login(self) -> str | None:
        code, log = self.quietly(OPENSTACK, "--os-cloud", DEMO, "console", "log", "show", "demo-server")
        return log if code == 0 and re.search(r"^\S+ login:", log.replace("\r", ""), re.M) else None

    def log_in(self) -> None:
        floating_ip = self.ask("floating", "ip", "create", "public")["floating_ip_address"]
        self.openstack("server", "add", "floating", "ip", "demo-server", floating_ip)
        self.facts["floating IP"] = floating_ip
        key = str(self.scratch / "key")
        login = [KILONOVA, "ssh", "--state", str(self.state), "demo-server", "-i", key, "-l", "cirros", "--"]
        shown = "kilonova ssh demo-server -i $TMP/key -l cirros -- hostname"
        last: list[str] = []

        def try_login() -> str | None:
            code, output = self.quietly(*login, "hostname")
            last[:] = [output]
            return output if code == 0 else None

        try:
            name = self.poll(shown, try_login, 60, "the SSH login").strip().splitlines()[-1]
        except DemoError as error:
            raise CommandFailed(shown, 1, f"{error}; the last answer was:\n{''.join(last)}") from None
        self.expect(name == "demo-server", f"logged in to {name} at {floating_ip}", f"hostname answered {name!r}, not demo-server")
        question = "wget -q -O - http://169.254.169.254/openstack/latest/meta_data.json"
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes"]
        answer = self.run(
            KILONOVA, "exec", "--state", str(self.state), "--", "ssh", "-i", key, *options, f"cirros@{floating_ip}", question, timeout_s=60
        )
        instance = json.loads(whole(answer))["uuid"]
        server = self.facts["server"]
        self.expect(instance == server, f"the guest reads its own id {instance}", f"the guest reads id {instance}, but it is {server}")

    def stop_start_reboot_delete(self) -> None:
        self.openstack("server", "stop", "demo-server")
        self.wait_for_status("SHUTOFF")
        self.openstack("server", "start", "demo-server")
        self.wait_for_status("ACTIVE")
        self.openstack("server", "reboot", "--hard", "--wait", "demo-server")
        self.openstack("server", "delete", "--wait", "demo-server")
        self.openstack("floating", "ip", "delete", self.facts["floating IP"])
        self.openstack("router", "remove", "subnet", "demo-router", "demo-subnet")
        self.openstack("router", "delete", "demo-router")
        self.openstack("network", "delete", "demo-net")
        self.openstack("image", "delete", "cirros")
        self.openstack("keypair", "delete", "demo-key")
        self.openstack("flavor", "delete", "tiny", cloud=ADMIN)

    def wait_for_status(self, status: str) -> None:
        arguments = ["--os-cloud", DEMO, "server", "show", "demo-server", "-f", "value", "-c", "status"]

        def look() -> str | None:
            code, output = self.quietly(OPENSTACK, *arguments)
            if output.strip() == "ERROR":
                raise CommandFailed(shlex.join(["openstack", *arguments]), code, output)
            return output if code == 0 and output.strip() == status else None

        self.poll(shlex.join(["openstack", *arguments]), look, 90, f"status {status}")
        self.terminal.fact(f"the server is {status}")

    def allocations(self) -> list[str]:
        """Placement's usages, provider by provider, and the consumers behind them."""
        found = []
        for provider in self.ask("resource", "provider", "list", cloud=ADMIN):
            shown = self.ask("resource", "provider", "show", "--allocations", provider["uuid"], cloud=ADMIN)
            found += [f"{provider['name']}: {json.dumps(shown.get('allocations'), sort_keys=True)}"]
        return found

    # ---- the whole

    def go(self) -> None:
        machine = machine_snapshot(self.mark, "")
        with self.step(1, "Start a cloud"):
            self.start_cloud()
            assert self.state
            inside = cloud_snapshot(self.state, machine, self.allocations())
        with self.step(2, "Upload an image"):
            self.upload_image()
        with self.step(3, "Make a key pair and a flavor"):
            self.make_keypair_and_flavor()
        with self.step(4, "Make a network with a router to the outside"):
            self.make_network()
        with self.step(5, "Boot a server"):
            self.boot_server()
        with self.step(6, "Log in to it through a floating IP"):
            self.log_in()
        with self.step(7, "Stop, start, reboot, delete, and take the cloud down"):
            self.stop_start_reboot_delete()
            self.compare("cloud", inside, lambda: cloud_snapshot(self.state or Path(), machine, self.allocations()))
            state = str(self.state)
            self.kilonova("down", "--destroy")
            self.compare("machine", machine, lambda: machine_snapshot(self.mark, state))
            self.expect(not Path(state).exists(), "the state directory is gone", f"the state directory {state} is still there")
            self.state = None

    def compare(self, what: str, before: Snapshot, look: Callable[[], Snapshot]) -> None:
        """Equal at once, or soon after: what is being torn down may need a moment."""
        started = time.monotonic()
        while found := differences(before, look()):
            if time.monotonic() - started > PATIENCE_S:
                for line in found:
                    self.terminal.problem(line)
                raise DemoError(f"the {what} is not as it was before ({len(found)} differences)")
            time.sleep(POLL_S)
        counts = ", ".join(f"{len(lines)} {name}" for name, lines in before.items())
        self.terminal.fact(f"the {what} is as it was before: {counts}")

    def keep_logs(self) -> Path | None:
        """The log folder of an ephemeral cloud is forgotten with it: copy it away before."""
        if not (self.state and (self.state / "log").is_dir()):
            return None
        kept = Path(tempfile.mkdtemp(prefix="kilonova-demo-log-"))
        shutil.copytree(self.state / "log", kept, dirs_exist_ok=True, ignore_dangling_symlinks=True)
        return kept

    def clean_up(self) -> None:
        """Whatever happened: no cloud and no process of this run stays."""
        state = str(self.state or "")
        if self.state and self.state.exists():
            code, output = self.execute([KILONOVA, "down", "--state", state, "--destroy"], 60)
            if code != 0:
                self.terminal.problem(f"`kilonova down --state {state} --destroy` failed: {output.strip()[-300:]}")
        if self.up_tried:
            for line in our_processes(self.mark, state):
                self.terminal.problem(f"ending a process that was left behind: {line}")
                with contextlib.suppress(OSError):
                    os.kill(int(line.split()[0]), signal.SIGKILL)

    def summary(self, total_s: float) -> None:
        self.terminal.line()
        for text, seconds in self.step_times_s.items():
            self.terminal.line(f"    {text:<56}{seconds:6.1f} s")
        self.terminal.line(self.terminal.style("1", f"    {'All of it':<56}{total_s:6.1f} s"))
        times = ", ".join(f"{name} {self.facts[name]}" for name in ("create --wait", "boot to login") if name in self.facts)
        self.terminal.line(self.terminal.style("2", f"    of which {times}"))


def report(terminal: Terminal, error: BaseException, logs: Path | None) -> None:
    if isinstance(error, KeyboardInterrupt):
        terminal.line()
        terminal.problem("interrupted; taking the cloud down")
        return
    if isinstance(error, CommandFailed):
        terminal.problem(f"failed with exit status {error.code}: {error.command}")
        for line in error.output.strip().splitlines()[-40:]:
            terminal.line("      " + line)
    else:
        terminal.problem(str(error))
    terminal.line(f"      logs: {logs or 'none were written'}")


def main() -> int:
    for program in (KILONOVA, OPENSTACK, str(IMAGE)):
        if not Path(program).exists():
            print(f"demo: {program} is not there; run `make demo`, which sets everything up first", file=sys.stderr)
            return 1
    if os.geteuid() != 0:
        print("demo: a real VM on a real network needs root; run `sudo make demo`", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    terminal = Terminal()
    terminal.title("Kilonova: an OpenStack cloud on this machine, used through the unmodified openstack client")
    started, failed = time.monotonic(), False
    with tempfile.TemporaryDirectory(prefix="kilonova-demo-") as scratch:
        demo = Demo(terminal, Path(scratch))
        try:
            demo.go()
        except (DemoError, OSError, ValueError, KeyError, KeyboardInterrupt) as error:
            failed = True
            logs = demo.keep_logs()
            report(terminal, error, logs)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not interrupt the cleaning-up
            demo.clean_up()
        if failed:
            terminal.line(terminal.style("1;31", "\nThe demo failed; what it made has been removed."))
            return 1
        demo.summary(time.monotonic() - started)
    terminal.line(terminal.style("1;32", "\nEverything worked, and nothing was left behind."))
    return 0


if __name__ == "__main__":
    sys.exit(main())
