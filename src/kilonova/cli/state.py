"""State directories: which one, whose, and whether a cloud runs on it.

A state directory carries a mark (`kilonova.state`), is readable by its owner only, and belongs to the process that holds a lock on
`run/lock`. Running clouds are found in the runtime directory: an ephemeral cloud's state is a folder there, every other running
cloud has a link there.
"""

import contextlib
import datetime
import fcntl
import os
import secrets
import stat
import tempfile
import time
from pathlib import Path

import msgspec

from kilonova import __version__
from kilonova.cli.failure import Failure, say

FORMAT = 1
"""Counts up when an older program could no longer read what a newer one wrote."""
MARK = "kilonova.state"


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    id: str
    """Eight hex digits; names on this machine (namespaces, links) begin with it."""
    created_at: str
    version: str
    ephemeral: bool = False
    driver: str = ""
    """The hypervisor driver that this state was first used with; its guests belong to it."""
    hosts: int = 1
    begun: bool = False
    """Passwords were given out: from then on they are in clouds.yaml only."""


class AlreadyRunning(Failure):
    def __init__(self, path: Path, pid: int | None) -> None:
        who = f"process {pid}" if pid else "another process"
        super().__init__(
            f"A cloud already runs on {path} ({who}).",
            f"Use it, stop it with `kilonova down --state {path}`, or choose another directory with --state.",
        )


class StateDir:
    """One state directory that exists. `lock` makes it ours until `unlock` or the end of the process."""

    def __init__(self, path: Path, mark: Mark) -> None:
        self.path = path
        self.mark = mark
        self._lock: int | None = None

    @property
    def run(self) -> Path:
        return self.path / "run"

    @property
    def log_file(self) -> Path:
        return self.path / "log" / "kilonova.log"

    @property
    def clouds_yaml(self) -> Path:
        return self.path / "clouds.yaml"

    @property
    def database(self) -> Path:
        return self.path / "kilonova.db"

    @property
    def namespace_prefix(self) -> str:
        """Every network namespace of this cloud is called so at its beginning."""
        return f"kn-{self.mark.id}-"

    # ---- the lock

    def lock(self, patience_s: float = 0.3) -> None:
        """Raises AlreadyRunning. A little patience, since looking whether a cloud runs takes the lock for an instant."""
        self.run.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(self.run / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        end = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    os.close(descriptor)
                    raise AlreadyRunning(self.path, self.pid()) from None
                time.sleep(0.02)
        self._lock = descriptor

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def is_running(self) -> bool:
        try:
            descriptor = os.open(self.run / "lock", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def pid(self) -> int | None:
        """As the file says it; worth something only while `is_running`."""
        try:
            return int((self.run / "pid").read_text())
        except (OSError, ValueError):
            return None

    # ---- files

    def remember(self, **changes: object) -> None:
        """Fields of the mark, so that the next `up` resumes with the same."""
        mark = msgspec.structs.replace(self.mark, **changes)
        if mark != self.mark:
            self.mark = mark
            self.write(MARK, msgspec.json.encode(mark).decode() + "\n")

    def write(self, name: str, text: str, mode: int = 0o600) -> None:
        """A file appears whole or not at all, and is on the disk when this returns."""
        target = self.path / name
        target.parent.mkdir(mode=0o700, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)

    def read_json(self, name: str) -> dict[str, object]:
        """Empty when there is no such file."""
        try:
            return msgspec.json.decode((self.path / name).read_bytes(), type=dict[str, object])
        except (OSError, msgspec.DecodeError):
            return {}

    # ---- the register of running clouds

    def register(self) -> None:
        link = runtime_dir() / self.mark.id
        if self.path == link:
            return
        with contextlib.suppress(OSError):
            make_private(link.parent)
            link.unlink(missing_ok=True)
            link.symlink_to(self.path)

    def unregister(self) -> None:
        link = runtime_dir() / self.mark.id
        with contextlib.suppress(OSError):
            if link.is_symlink():
                link.unlink()


# ---------------------------------------------------------------- which directory


def runtime_dir() -> Path:
    """Where ephemeral clouds live and running ones are found."""
    given = os.environ.get("KILONOVA_RUNTIME_DIR")
    if given:
        return Path(given).absolute()
    if os.geteuid() == 0:
        return Path("/run/kilonova")
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base, "kilonova") if base else Path(tempfile.gettempdir(), f"kilonova-{os.geteuid()}")


def default_path() -> Path:
    """$KILONOVA_STATE, else the system's place for root and the user's own otherwise."""
    given = os.environ.get("KILONOVA_STATE")
    if given:
        return Path(given).expanduser().absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/kilonova")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state", "kilonova")


def make_private(path: Path) -> None:
    """A folder that only we can look into. Raises Failure when it is somebody else's."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = path.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
        raise Failure(f"{path} is not a folder of this user.", "Set XDG_RUNTIME_DIR or KILONOVA_RUNTIME_DIR to one that is.")
    if about.st_mode & 0o077:
        path.chmod(0o700)


def new_mark(*, ephemeral: bool) -> Mark:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Mark(format=FORMAT, id=secrets.token_hex(4), created_at=now, version=__version__, ephemeral=ephemeral)


def prepare(path: Path) -> StateDir:
    """The state directory for `up`: made when it is missing or empty. Raises Failure with the reason why it cannot be used."""
    other = "Choose another directory with --state."
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = path.stat()
        entries = sorted(os.listdir(path))
    except (FileExistsError, NotADirectoryError):
        raise Failure(f"{path} is not a directory.", other) from None
    except OSError as error:
        raise Failure(
            f"The state directory {path} cannot be used: {error.strerror}.", "Make it writable, or " + other[0].lower() + other[1:]
        ) from None
    if about.st_uid != os.geteuid():
        raise Failure(f"The state directory {path} belongs to another user (uid {about.st_uid}).", other)
    if MARK in entries:
        state = StateDir(path, _read_mark(path))
    elif set(entries) - {"lost+found"}:
        raise Failure(f"{path} is not a state directory of Kilonova: it holds {entries[0]} and no {MARK}.", other)
    else:
        state = StateDir(path, new_mark(ephemeral=False))
    try:
        path.chmod(0o700)
        if MARK not in entries:
            _write_mark(state)
        for name in ("run", "log"):
            (path / name).mkdir(mode=0o700, exist_ok=True)
            if not os.access(path / name, os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied", str(path / name))
    except OSError as error:
        raise Failure(
            f"The state directory {path} cannot be written: {error.strerror}.", "Make it writable, or " + other[0].lower() + other[1:]
        ) from None
    return state


def prepare_ephemeral() -> StateDir:
    """A new state directory in the runtime directory, to be forgotten at the end."""
    base = runtime_dir()
    try:
        make_private(base)
        mark = new_mark(ephemeral=True)
        path = base / mark.id
        path.mkdir(mode=0o700)
        state = StateDir(path, mark)
        _write_mark(state)
        for name in ("run", "log"):
            (path / name).mkdir(mode=0o700)
    except OSError as error:
        raise Failure(
            f"No ephemeral state can be made in {base}: {error.strerror}.", "Set KILONOVA_RUNTIME_DIR to a folder that is writable."
        ) from None
    return state


def _write_mark(state: StateDir) -> None:
    state.write(MARK, msgspec.json.encode(state.mark).decode() + "\n")


def _read_mark(path: Path) -> Mark:
    try:
        raw = (path / MARK).read_bytes()
        number = msgspec.json.decode(raw, type=dict[str, object]).get("format")
        if isinstance(number, int) and number > FORMAT:
            raise Failure(
                f"{path} was written by a newer Kilonova (state format {number}; this one, {__version__}, knows {FORMAT}).",
                "Use the newer program, or choose another directory with --state.",
            )
        return msgspec.json.decode(raw, type=Mark)
    except OSError as error:
        raise Failure(f"{path / MARK} cannot be read: {error.strerror}.", "Choose another directory with --state.") from None
    except msgspec.DecodeError:
        raise Failure(f"{path / MARK} is damaged.", "Restore it from a backup, or choose another directory with --state.") from None


def open_existing(path: Path) -> StateDir:
    """A state directory for the commands that need one. Raises Failure when there is none."""
    if not path.is_dir() or not (path / MARK).exists():
        if path.is_dir() and not os.access(path, os.X_OK):
            raise Failure(f"{path} cannot be looked into by this user.", "Run the command as the user who started the cloud.")
        raise Failure(f"There is no cloud in {path}.", "`kilonova up` makes one; --state chooses another directory.")
    return StateDir(path, _read_mark(path))


# ---------------------------------------------------------------- which cloud


def known() -> list[StateDir]:
    """States in the runtime directory, those registered there, and the default one: running or not, each once."""
    places = [default_path()]
    with contextlib.suppress(OSError):
        places += sorted(runtime_dir().iterdir())
    found: dict[Path, StateDir] = {}
    for place in places:
        with contextlib.suppress(Failure, OSError):
            path = place.resolve()
            found.setdefault(path, open_existing(path))
    return list(found.values())


def running() -> list[StateDir]:
    return [state for state in known() if state.is_running()]


def choose(option: str | None, command: str) -> StateDir:
    """The state that a command works on: the one named, else the only running cloud (and say so). Raises Failure."""
    if option or os.environ.get("KILONOVA_STATE"):
        return open_existing(Path(option).expanduser().resolve() if option else default_path())
    found = running()
    if len(found) == 1:
        say(f"kilonova {command}", f"Using the only running cloud, in {found[0].path}.")
        return found[0]
    if found:
        listed = ", ".join(str(state.path) for state in found)
        raise Failure(f"{len(found)} clouds are running: {listed}.", "Choose one with --state.")
    dead = [state for state in known() if state.mark.ephemeral]
    more = (
        f" ({dead[0].path} was left behind by one that did not end in order: `kilonova down --state {dead[0].path}` removes it.)"
        if dead
        else ""
    )
    raise Failure("No cloud is running.", "Start one with `kilonova up`, or name its state directory with --state." + more)
