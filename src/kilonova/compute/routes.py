"""Every URL that compute serves, one line each; resources around servers are in routes_resources.py."""

from kilonova.compute.api import explanation, server_actions, server_bodies, server_list, server_rebuild, server_snapshot, servers, versions
from kilonova.compute.routes_resources import RESOURCE_ROUTES
from kilonova.core.routing import PUBLIC, Route

_S = "os_compute_api:servers:"
ROUTES = (
    Route("GET", "/", versions.list, PUBLIC),
    Route("GET", "/v2.1", versions.show_version, PUBLIC),
    Route("GET", "/v2", versions.show_old_version, PUBLIC),
    # servers
    Route("GET", "/servers", server_list.brief, _S + "index"),
    Route("GET", "/servers/detail", server_list.detail, _S + "detail"),
    Route("POST", "/servers", servers.create, _S + "create", body=server_bodies.CREATE, status=202),
    Route("GET", "/servers/{server_id}", servers.show, _S + "show", deferred=True),
    Route("PUT", "/servers/{server_id}", servers.update, _S + "update", body=server_bodies.UPDATE, deferred=True),
    Route("DELETE", "/servers/{server_id}", servers.delete, _S + "delete", deferred=True, status=204),
    # actions
    Route(
        "POST",
        "/servers/{server_id}/action",
        server_actions.start,
        _S + "start",
        action="os-start",
        body=server_bodies.AnyAction,
        deferred=True,
        status=202,
    ),
    Route(
        "POST",
        "/servers/{server_id}/action",
        server_actions.stop,
        _S + "stop",
        action="os-stop",
        body=server_bodies.AnyAction,
        deferred=True,
        status=202,
    ),
    Route(
        "POST",
        "/servers/{server_id}/action",
        server_actions.reboot,
        _S + "reboot",
        action="reboot",
        body=server_bodies.RebootAction,
        deferred=True,
        status=202,
    ),
    Route(
        "POST",
        "/servers/{server_id}/action",
        server_rebuild.rebuild,
        _S + "rebuild",
        action="rebuild",
        body=server_bodies.REBUILD,
        deferred=True,
        status=202,
    ),
    Route(
        "POST",
        "/servers/{server_id}/action",
        server_snapshot.create_image,
        _S + "create_image",
        action="createImage",
        body=server_bodies.CreateImageAction,
        deferred=True,
        status=202,
    ),
    Route(
        "POST",
        "/servers/{server_id}/action",
        server_actions.console_output,
        "os_compute_api:os-console-output",
        action="os-getConsoleOutput",
        body=server_bodies.ConsoleOutputAction,
        deferred=True,
    ),
    # ours
    Route("GET", "/kilonova/servers/{server_id}/explanation", explanation.show, _S + "show", deferred=True),
    *RESOURCE_ROUTES,
)
