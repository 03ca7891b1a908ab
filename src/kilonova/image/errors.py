"""Everything that can go wrong with images. Sentences are Glance's where clients read them."""

from kilonova.core import errors


class ImageNotFound(errors.NotFound):
    code = "image.not_found"
    title = "No image found with ID {image}"


class ImageToDeleteNotFound(errors.NotFound):
    code = "image.not_found"
    title = "Failed to find image {image} to delete"


class MemberNotFound(errors.NotFound):
    code = "image.member_not_found"
    title = "{member} not found in the member list of the image {image}."


class TagNotFound(errors.NotFound):
    code = "image.tag_not_found"
    title = "The resource could not be found."


class Forbids(errors.Forbidden):
    code = "image.policy"
    title = "You are not authorized to complete {rule} action."


class OwnerForbidden(errors.Forbidden):
    code = "image.owner"
    title = "Access was denied to this resource. You are not permitted to create images owned by '{owner}'."


class ReadOnly(errors.Forbidden):
    code = "image.read_only"
    title = "Attribute '{name}' is read-only."


class Reserved(errors.Forbidden):
    code = "image.reserved"
    title = "Attribute '{name}' is reserved."


class NotRemovable(errors.Forbidden):
    code = "image.not_removable"
    title = "Property {name} may not be removed."


class FormatFixed(errors.Forbidden):
    code = "image.format_fixed"
    title = "Attribute {name} can be only replaced for a queued image."


class LocationsForbidden(errors.Forbidden):
    code = "image.locations"
    title = "It's not allowed to {verb} locations if locations are invisible."


class Protected(errors.Forbidden):
    code = "image.protected"
    title = "Image {image} is protected and cannot be deleted."


class Deactivated(errors.Forbidden):
    code = "image.deactivated"
    title = "The requested image has been deactivated. Image data download is forbidden."


class WrongStatus(errors.Forbidden):
    code = "image.status"
    title = "Not allowed to {verb} image in status '{status}'"


class NotShared(errors.Forbidden):
    code = "image.not_shared"
    title = "Not allowed to create members for image {image}."


class IdTaken(errors.Conflict):
    code = "image.id_taken"
    title = "Image ID {image} already exists!"


class WrongTransition(errors.Conflict):
    code = "image.transition"
    title = "Image status transition from {was} to {to} is not allowed"


class NoSuchProperty(errors.Conflict):
    code = "image.no_such_property"
    title = "There was a conflict when trying to complete your request. Property {name} does not exist."


class PropertyExists(errors.Conflict):
    code = "image.property_exists"
    title = "There was a conflict when trying to complete your request. Property {name} already present."


class MemberExists(errors.Conflict):
    code = "image.member_exists"
    title = "Member {member} is duplicated for image {image}"


class Busy(errors.Conflict):
    code = "image.busy"
    title = "Image {image} was changed by somebody else again and again; try once more."


class NotStaged(errors.Conflict):
    code = "image.not_staged"
    title = "Image needs to be staged before 'glance-direct' method can be used"


class FormatMissing(errors.Conflict):
    code = "image.format_missing"
    title = "'{name}' needs to be set before import"


class UnknownStore(errors.Conflict):
    code = "image.unknown_store"
    title = "Store for identifier {store} not found"


class Vanished(errors.Gone):
    code = "image.vanished"
    title = "Image {image} could not be found after upload. The image may have been deleted during the upload."


class Overtaken(errors.Conflict):
    code = "image.overtaken"
    title = "The upload of image {image} stood still for too long and was given up; upload it again."


class Invalid(errors.BadRequest):
    code = "image.invalid"
    title = "Provided object does not match schema '{schema}': {name}: {reason}"


class PropertiesMissing(errors.BadRequest):
    code = "image.properties_missing"
    title = "Properties {names} must be set prior to saving data."


class SizeMismatch(errors.BadRequest):
    code = "image.size_mismatch"
    title = "The x-openstack-image-size header says {announced} bytes but {got} were sent."


class TooManyProperties(errors.TooLarge):
    code = "image.property_quota"
    title = "The limit has been exceeded on the number of allowed image properties. Attempted: {attempted}, Maximum: {maximum}"


class TooManyTags(errors.TooLarge):
    code = "image.tag_quota"
    title = (
        "Image tag limit exceeded for image {image}: The limit has been exceeded on the number of allowed image tags. "
        "Attempted: {attempted}, Maximum: {maximum}"
    )


class TooManyMembers(errors.TooLarge):
    code = "image.member_quota"
    title = (
        "Image member limit exceeded for image {image}: The limit has been exceeded on the number of allowed image members "
        "for this image. Attempted: {attempted}, Maximum: {maximum}"
    )


class ImageTooLarge(errors.TooLarge):
    code = "image.size_cap"
    title = "The incoming image is too large: the limit is {limit} bytes."


class StorageQuota(errors.TooLarge):
    code = "image.storage_quota"
    title = "Image exceeds the storage quota: The size of the data {size} will exceed the limit. {remaining} bytes remaining."


class WrongContentType(errors.UnsupportedMediaType):
    code = "image.content_type"
    title = "The request media type is not supported by this server. Invalid content type {given}; send application/octet-stream."


class FormatMismatch(errors.UnsupportedMediaType):
    code = "image.format_mismatch"
    title = "Image disk_format {declared} does not match stream data {found}"


class UnsafeContent(errors.UnsupportedMediaType):
    code = "image.unsafe"
    title = "The image is refused: {reason}"


class StoreFull(errors.Unavailable):
    code = "image.store_full"
    title = "There is not enough space in the image store; free some or ask the operator."


class BytesMissing(errors.Unavailable):
    code = "image.bytes_missing"
    title = "The bytes of image {image} are not in the store; ask the operator."
    advice = "The image's file is missing or cut off; restore it from a backup, or delete the image."


class Damaged(errors.Unavailable):
    code = "image.damaged"
    title = "Image {image} arrived damaged: its {what} is not the one that the image service tells."
    advice = "Try again; if it stays so, the image's bytes in the other image service's store are damaged."
