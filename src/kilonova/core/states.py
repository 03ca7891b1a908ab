"""A state machine is a table. The API's guard, the documentation and the property tests ask the same one."""

import msgspec


class Arrow(msgspec.Struct, frozen=True):
    """A verb: the states it may start from, the tasks it may interrupt (None: none under way), the task it shows while it runs, and
    the state it lands in (None: the state stays)."""

    sources: frozenset[str]
    during: str = ""
    lands: str | None = None
    tasks: frozenset[str | None] = frozenset({None})
    locked: bool = True
    """A locked object refuses it to those who are not admin."""

    def refuses(self, state: str, task: str | None) -> tuple[str, str | None] | None:
        """None when allowed, else what is in the way: ("vm_state", "building") or ("task_state", "deleting")."""
        if self.sources and state not in self.sources:
            return ("vm_state", state)
        if self.tasks and task not in self.tasks:
            return ("task_state", task)
        return None


ANY: frozenset[str] = frozenset()
ANY_TASK: frozenset[str | None] = frozenset()
