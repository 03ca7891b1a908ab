"""Everything that can go wrong in placement. Sentences are Placement's; `code` is what it tells from version 1.23 on."""

from kilonova.core import errors

UNDEFINED = "placement.undefined_code"
CONCURRENT = "placement.concurrent_update"


class Invalid(errors.BadRequest):
    code = UNDEFINED


class InvalidBody(Invalid):
    title = "JSON does not validate: {reason}"


class InvalidQuery(Invalid):
    title = "Invalid query string parameters: {reason}"


class BadQueryValue(Invalid):
    code = "placement.query.bad_value"


class MissingQueryValue(Invalid):
    code = "placement.query.missing_value"


class RepeatedQueryKey(Invalid):
    code = "placement.query.duplicate_key"
    title = 'Query parameter "{name}" may be specified only once.'


class WrongMethod(errors.MethodNotAllowed):
    """details: method, allowed."""

    code = UNDEFINED
    title = "The method specified is not allowed for this resource."


# providers


class ProviderNotFound(errors.NotFound):
    code = UNDEFINED
    title = "No resource provider with uuid {provider} found"


class DuplicateName(errors.Conflict):
    code = "placement.duplicate_name"
    title = "Conflicting resource provider {field}: {value} already exists."


class CannotCreateProvider(Invalid):
    title = 'Unable to create resource provider "{name}", {provider}: Object action create failed because: {reason}'


class CannotSaveProvider(Invalid):
    title = "Unable to save resource provider {provider}: Object action update failed because: {reason}"


class ProviderInUse(errors.Conflict):
    code = "placement.resource_provider.inuse"
    title = "Unable to delete resource provider {provider}: Resource provider has allocations."


class CannotDeleteParent(errors.Conflict):
    code = "placement.resource_provider.cannot_delete_parent"
    title = "Unable to delete parent resource provider {provider}: It has child resource providers."


class GenerationConflict(errors.Conflict):
    code = CONCURRENT
    title = "resource provider generation conflict"


class GenerationChanged(errors.Conflict):
    code = CONCURRENT
    title = "Resource provider's generation already changed. Please update the generation and try again."


# inventories


class InventoryNotFound(errors.NotFound):
    code = UNDEFINED
    title = "No inventory of class {resource_class} for {provider}"


class NothingToDelete(errors.NotFound):
    code = UNDEFINED
    title = "No inventory of class {resource_class} found for delete: No inventory of class {resource_class} for {provider}"


class NothingToUpdate(Invalid):
    title = "No inventory record with resource class for resource provider {provider}: No inventory of class {resource_class} found."


class InventoryExists(errors.Conflict):
    code = CONCURRENT
    title = "Update conflict: resource provider {provider} has an inventory of class {resource_class} already."


class InventoryInUse(errors.Conflict):
    """prefix: what Placement says before it; it differs with the request."""

    code = "placement.inventory.inuse"
    title = "{prefix}Inventory for '{resource_class}' on resource provider '{provider}' in use."


class OneInventoryInUse(errors.Conflict):
    code = CONCURRENT
    title = (
        "Unable to delete inventory of class {resource_class}: Inventory for '{resource_class}' on resource provider '{provider}' in use."
    )


class BadInventory(Invalid):
    title = (
        "Unable to update inventory for resource provider {provider}: Invalid inventory for '{resource_class}' on resource provider "
        "'{provider}'. The reserved value is {relation} total."
    )


# names


class UnknownClassInInventory(Invalid):
    title = "Unknown resource class in inventory for resource provider {provider}: No such resource class {name}."


class UnknownClassInQuery(Invalid):
    title = "Invalid resource class in resources parameter: No such resource class {name}."


class UnknownClassInAllocation(Invalid):
    title = "Unable to allocate inventory for consumer {consumer}: No such resource class {name}."


class ClassNotFound(errors.NotFound):
    code = UNDEFINED
    title = "No such resource class {name}."


class ClassExists(errors.Conflict):
    code = UNDEFINED
    title = "Conflicting resource class already exists: {name}"


class ClassInUse(errors.Conflict):
    code = UNDEFINED
    title = "Error in delete resource class: Cannot delete resource class {name}. Class is in use in inventory."


class StandardClass(Invalid):
    title = "Error in {verb} resource class: Cannot {verb} standard resource class {name}."


class TraitNotFound(errors.NotFound):
    code = UNDEFINED
    title = "No such trait(s): {name}."


class UnknownTrait(Invalid):
    title = "No such trait {name}"


class UnknownTraits(Invalid):
    title = "No such trait(s): {name}."


class BadTraitName(Invalid):
    title = (
        'The trait is invalid. A valid trait must be no longer than 255 characters, start with the prefix "CUSTOM_" and use following '
        'characters: "A"-"Z", "0"-"9" and "_"'
    )


class StandardTrait(Invalid):
    title = "Cannot delete standard trait {name}."


class TraitInUse(errors.Conflict):
    code = UNDEFINED
    title = "The trait {name} is in use by a resource provider."


# allocations


class NoAllocations(errors.NotFound):
    code = UNDEFINED
    title = "No allocations for consumer '{consumer}'"


class UnknownProvider(Invalid):
    title = "Allocation for resource provider '{provider}' that does not exist."


class ConsumerConflict(errors.Conflict):
    code = CONCURRENT
    title = "consumer generation conflict - expected {expected} but got {got}"


class NotInInventory(errors.Conflict):
    code = UNDEFINED
    title = "Unable to allocate inventory: Inventory for '{resource_class}' on resource provider '{provider}' invalid."


class ViolatesInventory(errors.Conflict):
    code = UNDEFINED
    title = (
        "Unable to allocate inventory: Unable to create allocation for '{resource_class}' on resource provider '{provider}'. "
        "The requested amount would {what}."
    )


class NoCapacity(errors.Conflict):
    """Of the contract's claim. free: the largest amount that one claim could have had just then."""

    code = "placement.no_capacity"
    title = "Resource provider {provider} has {free} of {resource_class} to give and {wanted} were asked for."
    advice = "kilonova explain {provider}"


class ConsumerGone(errors.Conflict):
    """Of the contract's claim."""

    code = "placement.consumer_gone"
    title = "Consumer {consumer} has been released for good."


class AlreadyClaimed(errors.Conflict):
    code = "placement.already_claimed"
    title = "Consumer {consumer} holds an allocation of resource provider {provider} already; release it first."
