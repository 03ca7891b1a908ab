"""Every URL that placement serves, one line each."""

from kilonova.core.errors import BadRequest, NotAcceptable, UnsupportedMediaType
from kilonova.core.http import Request
from kilonova.core.routing import PUBLIC, Route
from kilonova.placement.api import (
    aggregates,
    allocations,
    bodies,
    candidates,
    inventories,
    providers,
    reshaper,
    resource_classes,
    traits,
    usages,
    versions,
)

P = "/resource_providers"
ONE = "/resource_providers/{uuid}"
INVENTORY = ONE + "/inventories/{resource_class}"
MANY = [((1, 13), bodies.Many1_13), ((1, 28), bodies.Many1_28), ((1, 34), bodies.Many1_34), ((1, 38), bodies.Many1_38)]
HELD = [
    ((1, 0), bodies.SetAllocations),
    ((1, 8), bodies.SetAllocations1_8),
    ((1, 12), bodies.SetAllocations1_12),
    ((1, 28), bodies.SetAllocations1_28),
    ((1, 34), bodies.SetAllocations1_34),
    ((1, 38), bodies.SetAllocations1_38),
]
RESHAPE = [((1, 30), bodies.Reshape), ((1, 34), bodies.Reshape1_34), ((1, 38), bodies.Reshape1_38)]
CREATE = [((1, 0), bodies.CreateProvider), ((1, 14), bodies.CreateProvider1_14)]
UPDATE = [((1, 0), bodies.UpdateProvider), ((1, 14), bodies.UpdateProvider1_14)]
AGGREGATES = [((1, 1), bodies.Aggregates), ((1, 19), bodies.SetAggregates1_19)]

R = "placement:resource_providers:"
C = "placement:resource_classes:"
T = "placement:traits:"
A = "placement:allocations:"

ROUTES = (
    Route("GET", "/", versions.list, PUBLIC),
    # providers
    Route("GET", P, providers.list, R + "list"),
    Route("POST", P, providers.create, R + "create", body=CREATE),
    Route("GET", ONE, providers.show, R + "show"),
    Route("PUT", ONE, providers.update, R + "update", body=UPDATE),
    Route("DELETE", ONE, providers.delete, R + "delete", status=204),
    # inventories
    Route("GET", ONE + "/inventories", inventories.list, R + "inventories:list"),
    Route("POST", ONE + "/inventories", inventories.create, R + "inventories:create", body=bodies.CreateInventory, status=201),
    Route("PUT", ONE + "/inventories", inventories.replace, R + "inventories:update", body=bodies.SetInventories),
    Route("DELETE", ONE + "/inventories", inventories.clear, R + "inventories:delete", since=(1, 5), status=204),
    Route("DELETE", ONE + "/inventories", inventories.clear_too_early, R + "inventories:delete", until=(1, 4), status=204),
    Route("GET", INVENTORY, inventories.show, R + "inventories:show"),
    Route("PUT", INVENTORY, inventories.update, R + "inventories:update", body=bodies.InventoryIn),
    Route("DELETE", INVENTORY, inventories.delete, R + "inventories:delete", status=204),
    Route("GET", ONE + "/usages", inventories.usages, R + "usages"),
    # what else a provider has
    Route("GET", ONE + "/aggregates", aggregates.list, R + "aggregates:list", since=(1, 1)),
    Route("PUT", ONE + "/aggregates", aggregates.replace, R + "aggregates:update", body=AGGREGATES, since=(1, 1)),
    Route("GET", ONE + "/traits", traits.list_of_provider, R + "traits:list", since=(1, 6)),
    Route("PUT", ONE + "/traits", traits.set_of_provider, R + "traits:update", body=bodies.SetTraits, since=(1, 6)),
    Route("DELETE", ONE + "/traits", traits.clear_of_provider, R + "traits:delete", since=(1, 6), status=204),
    Route("GET", ONE + "/allocations", allocations.list_of_provider, R + "allocations:list"),
    # allocations
    Route("POST", "/allocations", allocations.replace_many, A + "manage", body=MANY, since=(1, 13), status=204),
    Route("GET", "/allocations/{consumer_uuid}", allocations.show, A + "list"),
    Route("PUT", "/allocations/{consumer_uuid}", allocations.replace, A + "update", body=HELD, status=204),
    Route("DELETE", "/allocations/{consumer_uuid}", allocations.delete, A + "delete", status=204),
    Route("GET", "/allocation_candidates", candidates.list, "placement:allocation_candidates:list", since=(1, 10)),
    Route("GET", "/usages", usages.list, "placement:usages", since=(1, 9), deferred=True),
    Route("POST", "/reshaper", reshaper.reshape, "placement:reshaper:reshape", body=RESHAPE, since=(1, 30), status=204),
    # names
    Route("GET", "/resource_classes", resource_classes.list, C + "list", since=(1, 2)),
    Route("POST", "/resource_classes", resource_classes.create, C + "create", body=bodies.NewClass, since=(1, 2), status=201),
    Route("GET", "/resource_classes/{name}", resource_classes.show, C + "show", since=(1, 2)),
    Route("PUT", "/resource_classes/{name}", resource_classes.rename, C + "update", body=bodies.NewClass, since=(1, 2), until=(1, 6)),
    Route("PUT", "/resource_classes/{name}", resource_classes.put, C + "update", since=(1, 7), status=201),
    Route("DELETE", "/resource_classes/{name}", resource_classes.delete, C + "delete", since=(1, 2), status=204),
    Route("GET", "/traits", traits.list, T + "list", since=(1, 6)),
    Route("GET", "/traits/{name}", traits.show, T + "show", since=(1, 6), status=204),
    Route("PUT", "/traits/{name}", traits.put, T + "update", since=(1, 6), status=201),
    Route("DELETE", "/traits/{name}", traits.delete, T + "delete", since=(1, 6), status=204),
)


def mount(path: str) -> tuple[str, str]:
    """The catalog may name …/placement; links then begin with it."""
    prefix = "/placement"
    return (prefix, path[len(prefix) :] or "/") if path == prefix or path.startswith(prefix + "/") else ("", path)


def check(req: Request) -> None:
    """The edge's check of every request, before policy: the kinds of content that go in and out."""
    kind = (req.header("content-type") or "").partition(";")[0].strip().lower()
    length = req.header("content-length") or "0"
    if not kind and length.isdigit() and int(length) > 0:
        raise BadRequest("content-type header required when content-length > 0")
    if req.route.body and kind != "application/json":
        media = kind or None
        raise UnsupportedMediaType(f"The media type {media} is not supported, use application/json", media=media)
    if req.route.status not in (201, 204) and not accepts_json(req.header("accept")):
        raise NotAcceptable("Only application/json is provided")


def accepts_json(accept: str | None) -> bool:
    """Whether an Accept header allows application/json. Without one everything is allowed."""
    if not accept:
        return True
    for part in accept.lower().split(","):
        media, *parameters = [word.strip() for word in part.split(";")]
        refused = any(p.replace(" ", "") in ("q=0", "q=0.0", "q=0.00", "q=0.000") for p in parameters)
        if media in ("application/json", "application/*", "*/*") and not refused:
            return True
    return False
