"""Which versions we announce, and which paths belong to them.

A minor version only says that a feature exists. 2.14 to 2.16 and 2.18 (image cache) are not announced, as in a Glance without a cache.
"""

import re
from typing import Any

MINORS = (17, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
_V2 = re.compile(r"/v2(?:\.(\d|1[0-8]))?(?=/|$)")


def document(base_url: str) -> dict[str, Any]:
    links = [{"rel": "self", "href": f"{base_url}/v2/"}]
    return {
        "versions": [{"id": f"v2.{minor}", "status": "CURRENT" if minor == MINORS[0] else "SUPPORTED", "links": links} for minor in MINORS]
    }


def mount(path: str) -> tuple[str, str] | None:
    """The routes' own path: /v2.7/images is /v2/images. A slash at the end names an empty segment, which is no path of ours."""
    if path in ("/", "/versions"):
        return "", path
    found = _V2.match(path)
    if found is None or path.endswith("/"):
        return None
    return "", "/v2" + path[found.end() :]


def ours(path: str) -> bool:
    """Whether an unknown path is below /v2 (404), or asks for a version that does not exist (300 and the list)."""
    return _V2.match(path) is not None
