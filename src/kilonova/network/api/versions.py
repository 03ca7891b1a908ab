"""Discovery: versions, resources, extensions."""

from typing import Any

from kilonova.core.context import Context
from kilonova.core.http import Reply, Request
from kilonova.network.errors import ExtensionNotFound

CORE = (("subnet", "subnets"), ("network", "networks"), ("port", "ports"), ("subnetpool", "subnetpools"))
EXTENSIONS: tuple[tuple[str, str, str, str], ...] = (
    ("agent", "agent", "The agent management extension.", "2013-02-03T10:00:00-00:00"),
    ("allowed-address-pairs", "Allowed Address Pairs", "Provides allowed address pairs", "2013-07-23T10:00:00-00:00"),
    ("auto-allocated-topology", "Auto Allocated Topology Services", "Auto allocated topology services.", "2016-01-01T00:00:00-00:00"),
    ("availability_zone", "Availability Zone", "Availability zones of networks and routers.", "2015-01-01T10:00:00-00:00"),
    ("binding", "Port Binding", "Expose port bindings of a virtual port to external application", "2014-02-03T10:00:00-00:00"),
    ("default-subnetpools", "Default Subnetpools", "Marking a subnetpool as the default", "2016-02-18T18:00:00-00:00"),
    ("empty-string-filtering", "Empty String Filtering Extension", "Filtering by empty strings", "2018-05-01T10:00:00-00:00"),
    ("ext-gw-mode", "Neutron L3 Configurable external gateway mode", "SNAT on or off at the gateway", "2013-03-28T10:00:00-00:00"),
    ("external-net", "Neutron external network", "Adds external network attribute to network resource.", "2013-01-14T10:00:00-00:00"),
    ("extra_dhcp_opt", "Neutron Extra DHCP options", "Extra options for DHCP of a port", "2013-03-17T12:00:00-00:00"),
    ("extraroute", "Neutron Extra Route", "Extra routes configuration for L3 router", "2013-02-01T10:00:00-00:00"),
    ("extraroute-atomic", "Atomically add/remove extra routes", "Edit extra routes of a router atomically", "2019-07-10T00:00:00+00:00"),
    ("fip-port-details", "Floating IP Port Details Extension", "Shows the port a floating IP is on", "2018-04-09T10:00:00-00:00"),
    ("ip-substring-filtering", "IP address substring filtering", "Ports by a part of their address", "2017-11-28T09:00:00-00:00"),
    ("ip_allocation", "IP Allocation", "Shows how a port gets its addresses", "2016-06-10T23:00:00-00:00"),
    ("net-mtu", "Network MTU", "Provides MTU attribute for a network resource.", "2015-03-25T10:00:00-00:00"),
    ("net-mtu-writable", "Network MTU (writable)", "The MTU of a network can be changed", "2017-07-12T00:00:00-00:00"),
    ("network-ip-availability", "Network IP Availability", "Addresses used of each network and subnet", "2015-09-24T00:00:00-00:00"),
    ("network_availability_zone", "Network Availability Zone", "Availability zones of networks", "2015-01-01T10:00:00-00:00"),
    ("pagination", "Pagination support", "Extension that indicates that pagination is enabled.", "2016-06-12T00:00:00-00:00"),
    ("port-mac-address-regenerate", "Neutron Port MAC address regenerate", "A MAC of null gives a new one", "2018-05-03T10:00:00-00:00"),
    ("port-security", "Port Security", "Provides port security", "2012-07-23T10:00:00-00:00"),
    ("project-id", "project_id field enabled", "Extension that indicates that project_id field is enabled.", "2016-09-09T09:09:09-09:09"),
    ("provider", "Provider Network", "Expose mapping of virtual networks to physical networks", "2012-09-07T10:00:00-00:00"),
    ("quotas", "Quota management support", "Expose functions for quotas management per tenant", "2012-07-29T10:00:00-00:00"),
    ("quota_details", "Quota details management support", "Use of quotas per project", "2017-02-10T10:00:00-00:00"),
    ("revision-if-match", "If-Match constraints based on revision_number", "Conditional updates", "2016-12-11T00:00:00-00:00"),
    ("router", "Neutron L3 Router", "Routers and floating IPs.", "2012-07-20T10:00:00-00:00"),
    ("router_availability_zone", "Router Availability Zone", "Availability zones of routers.", "2015-01-01T10:00:00-00:00"),
    ("security-group", "security-group", "The security groups extension.", "2012-10-05T10:00:00-00:00"),
    ("security-groups-normalized-cidr", "Normalized CIDR field for security group rules", "Shows a rule's prefix in its normal form",
     "2020-07-28T10:00:00-00:00"),
    ("security-groups-shared-filtering", "Security group filtering on the shared field", "Groups by the field shared",
     "2021-10-05T09:00:00-00:00"),
    ("service-type", "Neutron Service Type Management", "API for retrieving service providers", "2013-01-20T00:00:00-00:00"),
    ("sort-key-validation", "Sort keys validation", "Sort keys are checked", "2018-07-04T10:00:00-00:00"),
    ("sorting", "Sorting support", "Extension that indicates that sorting is enabled.", "2016-06-12T00:00:00-00:00"),
    ("standard-attr-description", "standard-attr-description", "Descriptions of resources", "2016-02-10T10:00:00-00:00"),
    ("standard-attr-revisions", "Resource revision numbers", "Revision numbers of resources", "2016-04-11T10:00:00-00:00"),
    ("standard-attr-tag", "Tag support for resources with standard attribute: all", "Tags of resources", "2017-01-01T00:00:00-00:00"),
    ("standard-attr-timestamp", "Resource timestamps", "created_at and updated_at of resources", "2016-09-12T10:00:00-00:00"),
    ("subnet-service-types", "Subnet service types", "Which ports a subnet serves", "2016-03-15T18:00:00-00:00"),
    ("subnet_allocation", "Subnet Allocation", "Enables allocation of subnets from a subnet pool", "2015-03-30T10:00:00-00:00"),
    ("subnetpool-prefix-ops", "Subnet Pool Prefix Operations", "Adding and removing prefixes of a pool", "2019-02-08T10:00:00-00:00"),
    ("tag-creation", "Tag creation extension", "Tags given with a new resource", "2024-07-23T10:00:00-00:00"),
)  # fmt: skip
"""(alias, name, description, updated) of what works; clients switch features on by these aliases."""


async def list(c: Any, ctx: Context, req: Request) -> Any:
    return {"versions": [{"id": "v2.0", "status": "CURRENT", "links": [{"rel": "self", "href": f"{req.base_url}/v2.0/"}]}]}


async def resources(c: Any, ctx: Context, req: Request) -> Any:
    return {
        "resources": [
            {"name": name, "collection": plural, "links": [{"rel": "self", "href": f"{req.base_url}/v2.0/{plural}"}]}
            for name, plural in CORE
        ]
    }


def _extension(row: tuple[str, str, str, str]) -> dict[str, Any]:
    alias, name, description, updated = row
    return {"alias": alias, "name": name, "description": description, "updated": updated, "links": []}


async def extensions(c: Any, ctx: Context, req: Request) -> Any:
    return {"extensions": [_extension(row) for row in EXTENSIONS]}


async def extension(c: Any, ctx: Context, req: Request, alias: str) -> Reply:
    for row in EXTENSIONS:
        if row[0] == alias:
            return Reply({"extension": _extension(row)})
    raise ExtensionNotFound(alias=alias[:80])
