"""Everything that can go wrong in compute. Sentences are Nova's where clients read them; `advice` is for log and command line."""

from kilonova.core import errors
from kilonova.core.db import Lost


class ServerNotFound(errors.NotFound):
    code = "compute.server_not_found"
    title = "Instance {server} could not be found."


class WrongState(errors.Conflict):
    code = "compute.wrong_state"
    title = "Cannot '{verb}' instance {server} while it is in {attribute} {value}"


class NeverActive(errors.Conflict):
    """What has not booted once cannot be rebuilt or copied; delete it."""

    code = "compute.never_active"
    title = "Cannot '{verb}' an instance which has never been active"


class Locked(errors.Conflict):
    code = "compute.locked"
    title = "Instance {server} is locked"


class NoHost(errors.Conflict):
    code = "compute.no_host_yet"
    title = "Instance {server} is not ready"


class FlavorNotFound(errors.NotFound):
    code = "compute.flavor_not_found"
    title = "Flavor {flavor} could not be found."


class KeypairNotFound(errors.NotFound):
    code = "compute.keypair_not_found"
    title = "Keypair {name} not found for user {user}"


class OverQuota(errors.Forbidden):
    code = "compute.over_quota"
    title = "Quota exceeded for {resources}: Requested {requested}, but already used {used} of {limit} {resources}"


class NoValidHost(errors.Error):
    """Never an HTTP error: it becomes the fault of a server."""

    code = "compute.no_valid_host"
    title = "No valid host was found. {summary}"
    advice = "kilonova explain {server}"
    public = "No valid host was found. There are not enough hosts available."


class BuildFailed(errors.Error):
    """The last host that tried says why."""

    code = "compute.build_failed"
    title = "Build of instance {server} failed on {host}: {why}"

    @property
    def public(self) -> str:
        """Without the host's name. Who does not answer is named by its address."""
        why = "Its host does not answer." if self.details["unreachable"] else self.details["why"]
        return f"Build of instance {self.details['server']} failed: {why}"


class Superseded(errors.Error):
    """A later verb (a delete) has overtaken this one; it undoes what it did and ends."""

    code = "compute.superseded"
    title = "Server {server} has been asked for something else meanwhile."


class Overtaken(errors.Conflict):
    """A host's agent refuses a command: it has seen a later one for the server."""

    code = "compute.overtaken"
    title = "A later command for server {server} has been seen on this host."


class GuestLeft(BuildFailed):
    """The host says that it can neither make the guest nor remove what there is of it: another host must not be tried."""

    code = "compute.guest_left"
    title = "Build of instance {server} failed on {host}: {why} What there is of it could not be removed."


class HostSilent(errors.Unavailable):
    """Whether a guest runs on a host is not known, so the server must not be started elsewhere."""

    code = "compute.host_silent"
    title = "The host of server {server} does not answer."


class CellSilent(Lost):
    """`why` is for the log and the command line."""

    code = "compute.cell_silent"
    title = "Cell {cell} is not responding or returned an exception, hence instance info is not available."
    advice = "{why}"

    def __str__(self) -> str:
        return f"{self.message} {self.details['why']}".strip()


class CellAway(errors.Error):
    """The cell of the host that was chosen for a new server: nothing was written there, so that any other cell may have the server."""

    code = "compute.cell_away"
    title = "Cell {cell} does not answer."
    public = "The part of the cloud that was chosen for the server does not answer."


class CellsSilent(errors.Error):
    """[api] list_records_by_skipping_down_cells = false: a list without them is not wanted."""

    code = "compute.cells_silent"
    title = "Cell {cell} is not responding but configuration indicates that we should fail."


class ElsewhereMapped(errors.Conflict):
    code = "compute.host_elsewhere"
    title = (
        "Host {host} reports to cell {cell}, but is mapped to cell {known}; two hosts have one name, or `nova-manage cell_v2` must say so."
    )


class Removed(errors.Gone):
    code = "compute.removed"
    title = "This resource is no longer available. No forwarding address is given."


class TokenNotGood(errors.Forbidden):
    code = "compute.join_token"
    title = "The join token is not good: {reason}"
    advice = "`kilonova join-token` on a controller makes another."


class CannotJoin(errors.Conflict):
    code = "compute.cannot_join"


class HostMayNotRenew(errors.Forbidden):
    code = "compute.host_left"
    title = "The host {host} does not belong to this cloud any more."
    advice = "`kilonova join-token --host {host}` on a controller makes a token with which it can join again."
