"""Everything that can go wrong in network. Sentences and type names are Neutron's where clients read them."""

from kilonova.core import errors


class Invalid(errors.BadRequest):
    """An attribute's value is wrong."""

    code = "network.invalid"
    kind = "HTTPBadRequest"
    title = "Invalid input for {field}. Reason: {reason}."


class BadBody(errors.BadRequest):
    code = "network.bad_body"
    kind = "HTTPBadRequest"


class BadResource(errors.BadRequest):
    """Neutron's BadRequest: Bad router request: …"""

    code = "network.bad_resource"
    kind = "BadRequest"
    title = "Bad {resource} request: {reason}."


class InvalidInput(errors.BadRequest):
    code = "network.invalid_input"
    kind = "InvalidInput"
    title = "Invalid input for operation: {reason}."


class Hidden(errors.NotFound):
    """What the caller may not see."""

    code = "network.hidden"
    kind = "HTTPNotFound"
    title = "The resource could not be found."


class NetworkNotFound(errors.NotFound):
    code = "network.network_not_found"
    title = "Network {id} could not be found."


class SubnetNotFound(errors.NotFound):
    code = "network.subnet_not_found"
    title = "Subnet {id} could not be found."


class PortNotFound(errors.NotFound):
    code = "network.port_not_found"
    title = "Port {id} could not be found."


class RouterNotFound(errors.NotFound):
    code = "network.router_not_found"
    title = "Router {id} could not be found"


class FloatingIPNotFound(errors.NotFound):
    code = "network.floatingip_not_found"
    title = "Floating IP {id} could not be found"


class SecurityGroupNotFound(errors.NotFound):
    code = "network.security_group_not_found"
    title = "Security group {id} does not exist"


class SecurityGroupRuleNotFound(errors.NotFound):
    code = "network.security_group_rule_not_found"
    title = "Security group rule {id} does not exist"


class SubnetPoolNotFound(errors.NotFound):
    code = "network.subnetpool_not_found"
    title = "Subnet pool {id} could not be found."


class AgentNotFound(errors.NotFound):
    code = "network.agent_not_found"
    title = "Agent {id} could not be found."


class TagNotFound(errors.NotFound):
    code = "network.tag_not_found"
    title = "Tag {tag} could not be found."


class TenantQuotaNotFound(errors.NotFound):
    code = "network.quota_not_found"
    title = "Quota for tenant {id} could not be found."


class ExtensionNotFound(errors.NotFound):
    code = "network.extension_not_found"
    kind = "HTTPNotFound"
    title = "Extension with alias {alias} does not exist"


class OverQuota(errors.Conflict):
    code = "network.over_quota"
    title = "Quota exceeded for resources: ['{resource}']."


class RevisionNumberConstraintFailed(errors.PreconditionFailed):
    code = "network.revision"
    title = "Constrained to {wanted}, but current revision is {have}"


class NetworkInUse(errors.Conflict):
    code = "network.network_in_use"
    title = (
        "Unable to complete operation on network {id}. There are one or more ports still in use on the network, id for these ports is "
        "{ports}."
    )


class SubnetInUse(errors.Conflict):
    code = "network.subnet_in_use"
    title = "Unable to complete operation on subnet {id}: {reason}"


class PortInUse(errors.Conflict):
    code = "network.port_in_use"
    title = "Unable to complete operation on port {id} for network {network}. Port already has an attached device {device}."


class ServicePortInUse(errors.Conflict):
    code = "network.service_port_in_use"
    title = "Port {id} cannot be deleted directly via the port API: {reason}"


class MacAddressInUse(errors.Conflict):
    code = "network.mac_in_use"
    title = "Unable to complete operation for network {network}. The mac address {mac} is in use."


class IpAddressAlreadyAllocated(errors.Conflict):
    code = "network.ip_allocated"
    title = "IP address {ip} already allocated in subnet {subnet}"


class IpAddressGenerationFailure(errors.Conflict):
    code = "network.no_address"
    title = "No more IP addresses available on network {network}."


class InvalidIpForSubnet(errors.BadRequest):
    code = "network.ip_not_of_subnet"
    title = "IP address {ip} is not a valid IP for the specified subnet."


class InvalidIpForNetwork(errors.BadRequest):
    code = "network.ip_not_of_network"
    title = "IP address {ip} is not a valid IP for any of the subnets on the specified network."


class InvalidAllocationPool(errors.BadRequest):
    code = "network.pool_invalid"
    title = "The allocation pool {pool} is not valid."


class OutOfBoundsAllocationPool(errors.BadRequest):
    code = "network.pool_out_of_bounds"
    title = "The allocation pool {pool} spans beyond the subnet cidr {cidr}."


class OverlappingAllocationPools(errors.Conflict):
    code = "network.pools_overlap"
    title = "Found overlapping allocation pools: {first} {second} for subnet {cidr}."


class GatewayConflictWithAllocationPools(errors.Conflict):
    code = "network.gateway_in_pool"
    title = "Gateway ip {ip} conflicts with allocation pool {pool}."


class FlatNetworkInUse(errors.Conflict):
    code = "network.flat_in_use"
    title = "Unable to create the flat network. Physical network {physical} is in use."


class SegmentInUse(errors.Conflict):
    code = "network.segment_in_use"
    kind = "TunnelIdInUse"
    title = "Unable to create the network. The tunnel ID {id} is in use."


class NoNetworkAvailable(errors.Unavailable):
    code = "network.no_segment"
    title = "Unable to create the network. No tenant network is available for allocation."


class DefaultExternalNetworkExists(errors.Conflict):
    code = "network.default_external_exists"
    title = "A default external network already exists: {id}."


class ExternalNetworkInUse(errors.Conflict):
    code = "network.external_in_use"
    title = "External network {id} cannot be updated to be made non-external, since it has existing gateway ports."


class InvalidSharedSetting(errors.Conflict):
    code = "network.shared_in_use"
    title = "Unable to reconfigure sharing settings for network {network}. Multiple tenants are using it."


class SecurityGroupInUse(errors.Conflict):
    code = "network.security_group_in_use"
    title = "Security Group {id} in use."


class SecurityGroupCannotRemoveDefault(errors.Conflict):
    code = "network.default_group_delete"
    title = "Insufficient rights for removing default security group."


class SecurityGroupCannotUpdateDefault(errors.Conflict):
    code = "network.default_group_update"
    title = "Updating default security group not allowed."


class SecurityGroupDefaultAlreadyExists(errors.Conflict):
    code = "network.default_group_exists"
    title = "Default security group already exists."


class SecurityGroupRuleExists(errors.Conflict):
    code = "network.rule_exists"
    title = "Security group rule already exists. Rule id is {id}."


class RuleInvalid(errors.BadRequest):
    """A rule that makes no sense; `kind` is given with the error."""

    code = "network.rule_invalid"


class RouterInUse(errors.Conflict):
    code = "network.router_in_use"
    title = "Router {id} {reason}"


class RouterInterfaceNotFound(errors.NotFound):
    code = "network.interface_not_found"
    title = "Router {router} does not have an interface with id {port}"


class RouterInterfaceNotFoundForSubnet(errors.NotFound):
    code = "network.interface_not_found_for_subnet"
    title = "Router {router} has no interface on subnet {subnet}"


class RouterInterfaceInUseByFloatingIP(errors.Conflict):
    code = "network.interface_in_use_by_floatingip"
    title = "Router interface for subnet {subnet} on router {router} cannot be deleted, as it is required by one or more floating IPs."


class RouterInterfaceInUseByRoute(errors.Conflict):
    code = "network.interface_in_use_by_route"
    title = "Router interface for subnet {subnet} on router {router} cannot be deleted, as it is required by one or more routes."


class RouterExternalGatewayInUseByFloatingIp(errors.Conflict):
    code = "network.gateway_in_use"
    title = (
        "Gateway cannot be updated for router {router}, since a gateway to external network {network} is required by one or more "
        "floating IPs."
    )


class InvalidRoutes(errors.BadRequest):
    code = "network.routes_invalid"
    title = "Invalid format for routes: {routes}, {reason}"


class ExternalGatewayForFloatingIPNotFound(errors.NotFound):
    code = "network.no_gateway_for_floatingip"
    title = "External network {network} is not reachable from subnet {subnet}.  Therefore, cannot associate Port {port} with a Floating IP."


class FloatingIPPortAlreadyAssociated(errors.Conflict):
    code = "network.floatingip_associated"
    title = (
        "Cannot associate floating IP {address} ({id}) with port {port} using fixed IP {fixed}, as that fixed IP already has a floating IP "
        "on external network {network}."
    )


class SubnetAllocationError(errors.Conflict):
    code = "network.pool_exhausted"
    title = "Failed to allocate subnet: {reason}."


class PrefixLength(errors.BadRequest):
    """A prefix length that the pool does not allow."""

    code = "network.pool_prefix"
    title = "Unable to allocate subnet with prefix length {length}, {bound} allowed prefix is {limit}."


class IllegalSubnetPoolPrefixUpdate(errors.BadRequest):
    code = "network.pool_shrinks"
    title = "Illegal update to prefixes: {reason}."


class SubnetPoolDeleteError(errors.Conflict):
    code = "network.pool_in_use"
    title = "Unable to delete subnet pool: Subnet pool has existing allocations."


class AddressPairAndPortSecurityRequired(errors.Conflict):
    code = "network.pairs_need_security"
    title = "Port Security must be enabled in order to have allowed address pairs on a port."


class PortSecurityPortHasSecurityGroup(errors.Conflict):
    code = "network.port_has_groups"
    title = "Port has security group associated. Cannot disable port security or IP address until security group is removed."


class PortSecurityAndIPRequiredForSecurityGroups(errors.Conflict):
    code = "network.groups_need_security"
    title = "Port security must be enabled and port must have an IP address in order to use security groups."


class DeviceIDNotOwnedByTenant(errors.Conflict):
    code = "network.device_not_owned"
    title = "The following device_id {device} is not owned by your tenant or matches another tenants router."


class UnsupportedPortDeviceOwner(errors.BadRequest):
    code = "network.device_owner"
    title = "Operation {op} is not supported for device_owner {owner} on port {id}."


class AutoAllocationFailure(errors.Conflict):
    code = "network.auto_allocation"
    title = "Deployment error: {reason}."


class AgentInUse(errors.Conflict):
    code = "network.agent_in_use"
    kind = "AgentNotFoundByTypeHost"
    title = "Agent {id} is alive; stop its host first."


# ---- sentences of Nova, for the checks that compute makes through the contract


class NicNetworkNotFound(errors.BadRequest):
    code = "network.nic_network"
    title = "Network {id} could not be found."


class NicPortNotFound(errors.BadRequest):
    code = "network.nic_port"
    title = "Port id {id} could not be found."


class NicPortInUse(errors.Conflict):
    code = "network.nic_port_in_use"
    title = "Port {id} is still in use."


class NicPortNeedsIp(errors.BadRequest):
    code = "network.nic_port_ip"
    title = "Port {id} requires a FixedIP in order to be used."


class NetworkAmbiguous(errors.Conflict):
    code = "network.nic_ambiguous"
    title = "Multiple possible networks found, use a Network ID to be more specific."


class NetworkRequiresSubnet(errors.BadRequest):
    code = "network.nic_subnet"
    title = "Network {id} requires a subnet in order to boot instances on."


class ExternalNetworkForbidden(errors.Forbidden):
    code = "network.nic_external"
    title = "It is not allowed to create an interface on external network {id}"


class NicFixedIpInUse(errors.BadRequest):
    code = "network.nic_fixed_ip"
    title = "Fixed IP address {ip} is already in use on instance {server}."


class NicFixedIpInvalid(errors.BadRequest):
    code = "network.nic_fixed_ip_invalid"
    title = "Invalid input received: Fixed IP {ip} is not a valid ip address for network {network}."


class PortLimitExceeded(errors.Forbidden):
    code = "network.nic_quota"
    title = "Maximum number of ports exceeded"


class NicGroupNotFound(errors.BadRequest):
    code = "network.nic_group"
    title = "Security group {id} not found."


class NicGroupAmbiguous(errors.Conflict):
    code = "network.nic_group_ambiguous"
    title = "Multiple security groups found matching '{name}'. Use an ID to be more specific."


class NicGroupCannotBeApplied(errors.BadRequest):
    code = "network.nic_group_apply"
    title = "Network requires port_security_enabled and subnet associated in order to apply security groups."


class SinglePortForMany(errors.BadRequest):
    code = "network.nic_many"
    title = (
        "Unable to launch multiple instances with a single configured port ID. Please launch your instance one by one with different ports."
    )


class AutoNetworkImpossible(errors.BadRequest):
    code = "network.nic_auto"
    title = "Unable to automatically allocate a network for project {project}"


class ServerHasNoPorts(errors.BadRequest):
    code = "network.no_ports"
    title = "instance_id {server} could not be found as device id on any ports"


class ServerGroupNotFound(errors.NotFound):
    code = "network.server_group"
    title = "Security group {name} not found for project {project}."


class NotLeading(errors.Unavailable):
    """Said to agents, who ask again."""

    code = "network.not_leading"
    title = "This process does not lead the network agents (any more); another one does, or will in a moment."
