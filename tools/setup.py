#!/usr/bin/python3
"""Set up a checkout on Debian: packages, virtual environments, the guest image.

    tools/setup.py [STEP …]        steps: packages venv guest (these by default), clients, tempest, peers

Needs nothing but Debian's python3. Each step looks first whether there is anything to do: packages and links by what is really
there, the slow rest by a stamp in .setup/ that holds a hash of its inputs. So it may be run at any time; with nothing to do it takes
a fraction of a second. Output of the programs it calls goes to .setup/log/; the end of it is shown when one of them fails.
"""

import compileall
import contextlib
import fcntl
import grp
import hashlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
STATE = TOP / ".setup"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kilonova"
PYTHON = "/usr/bin/python3"  # Debian's own: the libvirt bindings are built for it
EXTRAS = "network,migrations,rabbitmq,rest,postgresql,mysql,dev"
GUEST_IMAGE = STATE / "cirros.qcow2"

PACKAGES = {
    "python3-venv": "virtual environments",
    "git": "the tidy tests ask it which files are tracked",
    "ca-certificates": "package registries",
    "qemu-system-x86": "guests",
    "qemu-utils": "qemu-img",
    "libvirt0": "embedded libvirt",
    "libvirt-daemon-driver-qemu": "embedded libvirt: its QEMU driver (no daemon comes with it)",
    "python3-libvirt": "its Python bindings",
    "libnftables1": "firewall rules",
    "nftables": "the nft command, for people, tests and the demo's snapshots",
    "iproute2": "the ip command, likewise",
    "iputils-ping": "ping, for tests of the data plane",
    "procps": "ps and sysctl",
    "openssh-client": "ssh into guests",
    "busybox-static": "a DHCP client for tests",
    "e2fsprogs": "guest image: root file system",
    "dosfstools": "guest image: boot partition",
    "mtools": "guest image: files on it",
    "syslinux": "guest image: boot loader",
    "openssl": "guest image: password hash",
    "gcc": "libraries that tests and benchmarks load into processes: clocks that jump, disks that are slow",
    "libc6-dev": "likewise",
    "postgresql-15": "tests on PostgreSQL: they start servers of their own",
    "mariadb-server": "tests on MariaDB, likewise",
    "galera-4": "tests on a Galera cluster",
    "rsync": "how a Galera node gets its first copy",
    "rabbitmq-server": "a message broker for tests (they start their own; the package's service stays off)",
}


class SetupError(Exception):
    """Set-up cannot go on; the text is a sentence for the user."""


def say(step: str, text: str) -> None:
    print(f"setup: {step:<9} {text}", flush=True)


def fingerprint(*parts: str | bytes | Path) -> str:
    """A hash over texts, files and whole folders (names, modes and contents)."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            for path in sorted(p for p in (part.rglob("*") if part.is_dir() else [part]) if p.is_file()):
                digest.update(f"{path.relative_to(TOP)} {path.stat().st_mode:o}\0".encode() + path.read_bytes())
        else:
            digest.update(part if isinstance(part, bytes) else part.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def done(step: str, key: str) -> bool:
    stamp = STATE / f"{step}.stamp"
    return stamp.exists() and stamp.read_text() == key


def mark(step: str, key: str) -> None:
    (STATE / f"{step}.stamp").write_text(key)


def run(step: str, *command: str, environment: dict[str, str] | None = None, progress: Callable[[bytes], str] | None = None) -> None:
    """Run a command with its output in .setup/log/STEP.log and a sign of life every ten seconds."""
    log = STATE / "log" / f"{step}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    started, told = time.monotonic(), time.monotonic()
    with log.open("ab") as out:
        out.write(f"\n$ {' '.join(command)}\n".encode())
        out.flush()
        start = out.tell()
        process = subprocess.Popen(
            command, cwd=TOP, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}
        )
        try:
            while True:
                try:
                    code = process.wait(0.2)
                    break
                except subprocess.TimeoutExpired:
                    now = time.monotonic()
                    if now - told >= 10:
                        told = now
                        note = progress(log.read_bytes()[start:]) if progress else ""
                        say(step, f"… {now - started:.0f} s {note}".rstrip())
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if code:
        tail = "\n".join(log.read_bytes()[start:].decode(errors="replace").splitlines()[-25:])
        raise SetupError(f"`{' '.join(command[:4])} …` failed with exit status {code}; the end of {log.relative_to(TOP)}:\n{tail}")


# ---------------------------------------------------------------- Debian packages


def missing_packages() -> list[str]:
    if not shutil.which("dpkg-query"):
        raise SetupError("no dpkg-query here: this set-up is made for Debian 12. Install by hand what tools/setup.py lists in PACKAGES.")
    asked = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *PACKAGES], capture_output=True, text=True, check=False
    )
    present = {line.split()[0] for line in asked.stdout.splitlines() if line.endswith(" installed")}
    return [name for name in PACKAGES if name not in present]


@contextlib.contextmanager
def services_kept_off() -> Iterator[None]:
    """While packages are installed, a policy-rc.d keeps them from starting services (unless the machine has one already)."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink(missing_ok=True)


def apt_progress(log: bytes) -> str:
    unpacked, configured = log.count(b"\nUnpacking "), log.count(b"\nSetting up ")
    return f"({unpacked} unpacked, {configured} set up)" if unpacked else "(fetching)"


def apt_get(*arguments: str) -> None:
    environment = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", "NEEDRESTART_SUSPEND": "1"}
    run("packages", "apt-get", "-y", "-o", "DPkg::Lock::Timeout=300", *arguments, environment=environment, progress=apt_progress)


def set_up_packages() -> None:
    missing = missing_packages()
    if missing:
        if os.geteuid() != 0:
            names = " ".join(missing)
            raise SetupError(f"these Debian packages are missing and only root may install them: {names}. Run `make setup` as root.")
        started = time.monotonic()
        say("packages", f"installing {len(missing)}: {' '.join(missing)}")
        with services_kept_off():
            apt_get("update")
            apt_get("install", "--no-install-recommends", *missing)
        say("packages", f"installed in {time.monotonic() - started:.0f} s")
    ensure_libvirt_user()


def ensure_libvirt_user() -> None:
    """libvirt's QEMU driver looks up user and group `libvirt-qemu` before it reads its configuration, and gives up without them."""
    name = "libvirt-qemu"
    group, user = name in {g.gr_name for g in grp.getgrall()}, name in {u.pw_name for u in pwd.getpwall()}
    if (group and user) or os.geteuid() != 0:
        return  # an ordinary user can run the fake driver, which needs neither
    if not group:
        run("packages", "groupadd", "--system", name)
    if not user:
        run("packages", "useradd", "--system", "--gid", name, "--no-create-home", "--home-dir", "/", "--shell", "/usr/sbin/nologin", name)
    say("packages", f"user and group {name} made")


# ---------------------------------------------------------------- virtual environments


def python_version() -> str:
    return subprocess.run([PYTHON, "-c", "import sys; print(sys.version)"], capture_output=True, text=True, check=True).stdout.strip()


def make_venv(step: str, folder: Path) -> None:
    """An empty virtual environment, unless a usable one of the same Python stands at this place already."""
    config, pip = folder / "pyvenv.cfg", folder / "bin" / "pip"
    if pip.exists() and config.exists():
        same_python = f"version = {python_version().split()[0]}" in config.read_text()
        same_place = str(folder) in pip.read_text(errors="replace").split("\n", 1)[0]  # its scripts name the folder they were made in
        if same_python and same_place:
            return
    if folder.exists():
        shutil.rmtree(folder)
    run(step, PYTHON, "-m", "venv", str(folder))


def install(step: str, folder: Path, *arguments: str) -> None:
    run(step, str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", *arguments, progress=pip_progress)


def pip_progress(log: bytes) -> str:
    return "(installing)" if b"Installing collected" in log else f"({log.count(b'Collecting ')} packages looked up)"


def set_up_venv() -> None:
    venv, pins = TOP / ".venv", TOP / "constraints.txt"
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    inputs = json.dumps([project["project"], project["build-system"], EXTRAS], sort_keys=True)
    key = fingerprint(str(TOP), python_version(), inputs, pins)
    if not (done("venv", key) and (venv / "bin" / "python").exists()):
        started = time.monotonic()
        say("venv", f"installing kilonova and what it needs into {venv.name}")
        make_venv("venv", venv)
        install("venv", venv, "-c", str(pins), "-e", f"{TOP}[{EXTRAS}]")
        mark("venv", key)
        say("venv", f"ready in {time.monotonic() - started:.0f} s")
    link_libvirt(venv)
    compileall.compile_dir(str(TOP / "src" / "kilonova"), quiet=2)


def link_libvirt(venv: Path) -> None:
    """Debian's libvirt bindings, made visible in the venv: those of PyPI would have to be compiled."""
    source = Path("/usr/lib/python3/dist-packages")
    target = next((venv / "lib").glob("python3*")) / "site-packages"
    names = ["libvirt.py", "libvirt_qemu.py", "libvirtaio.py"]
    for path in [source / n for n in names] + sorted(source.glob("libvirtmod.*.so")) + sorted(source.glob("libvirtmod_qemu.*.so")):
        link = target / path.name
        if path.exists() and not (link.is_symlink() and link.readlink() == path):
            link.unlink(missing_ok=True)
            link.symlink_to(path)


def set_up_pinned_venv(step: str, folder: str, pins: str) -> None:
    """A venv that holds exactly the packages of a constraint file."""
    venv, file = TOP / folder, TOP / pins
    key = fingerprint(str(TOP), python_version(), file)
    if done(step, key) and (venv / "bin" / "python").exists():
        return
    started = time.monotonic()
    say(step, f"installing {pins} into {folder}")
    make_venv(step, venv)
    install(step, venv, "-r", str(file))
    mark(step, key)
    say(step, f"ready in {time.monotonic() - started:.0f} s")


# ---------------------------------------------------------------- the guest image


def set_up_guest() -> None:
    """The tiny guest in the cache folder, by a hash of what it is made from, and a link .setup/cirros.qcow2 to it."""
    key = fingerprint(*(TOP / "guest" / name for name in ("build-guest-image", "initrd-init", "rootfs")))
    image = CACHE / "guest" / key / "cirros.qcow2"
    if not image.exists():
        started = time.monotonic()
        say("guest", f"building the tiny guest image into {image}")
        image.parent.mkdir(parents=True, exist_ok=True)
        making = image.with_name("making.qcow2")
        run("guest", PYTHON, str(TOP / "guest" / "build-guest-image"), str(making), "--cache", str(CACHE / "guest" / "packages"))
        making.replace(image)
        say("guest", f"built in {time.monotonic() - started:.0f} s, {image.stat().st_size / 1e6:.1f} MB")
    if not (GUEST_IMAGE.is_symlink() and GUEST_IMAGE.readlink() == image):
        GUEST_IMAGE.unlink(missing_ok=True)
        GUEST_IMAGE.symlink_to(image)


STEPS: dict[str, Callable[[], None]] = {
    "packages": set_up_packages,
    "venv": set_up_venv,
    "guest": set_up_guest,
    "clients": lambda: set_up_pinned_venv("clients", ".venv-clients", "constraints-clients.txt"),
    "tempest": lambda: set_up_pinned_venv("tempest", ".venv-tempest", "constraints-tempest.txt"),
    "peers": lambda: set_up_pinned_venv("peers", ".venv-peers", "constraints-peers.txt"),
}


def main(arguments: list[str]) -> int:
    if "-h" in arguments or "--help" in arguments:
        print(__doc__)
        return 0
    unknown = [a for a in arguments if a not in STEPS]
    if unknown:
        print(f"setup: no step {unknown[0]!r}; there are: {' '.join(STEPS)}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    STATE.mkdir(exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("lock", "another set-up of this checkout is running; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            for name in arguments or ["packages", "venv", "guest"]:
                STEPS[name]()
        except SetupError as error:
            print(f"setup: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("setup: interrupted", file=sys.stderr)
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
