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
    title = 'Unable to {verb} immutable {what} resource: `{id}. Set resource option "immutable" to false first.'


class DomainEnabled(errors.Forbidden):
    code = "identity.domain_enabled"
    title = "Cannot delete a domain that is enabled, please disable it first."


class RegionInUse(errors.Forbidden):
    code = "identity.region_in_use"
    title = "Unable to delete region {id} because it or its child regions have associated endpoints."


class NotALeaf(errors.Forbidden):
    code = "identity.not_a_leaf"
    title = (
        "Cannot delete the project {project} since it is not a leaf in the hierarchy. "
        "Use the cascade option if you want to delete a whole subtree."
    )


class NoSuchGrant(errors.NotFound):
    code = "identity.no_grant"
    title = "Could not find role assignment with role: {role}, user or group: {actor}, project, domain, or system: {target}."


class NotAMember(errors.NotFound):
    code = "identity.not_a_member"
    title = "User '{user}' not found in group '{group}'."


class ForeignRole(errors.Forbidden):
    code = "identity.foreign_role"
    title = "Project or domain {target} must be in the same domain as the role {role} being assigned."


class MayNotBeImplied(errors.Forbidden):
    code = "identity.implied_role"
    title = "{role} cannot be an implied roles"


class UnsupportedMethod(errors.Unauthorized):
    """The only 401 that says more: which methods there are."""

    code = "identity.method"
    title = "Attempted to authenticate with an unsupported method."
    METHODS = ("password", "token")


class WrongCredentials(errors.Unauthorized):
    """One answer for every credential problem; `reason` is for the log only."""

    code = "identity.credentials"
