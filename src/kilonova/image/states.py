"""What an image's status allows: verb -> from which statuses, shown as what meanwhile, landing where."""

from kilonova.core.states import Arrow

STATUSES = ("queued", "saving", "uploading", "importing", "active", "deactivated", "pending_delete", "killed")

IMAGE = {
    "upload": Arrow(frozenset({"queued"}), during="saving", lands="active"),
    "stage": Arrow(frozenset({"queued"}), during="uploading", lands="uploading"),
    "import": Arrow(frozenset({"uploading"}), during="importing", lands="active"),
    "give up": Arrow(frozenset({"saving", "uploading", "importing"}), lands="queued"),
    "deactivate": Arrow(frozenset({"active", "deactivated"}), lands="deactivated"),
    "reactivate": Arrow(frozenset({"active", "deactivated"}), lands="active"),
    "delete": Arrow(frozenset(STATUSES), lands="deleted"),
}

WITH_DATA = frozenset({"active", "deactivated", "pending_delete"})
"""Statuses in which the store must hold the image's bytes."""
