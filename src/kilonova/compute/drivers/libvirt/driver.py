"""The verbs, on libvirt.

Domains are transient: libvirt forgets a guest when it stops, and everything that is needed to start it again is the record in its folder.
Verbs on one guest take turns. What a guest does by itself comes from libvirt's events: those that a verb caused are known and dropped.
"""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from kilonova.compute.drivers import (
    DriverError,
    FetchImage,
    GuestCrashed,
    GuestEvent,
    GuestPaused,
    GuestSpec,
    GuestState,
    GuestStopped,
    HostResources,
    OnEvent,
    PowerState,
    StoreImage,
)
from kilonova.compute.drivers.libvirt import acceleration, console, domain, files, snapshot, threads
from kilonova.compute.drivers.libvirt.config import LibvirtConfig, short_alias
from kilonova.compute.drivers.libvirt.connection import Connection
from kilonova.compute.drivers.libvirt.images import Base, BaseCache
from kilonova.compute.drivers.libvirt.reaper import Reaper

log = logging.getLogger(__name__)

# libvirt's numbers (stable ABI), so that this file can be read and tested without the bindings.
_STATES = {1: PowerState.RUNNING, 2: PowerState.RUNNING, 3: PowerState.PAUSED, 4: PowerState.SHUTDOWN, 5: PowerState.SHUTDOWN,
           6: PowerState.CRASHED, 7: PowerState.SUSPENDED}  # fmt: skip
_SUSPENDED, _STOPPED, _CRASHED = 3, 5, 8
_STOPPED_BADLY = (2, 5)  # crashed, failed
_PAUSED = "The hypervisor paused the guest after an internal error."
_PAUSE_REASONS = {2: "A disk error on the host paused the guest.", 3: "The guest's watchdog paused it."}
_ACTIVE = 1
_SHUTDOWN_ACPI = 1
_PRESS_AGAIN_S = 10  # a guest that is still booting ignores the power button
_HOUSEKEEPING_S = 5
_ENDING_S, _ENDING_LOOKS = 0.5, 10  # from the end of its jobs to a guest's own
_TOLD_S = 2  # an event of libvirt's takes milliseconds
_LONGEST_STATE_PATH = 40  # libvirt's and our socket names take up to 67 of the 107 bytes


class Libvirt:
    def __init__(self, config: LibvirtConfig):
        self.config = config
        self.state_folder = config.state_folder
        self._records: dict[str, domain.Instance | None] = {}
        self._faults: dict[str, GuestEvent] = {}
        self._asked: set[str] = set()  # guests that a verb is ending: their stop is no news
        self._alive: set[str] = set()  # guests whose stop has not been told yet
        self._stops: dict[str, asyncio.Event] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._waiting: dict[str, int] = {}
        self._news: asyncio.Queue[GuestEvent] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._acceleration = acceleration.Acceleration(kvm_usable=False, reason="")
        self._machines: dict[str, str] = {}
        self._copies: dict[str, snapshot.ColdCopy] = {}
        self._started = False

    # ---- life

    async def start(self, on_event: OnEvent) -> None:
        c = self.config
        self._files = ThreadPoolExecutor(c.file_threads, "guest-files")
        self.state_folder = await self._blocking(_make_alias, c.state_folder, c.run_folder)
        self.instances = self.state_folder / "instances"
        self.snapshots = self.instances / "_snapshots"
        self.embed_root = self.state_folder / "libvirt"
        self._bases = BaseCache(self.instances / "_base", c.base_cache_bytes, self._blocking, self._bases_in_use)
        await self._blocking(self._prepare_folders)
        self._records = await self._blocking(files.read_records, self.instances)
        self._acceleration = await self._blocking(acceleration.probe, c.kvm_device, c.cpuinfo)
        self._reaper = Reaper()
        self._reaper.start()
        self._loop = asyncio.get_running_loop()
        self._connection = Connection(
            uri=c.connection_uri, embed_root=self.embed_root, probe_cache_folder=c.probe_cache_folder,
            log_file=self.state_folder / "log" / "libvirt.log", network_namespace=c.network_namespace, threads=c.libvirt_threads,
        )  # fmt: skip
        try:
            with self._reaper.starting():  # probing starts QEMUs, too
                await self._connection.open(self._lifecycle_in_thread)
            self._machines = domain.machines(self._connection.capabilities)
            self._alive = set(await self._connection.call(_active))
            for pid in await self._connection.call(self._pids):
                self._reaper.watch(pid)
        except BaseException:
            await self._connection.close()
            self._reaper.stop()
            self._files.shutdown(wait=False)
            raise
        self._tasks = [
            asyncio.create_task(self._tell(on_event), name="libvirt events"),
            asyncio.create_task(self._keep_house(), name="libvirt housekeeping"),
        ]
        self._started = True

    async def stop(self) -> None:
        if not self._started:
            return
        self._started = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._bases.stop()
        await self._connection.close()
        self._reaper.stop()
        self._files.shutdown(wait=False)

    def _prepare_folders(self) -> None:
        for folder in (self.instances, self.snapshots, self.embed_root, self.state_folder / "log"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in self.snapshots.iterdir():
            left.unlink()
        self._bases.start()

    async def _blocking(self, function: Callable[..., Any], *arguments: Any, give_up: Callable[[], None] | None = None) -> Any:
        return await threads.run(self._files, function, *arguments, give_up=give_up)

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(_HOUSEKEEPING_S)
            for server_id in list(self._records):
                try:
                    await self._blocking(console.rotate, self._folder(server_id), self.config.console_log_bytes)
                except OSError as error:
                    log.warning("console log of %s could not be moved aside: %s", server_id, error)

    async def _tell(self, on_event: OnEvent) -> None:
        while True:
            event = await self._news.get()
            try:
                await on_event(event)
            except Exception:
                log.exception("an event of guest %s could not be told", event.server_id)

    # ---- what libvirt tells

    def _lifecycle_in_thread(self, server_id: str, event: int, detail: int) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._lifecycle, server_id, event, detail)

    def _lifecycle(self, server_id: str, event: int, detail: int) -> None:
        news: GuestEvent | None = None
        if event == _STOPPED:
            if server_id in self._alive and server_id not in self._asked:
                news = _stop_event(server_id, detail)
            self._alive.discard(server_id)
            self._asked.discard(server_id)
            if server_id in self._stops:
                self._stops[server_id].set()
        elif event == _SUSPENDED and server_id in self._alive:
            news = GuestPaused(server_id=server_id, reason=_PAUSE_REASONS.get(detail, _PAUSED))
        elif event == _CRASHED:
            news = GuestCrashed(server_id=server_id, reason="The guest's operating system crashed.")
        if news is not None and server_id in self._records:
            self._faults[server_id] = news
            self._news.put_nowait(news)

    # ---- verbs

    async def resources(self) -> HostResources:
        info, version = await self._connection.call(lambda c: (c.getInfo(), c.getVersion()))
        ram_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20  # libvirt adds up NUMA nodes, which may tell less
        space = await self._blocking(os.statvfs, self.instances)
        usable = self._acceleration.kvm_usable
        try:
            virt_type = acceleration.choose(self.config.virt_type, self._acceleration)
        except DriverError:
            virt_type = self.config.virt_type  # spawns will say why not
        return HostResources(
            hypervisor_hostname=self.config.hypervisor_hostname or socket.gethostname(), hypervisor_type="QEMU", hypervisor_version=version,
            vcpus=info[2], ram_mb=ram_mb, disk_gb=space.f_blocks * space.f_frsize >> 30,
            free_disk_gb=space.f_bavail * space.f_frsize >> 30,
            cpu_info=domain.cpu_info(self._connection.capabilities), virt_type=virt_type,
            supported_virt_types=("qemu", "kvm") if usable else ("qemu",), virt_type_reason=self._acceleration.reason,
        )  # fmt: skip

    async def spawn(self, spec: GuestSpec, fetch_image: FetchImage, *, replace_disk: bool = False) -> GuestState:
        domain.check_spec(spec)
        acceleration.choose(self.config.virt_type, self._acceleration)
        async with self._turn(spec.server_id):
            record = self._records.get(spec.server_id)
            if record is not None and not replace_disk:
                return await self._run(await self._respec(record, spec))
            machine = domain.choose_machine(spec, self._machines)
            domain.choose_buses(spec, machine)
            await self._remove(spec.server_id)
            self._records[spec.server_id] = None
            try:
                return await self._run(await self._make(spec, machine, fetch_image))
            except BaseException:
                try:
                    await asyncio.shield(self._remove(spec.server_id))
                except DriverError as error:  # why there is no guest matters more; whoever asked destroys it and hears of this then
                    log.warning("what a failed build of %s left stays for now: %s %s", spec.server_id, error.reason, error.detail)
                raise

    async def destroy(self, server_id: str) -> None:
        domain.check_server_id(server_id)
        if server_id in self._copies:
            self._copies[server_id].stop()  # the copy has the turn; nobody wants its result
        async with self._turn(server_id):
            await self._remove(server_id)

    async def power_on(self, spec: GuestSpec) -> GuestState:
        domain.check_spec(spec)
        async with self._turn(spec.server_id):
            return await self._run(await self._respec(self._record(spec.server_id), spec))

    async def power_off(self, server_id: str, timeout_s: float = 60.0) -> GuestState:
        async with self._turn(server_id):
            self._record(server_id)
            await self._shut_down(server_id, timeout_s)
            self._faults.pop(server_id, None)
            return GuestState(server_id=server_id, power_state=PowerState.SHUTDOWN)

    async def reboot_soft(self, server_id: str, timeout_s: float = 120.0) -> GuestState:
        """A new process, too: under emulation a reset of the old one gets slower each time."""
        async with self._turn(server_id):
            record = self._record(server_id)
            await self._shut_down(server_id, timeout_s)
            return await self._run(record)

    async def reboot_hard(self, spec: GuestSpec) -> GuestState:
        domain.check_spec(spec)
        async with self._turn(spec.server_id):
            record = await self._respec(self._record(spec.server_id), spec)
            await self._end(spec.server_id)
            return await self._run(record)

    async def snapshot(self, server_id: str, store: StoreImage) -> None:
        self._record(server_id)
        target = self.snapshots / f"{uuid.uuid4()}.qcow2"
        try:
            await self._copy_disk(server_id, target)
            await store(str(target))
        finally:
            await self._blocking(lambda: target.unlink(missing_ok=True))

    async def list_guests(self) -> list[GuestState]:
        active: dict[str, int] = await self._connection.call(_active)
        known = {*self._records, *(server_id for server_id in active)}
        return [self._shown(server_id, active.get(server_id)) for server_id in sorted(known)]

    async def state(self, server_id: str) -> GuestState | None:
        domain.check_server_id(server_id)
        libvirt_state: int | None = await self._connection.call(_state, server_id)
        if libvirt_state is None and server_id not in self._records:
            return None
        return self._shown(server_id, libvirt_state)

    async def console_output(self, server_id: str, lines: int | None = None) -> str:
        self._record(server_id)
        text: str = await self._blocking(console.read_tail, self._folder(server_id), lines)
        return text

    async def inventory(self) -> tuple[str, ...]:
        names: list[str] = await self._connection.call(lambda c: [d.name() for d in c.listAllDomains(_ACTIVE)])
        found = [f"guest {name}" for name in names]
        found += [f"file {name}" for name in await self._blocking(files.listing, self.instances)]
        if self._connection.embedded:
            logs = await self._blocking(lambda: [file.name for file in self._log_file("*").parent.glob("*.log")])
            found += [f"log {name}" for name in logs]
        return tuple(sorted(found))

    # ---- inside: the record and the files

    def _folder(self, server_id: str) -> Path:
        return self.instances / server_id

    def _log_file(self, name: str) -> Path:
        return self.embed_root / "log" / "qemu" / f"{name}.log"

    def _record(self, server_id: str) -> domain.Instance:
        domain.check_server_id(server_id)
        record = self._records.get(server_id)
        if record is None:
            raise DriverError("The server has no guest on this host.")
        return record

    def _bases_in_use(self) -> list[str]:
        records = [record for record in list(self._records.values()) if record is not None]
        return [disk.base for record in records for disk in record.disks if disk.base is not None]

    async def _respec(self, record: domain.Instance, spec: GuestSpec) -> domain.Instance:
        """The record with what may have changed since (NICs, size); machine and disks stay."""
        wanted = msgspec.structs.replace(record, spec=files.without_config_drive(spec))
        if wanted != record:
            await self._blocking(files.write_record, self._folder(spec.server_id), wanted)
            self._records[spec.server_id] = wanted
        return wanted

    async def _make(self, spec: GuestSpec, machine: str, fetch_image: FetchImage) -> domain.Instance:
        async with contextlib.AsyncExitStack() as stack:
            base = None if spec.image is None else await stack.enter_async_context(self._bases.use(spec.image, fetch_image))
            try:
                record: domain.Instance = await self._blocking(self._make_files, spec, machine, base)
            except DriverError:
                raise
            except Exception as error:
                full = isinstance(error, OSError) and error.errno == errno.ENOSPC
                reason = "The host has no disk space left." if full else "The server's disks could not be made."
                raise DriverError(reason, repr(error)) from error
            self._records[spec.server_id] = record
            return record

    def _make_files(self, spec: GuestSpec, machine: str, base: Base | None) -> domain.Instance:
        """Blocks."""
        folder = self._folder(spec.server_id)
        disk_bus, cdrom_bus = domain.choose_buses(spec, machine)
        size = _root_bytes(spec, base)
        folder.mkdir(mode=0o700, exist_ok=True)
        disks = [self._make_root(folder, base, size, disk_bus, cdrom_bus)]
        if spec.ephemeral_gb:
            files.make_ephemeral(folder, spec.ephemeral_gb)
            disks.append(domain.Disk(role="ephemeral", file="disk.eph0", format="raw", bus=disk_bus))
        if spec.swap_mb:
            files.make_swap(folder, spec.swap_mb, uuid.uuid5(uuid.UUID(spec.server_id), "swap"))
            disks.append(domain.Disk(role="swap", file="disk.swap", format="raw", bus=disk_bus))
        if spec.config_drive is not None:
            kind = self.config.config_drive_format
            files.make_config_drive(folder, spec.config_drive, kind)
            cdrom = kind == "iso9660"
            disks.append(domain.Disk(
                role="config", file="disk.config", format="raw", bus=cdrom_bus if cdrom else disk_bus, device="cdrom" if cdrom else "disk",
            ))  # fmt: skip
        record = domain.Instance(spec=files.without_config_drive(spec), machine=machine, disks=tuple(disks))
        files.write_record(folder, record)
        return record

    def _make_root(self, folder: Path, base: Base | None, size: int, disk_bus: str, cdrom_bus: str) -> domain.Disk:
        if base is not None and base.content == "iso":
            return domain.Disk(role="root", file="", format="raw", bus=cdrom_bus, device="cdrom", base=base.name)
        if base is None:
            files.make_root(folder, size, None, None)
            return domain.Disk(role="root", file="disk", format="qcow2", bus=disk_bus)
        files.make_root(folder, size, self.instances / "_base" / base.name, base.format)
        return domain.Disk(role="root", file="disk", format="qcow2", bus=disk_bus, base=base.name, base_format=base.format)

    async def _copy_disk(self, server_id: str, target: Path) -> None:
        """A running guest's disk is copied by its QEMU, which saves what the guest overwrites meanwhile: only its begin needs the turn."""
        async with self._turn(server_id):
            root = next((disk for disk in self._record(server_id).disks if disk.role == "root" and disk.file), None)
            if root is None:
                raise DriverError("The server runs from a CD image and has no disk to copy.")
            source = self._folder(server_id) / root.file
            if await self._connection.call(_state, server_id) is None:
                copy = self._copies[server_id] = snapshot.ColdCopy(source, root.format, target)
                try:
                    await self._blocking(copy.run, give_up=copy.stop)
                finally:
                    del self._copies[server_id]
                return
            await self._connection.call(snapshot.begin, server_id, source, target)
        try:
            await self._backed_up(server_id)
        except asyncio.CancelledError:
            with contextlib.suppress(DriverError):  # the copy has ended, or its guest: who was cancelled hears of nothing else
                await asyncio.shield(self._connection.call(snapshot.abort, server_id))
            raise

    async def _backed_up(self, server_id: str) -> None:
        wait_s = 0.02
        try:
            while not await self._connection.call(snapshot.finished, server_id):
                await asyncio.sleep(wait_s)
                wait_s = min(1.0, wait_s * 1.5)
        except DriverError:  # a copy fails as its guest ends, a moment before that shows
            for _ in range(_ENDING_LOOKS):
                if await self._connection.call(_state, server_id) is None:
                    raise DriverError(snapshot.GONE) from None
                await asyncio.sleep(_ENDING_S / _ENDING_LOOKS)
            raise

    async def _remove(self, server_id: str) -> None:
        """End the guest, remove its files; twice is fine."""
        record = self._records.get(server_id)
        name: str | None = await self._end(server_id) or (record.spec.name if record is not None else None)
        log_file = self._log_file(name) if name is not None and self._connection.embedded else None
        try:
            await self._blocking(files.remove_guest, self._folder(server_id), log_file)
        except OSError as error:
            raise DriverError("The server's files could not be removed.", str(error)) from error
        self._records.pop(server_id, None)
        self._faults.pop(server_id, None)

    # ---- inside: the process

    async def _run(self, record: domain.Instance) -> GuestState:
        """Start the guest unless it runs."""
        server_id = record.spec.server_id
        state = await self._connection.call(_state, server_id)
        if state == 3:
            await self._connection.call(lambda c: c.lookupByUUIDString(server_id).resume())
            state = await self._connection.call(_state, server_id)
        if state is None:
            state = await self._create(record)
        if _STATES.get(state) is not PowerState.RUNNING:
            raise DriverError("The guest does not run: the hypervisor paused it.", f"libvirt state {state}")
        self._faults.pop(server_id, None)
        return GuestState(server_id=server_id, power_state=PowerState.RUNNING)

    async def _create(self, record: domain.Instance) -> int:
        c, server_id = self.config, record.spec.server_id
        platform = domain.Platform(
            virt_type=acceleration.choose(c.virt_type, self._acceleration), cpu_model=c.cpu_model, cachemode=c.disk_cachemode,
            tb_cache_mb=c.tb_cache_mb, spare_pcie_ports=c.spare_pcie_ports,
        )  # fmt: skip
        xml = domain.domain_xml(record, self._folder(server_id), self.instances / "_base", platform)
        await self._connection.call(self._create_blocking, xml, record.spec.name, timeout_s=120)
        self._alive.add(server_id)  # before the question: a stop from here on is either seen now or told later
        state: int | None = await self._connection.call(_state, server_id)
        if state is None:
            self._alive.discard(server_id)
            raise DriverError("The guest stopped as soon as it was started.")
        return state

    def _create_blocking(self, connection: Any, xml: str, name: str) -> None:
        with self._reaper.starting():
            connection.createXML(xml, 0)
            if self._connection.embedded:
                with contextlib.suppress(OSError, ValueError):  # it is gone again: the scan reaps it
                    self._reaper.watch(self._pid(name))

    def _pid(self, name: str) -> int:
        return int((self.embed_root / "run" / "qemu" / f"{name}.pid").read_text())

    def _pids(self, connection: Any) -> list[int]:
        """Of the guests that run. One that ends meanwhile has no file any more."""
        found: list[int] = []
        for guest in connection.listAllDomains(_ACTIVE) if self._connection.embedded else ():
            with contextlib.suppress(OSError, ValueError):
                found.append(self._pid(guest.name()))
        return found

    async def _shut_down(self, server_id: str, timeout_s: float) -> None:
        """The power button until it is obeyed; the plug after `timeout_s`."""
        stopped = self._stops[server_id] = asyncio.Event()
        self._asked.add(server_id)
        deadline = asyncio.get_running_loop().time() + timeout_s
        try:
            while (left := deadline - asyncio.get_running_loop().time()) > 0:
                if not await self._connection.call(_press_power_button, server_id):
                    break
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopped.wait(), min(left, _PRESS_AGAIN_S))
                    break
        finally:
            await asyncio.shield(self._end(server_id))

    async def _end(self, server_id: str) -> str | None:
        """Switch off at once. The guest's name at the hypervisor, if it was running. Its stop has been told when this returns."""
        stopped = self._stops.setdefault(server_id, asyncio.Event())
        self._asked.add(server_id)
        try:
            name: str | None = await self._connection.call(self._destroy_blocking, server_id)
            if server_id in self._alive:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopped.wait(), _TOLD_S)
            self._alive.discard(server_id)
            return name
        finally:
            self._asked.discard(server_id)
            self._stops.pop(server_id, None)

    def _destroy_blocking(self, connection: Any, server_id: str) -> str | None:
        """libvirt looks every 0.2 s whether the process that it ends is gone; so it is given one that is already ending."""
        guest = _find(connection, server_id)
        if guest is None:
            return None
        name: str = guest.name()
        if self._connection.embedded:
            with contextlib.suppress(OSError, ValueError):
                self._reaper.terminate(self._pid(name), 1.0)
        _unless_gone(connection, server_id, lambda guest: guest.destroy())
        return name

    # ---- inside: the rest

    def _shown(self, server_id: str, libvirt_state: int | None) -> GuestState:
        fault = self._faults.get(server_id)
        if libvirt_state is not None:
            state = _STATES.get(libvirt_state, PowerState.NOSTATE)
            return GuestState(server_id=server_id, power_state=state, reason=fault.reason if fault and state == fault.power_state else "")
        if self._records.get(server_id) is None:
            return GuestState(server_id=server_id, power_state=PowerState.NOSTATE, reason="The guest was never completely made.")
        if fault is not None and fault.power_state is not PowerState.PAUSED:
            return GuestState(server_id=server_id, power_state=fault.power_state, reason=fault.reason)
        return GuestState(server_id=server_id, power_state=PowerState.SHUTDOWN)

    @contextlib.asynccontextmanager
    async def _turn(self, server_id: str) -> AsyncIterator[None]:
        if not self._started:
            raise DriverError("The hypervisor driver is not started.")
        lock = self._turns.setdefault(server_id, asyncio.Lock())
        self._waiting[server_id] = self._waiting.get(server_id, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._waiting[server_id] -= 1
            if not self._waiting[server_id]:
                del self._waiting[server_id], self._turns[server_id]


def _stop_event(server_id: str, detail: int) -> GuestEvent:
    if detail in _STOPPED_BADLY:
        return GuestCrashed(server_id=server_id, reason="The guest's process ended unexpectedly.")
    return GuestStopped(server_id=server_id, reason="The guest shut itself down.")


def _root_bytes(spec: GuestSpec, base: Base | None) -> int:
    """The flavor's size, at least the image's; without a flavor's size, the image's."""
    wanted = spec.root_gb << 30
    needed = 0 if base is None else base.virtual_size
    if wanted and wanted < needed:
        raise DriverError(f"Flavor's disk is too small for requested image. Flavor disk is {wanted} bytes, image is {needed} bytes.")
    return wanted or needed or 1 << 30


def _make_alias(state_folder: Path, run_folder: Path) -> Path:
    """Sockets have at most 107 bytes of path: a long state folder is used through a short symbolic link."""
    folder = state_folder.absolute()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if len(os.fsencode(folder)) <= _LONGEST_STATE_PATH:
        return folder
    run_folder.mkdir(parents=True, exist_ok=True)
    alias = short_alias(folder, run_folder)
    if len(os.fsencode(alias)) > _LONGEST_STATE_PATH:
        raise DriverError("The state folder's path is too long for the guests' sockets; choose a shorter one.", str(folder))
    with contextlib.suppress(FileExistsError):
        alias.symlink_to(folder)
    if os.readlink(alias) != str(folder):
        raise DriverError("The short name of the state folder is taken by another one; choose another state folder.", str(alias))
    return alias


# ---- inside libvirt's threads: each takes the connection first


def _find(connection: Any, server_id: str) -> Any:
    """The running domain or None. Not by look-up: libvirt writes each miss to its log as an error."""
    return next((guest for guest in connection.listAllDomains(_ACTIVE) if guest.UUIDString() == server_id), None)


def _unless_gone(connection: Any, server_id: str, function: Callable[[Any], Any]) -> Any:
    """function(domain); None if the domain is not there, also if it goes meanwhile."""
    import libvirt

    guest = _find(connection, server_id)
    if guest is None:
        return None
    try:
        return function(guest)
    except libvirt.libvirtError:
        if _find(connection, server_id) is None:
            return None
        raise


def _state(connection: Any, server_id: str) -> int | None:
    state: int | None = _unless_gone(connection, server_id, lambda guest: guest.state()[0])
    return None if state == 5 else state


def _active(connection: Any) -> dict[str, int]:
    return {guest.UUIDString(): guest.state()[0] for guest in connection.listAllDomains(_ACTIVE) if guest.name().startswith("instance-")}


def _press_power_button(connection: Any, server_id: str) -> bool:
    """False if there is no guest that could react."""

    def press(guest: Any) -> bool:
        return bool(guest.state()[0] == 1 and guest.shutdownFlags(_SHUTDOWN_ACPI) == 0)

    return _unless_gone(connection, server_id, press) is True
