"""Everything that can go wrong in identity. Sentences are Keystone's where clients read them."""

from kilonova.core import errors


class CouldNotFind(errors.NotFound):
    code = "identity.not_found"
    title = "Could not find {what}: {id}."


class Duplicate(errors.Conflict):
    code = "identity.duplicate"
    title = "Conflict occurred attempting to store {what} - {reason}"


class Invalid(errors.BadRequest):
    code = "identity.invalid"
    title = "Invalid input for field/attribute {field}. Value: {value}. {reason}"


class Immutable(errors.Forbidden):
    code = "identity.immutable"
    title = "Unable to {verb} immutable {what} resource: `{id}. Set resource option immutable to false first."


class DomainEnabled(errors.Forbidden):
    code = "identity.domain_enabled"
    title = "Cannot delete a domain that is enabled, please disable it first."


class RegionInUse(errors.Forbidden):
    code = "identity.region_in_use"
    title = "Unable to delete region {id} because it or its child regions have associated endpoints."


class WrongCredentials(errors.Unauthorized):
    """One answer for every credential problem; `reason` is for the log only."""

    code = "identity.credentials"
