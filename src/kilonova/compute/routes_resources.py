"""URLs of the resources around servers: flavors, key pairs, quota, hosts, actions, metadata, tags, …"""

from kilonova.core.routing import Route

RESOURCE_ROUTES: tuple[Route, ...] = ()
