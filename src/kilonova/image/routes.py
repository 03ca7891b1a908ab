"""Every URL that image serves, one line each. /v2.N is taken for /v2 before (versions.mount)."""

from kilonova.core.routing import ANY_TOKEN, PUBLIC, Route
from kilonova.image.api import actions, files, images, imports, info, members, schemas, tags, versions

_IMAGE = "/v2/images/{image_id}"

ROUTES = (
    Route("GET", "/", versions.choices, PUBLIC),
    Route("GET", "/versions", versions.list, PUBLIC),
    Route("GET", "/v2", versions.redirect, PUBLIC),
    # images
    Route("GET", "/v2/images", images.list, "get_images"),
    Route("POST", "/v2/images", images.create, "add_image", status=201, deferred=True),
    Route("GET", _IMAGE, images.show, "get_image", deferred=True),
    Route("PATCH", _IMAGE, images.update, "modify_image", deferred=True),
    Route("DELETE", _IMAGE, images.delete, "delete_image", status=204, deferred=True),
    # bytes
    Route("GET", f"{_IMAGE}/file", files.download, "download_image", deferred=True),
    Route("PUT", f"{_IMAGE}/file", files.upload, "upload_image", status=204, deferred=True, stream=True),
    Route("PUT", f"{_IMAGE}/stage", files.stage, "upload_image", status=204, deferred=True, stream=True),
    Route("POST", f"{_IMAGE}/import", imports.create, "modify_image", status=202, deferred=True),
    Route("GET", f"{_IMAGE}/tasks", imports.list_tasks, "get_image", deferred=True),
    # what hangs on them
    Route("POST", f"{_IMAGE}/actions/deactivate", actions.deactivate, "deactivate", status=204, deferred=True),
    Route("POST", f"{_IMAGE}/actions/reactivate", actions.reactivate, "reactivate", status=204, deferred=True),
    Route("PUT", _IMAGE + "/tags/{tag}", tags.add, "modify_image", status=204, deferred=True),
    Route("DELETE", _IMAGE + "/tags/{tag}", tags.remove, "modify_image", status=204, deferred=True),
    Route("GET", f"{_IMAGE}/members", members.list, "get_members", deferred=True),
    Route("POST", f"{_IMAGE}/members", members.create, "add_member", deferred=True),
    Route("GET", _IMAGE + "/members/{member_id}", members.show, "get_member", deferred=True),
    Route("PUT", _IMAGE + "/members/{member_id}", members.update, "modify_member", deferred=True),
    Route("DELETE", _IMAGE + "/members/{member_id}", members.delete, "delete_member", status=204, deferred=True),
    # what clients read about us
    Route("GET", "/v2/schemas/{name:path}", schemas.show, ANY_TOKEN),
    Route("GET", "/v2/info/import", info.import_methods, ANY_TOKEN),
    Route("GET", "/v2/info/stores", info.stores, ANY_TOKEN),
    Route("GET", "/v2/info/stores/detail", info.stores_detail, "stores_info_detail"),
    Route("GET", "/v2/info/usage", info.usage, ANY_TOKEN),
)
