"""The verbs: from which states, interrupting which tasks, shown as what, landing where. The API's guard and the tests ask this table.

Names are Nova's vm_state and task_state.
"""

from kilonova.core.states import ANY, ANY_TASK, Arrow

LIVE_METADATA = frozenset({"active", "paused", "suspended", "stopped"})
HARD_TASKS: frozenset[str | None] = frozenset(
    {None, "rebooting", "reboot_pending", "reboot_started", "rebooting_hard", "resuming", "unpausing", "pausing", "suspending"}
)

SERVER = {
    "create": Arrow(frozenset({"building"}), during="scheduling", lands="active"),
    "delete": Arrow(ANY, during="deleting", lands="deleted", tasks=ANY_TASK),
    "start": Arrow(frozenset({"stopped"}), during="powering-on", lands="active"),
    "stop": Arrow(frozenset({"active", "error"}), during="powering-off", lands="stopped"),
    "reboot_soft": Arrow(frozenset({"active"}), during="rebooting", lands="active"),
    "reboot_hard": Arrow(
        frozenset({"active", "stopped", "paused", "suspended", "error"}), during="rebooting_hard", lands="active", tasks=HARD_TASKS
    ),
    "rebuild": Arrow(frozenset({"active", "stopped", "error"}), during="rebuilding", lands="active"),
    "snapshot": Arrow(frozenset({"active", "stopped", "paused", "suspended"}), during="image_snapshot_pending", locked=False),
    "update_metadata": Arrow(LIVE_METADATA, tasks=ANY_TASK),
    "update_tags": Arrow(LIVE_METADATA, tasks=ANY_TASK, locked=False),
    "console_output": Arrow(ANY, tasks=ANY_TASK, locked=False),
    "reset_state": Arrow(ANY, tasks=ANY_TASK, locked=False),
}

_RESIZE = ("resize_prep", "resize_migrating", "resize_migrated", "resize_finish")
_REBUILD = ("rebuilding", "rebuild_block_device_mapping", "rebuild_spawning")
_DEFAULT = {
    "active": "ACTIVE",
    "building": "BUILD",
    "stopped": "SHUTOFF",
    "resized": "VERIFY_RESIZE",
    "paused": "PAUSED",
    "suspended": "SUSPENDED",
    "rescued": "RESCUE",
    "error": "ERROR",
    "deleted": "DELETED",
    "soft-delete": "SOFT_DELETED",
    "shelved": "SHELVED",
    "shelved_offloaded": "SHELVED_OFFLOADED",
}
_TASKS: dict[tuple[str, str], str] = {
    **{("active", t): "REBOOT" for t in ("rebooting", "reboot_pending", "reboot_started")},
    **{("active", t): "HARD_REBOOT" for t in ("rebooting_hard", "reboot_pending_hard", "reboot_started_hard")},
    **{("active", t): "RESIZE" for t in _RESIZE},
    **{("stopped", t): "RESIZE" for t in _RESIZE},
    **{(state, t): "REBUILD" for state in ("active", "stopped", "error") for t in _REBUILD},
    ("active", "updating_password"): "PASSWORD",
    ("active", "migrating"): "MIGRATING",
    ("paused", "migrating"): "MIGRATING",
    ("resized", "resize_reverting"): "REVERT_RESIZE",
}


def status(state: str, task: str | None) -> str:
    """What the API calls it."""
    if task is not None:
        shown = _TASKS.get((state, task))
        if shown is not None:
            return shown
    return _DEFAULT.get(state, "UNKNOWN")


STATES_BY_STATUS: dict[str, tuple[str, ...]] = {shown: (state,) for state, shown in _DEFAULT.items()}
for (_state, _task), _shown in _TASKS.items():
    STATES_BY_STATUS.setdefault(_shown, ())
    if _state not in STATES_BY_STATUS[_shown]:
        STATES_BY_STATUS[_shown] = (*STATES_BY_STATUS[_shown], _state)
"""Which vm_states a status filter has to look at (the task decides among them)."""

WITH_PROGRESS = frozenset({"ACTIVE", "BUILD", "REBUILD", "RESIZE", "VERIFY_RESIZE", "MIGRATING"})
