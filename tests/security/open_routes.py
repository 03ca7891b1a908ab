"""Every route that no policy rule guards, with the reason. A route is added here by a decision, never by accident (row 69)."""

PUBLIC: dict[str, str] = {
    "identity GET /": "versions",
    "identity GET /v3": "version",
    "identity POST /v3/auth/tokens": "how a token is got",
    "identity POST /v3/users/{user_id}/password": "an expired password can be changed; the old one proves who asks",
    "image GET /": "versions",
    "image GET /versions": "versions",
    "image GET /v2": "versions",
    "placement GET /": "versions",
    "compute GET /": "versions",
    "compute GET /v2": "version",
    "compute GET /v2.1": "version",
    "network GET /": "versions",
}
"""Without a token."""

ANY_TOKEN: dict[str, str] = {
    "identity GET /v3/auth/catalog": "of the caller's own token",
    "identity GET /v3/auth/projects": "of the caller himself",
    "identity GET /v3/auth/domains": "of the caller himself",
    "identity GET /v3/auth/system": "of the caller himself",
    "identity GET /v3/regions": "OpenStack's rule is empty",
    "identity GET /v3/regions/{region_id}": "OpenStack's rule is empty",
    "image GET /v2/schemas/{name:path}": "documents of the API",
    "image GET /v2/info/import": "what the service can do",
    "image GET /v2/info/stores": "names of stores",
    "image GET /v2/info/usage": "of the caller's own project",
    "network GET /v2.0/": "documents of the API",
    "network GET /v2.0/extensions": "documents of the API",
    "network GET /v2.0/extensions/{alias}": "documents of the API",
    "network GET /v2.0/quotas/{project_id}": "the handler asks get_quota, or that it is the caller's project",
    "compute GET /flavors": "those that the caller's project may use",
    "compute GET /flavors/detail": "those that the caller's project may use",
    "compute GET /flavors/{flavor_id}": "those that the caller's project may use",
    "compute GET /images": "the image service asks its own policy",
    "compute GET /images/detail": "the image service asks its own policy",
    "compute GET /images/{image_id}": "the image service asks its own policy",
    "compute DELETE /images/{image_id}": "the image service asks its own policy",
    "compute GET /images/{image_id}/metadata": "the image service asks its own policy",
    "compute POST /images/{image_id}/metadata": "the image service asks its own policy",
    "compute PUT /images/{image_id}/metadata": "the image service asks its own policy",
    "compute GET /images/{image_id}/metadata/{key}": "the image service asks its own policy",
    "compute PUT /images/{image_id}/metadata/{key}": "the image service asks its own policy",
    "compute DELETE /images/{image_id}/metadata/{key}": "the image service asks its own policy",
}
"""With any token. Routes that answer 410 whoever asks are not listed."""

EMPTY_RULES: dict[str, str] = {
    "os_compute_api:extensions": "documents of the API",
    "os_compute_api:limits": "of the caller's own project; another project is another rule",
    "os_compute_api:os-availability-zone:list": "names of zones; hosts are in the detailed list, which is for admins",
    "os_compute_api:os-quota-sets:defaults": "the defaults of the cloud",
}
"""Rules that are allow-all by OpenStack's default, where a route uses them."""
