"""Values of request bodies that Nova takes in several spellings: numbers as text, booleans as words, names."""

import re
import unicodedata
from typing import Any

from kilonova.compute.api.queries import FALSE, TRUE
from kilonova.core.errors import BadRequest

MAX_INT = 0x7FFFFFFF
UUID = re.compile(r"^[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}$")
_INTEGER = re.compile(r"^-?[0-9]{1,20}$")


def invalid(field: str, value: Any, why: str) -> BadRequest:
    return BadRequest(f"Invalid input for field/attribute {field}. Value: {str(value)[:255]}. {why}")


def integer(field: str, value: Any, minimum: int = 0, maximum: int = MAX_INT) -> int:
    """A number, or its decimal digits."""
    if isinstance(value, str) and _INTEGER.match(value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise invalid(field, value, f"{value!r} is not a whole number")
    if value < minimum:
        raise invalid(field, value, f"{value} is less than the minimum of {minimum}")
    if value > maximum:
        raise invalid(field, value, f"{value} is greater than the maximum of {maximum}")
    return value


def flag(field: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and (value in TRUE or value in FALSE):
        return value in TRUE
    raise invalid(field, value, f"{value!r} is not one of {[True, *TRUE, False, *FALSE]}")


def name(field: str, value: str) -> str:
    """Not empty, printable, no blanks around it."""
    if not value.strip():
        raise invalid(field, value, "An invalid 'name' value was provided. The name must be: printable characters, not only blanks.")
    if value != value.strip() or not printable(value):
        raise invalid(
            field,
            value,
            "An invalid 'name' value was provided. The name must be: printable characters. Can not start or end with whitespace.",
        )
    return value


def printable(text: str) -> bool:
    """No control or unassigned characters; all kinds of blanks but line breaks are fine."""
    return not any(unicodedata.category(c) in ("Cc", "Cn", "Cs", "Zl", "Zp") for c in text)
