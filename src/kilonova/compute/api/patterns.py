"""Regular expressions that users write into filters, run on names that users choose: only those whose cost is bounded.

Python's engine backtracks. Each repetition may cost a factor of the text's length, and so does looking for a beginning where none is
given; alternatives multiply. With these bounds the worst pattern takes some milliseconds for a name of 255 characters.
"""

import re
import warnings

MOST_CHARACTERS = 200
MOST_FACTORS = 3
"""Repetitions, one more where the pattern does not begin with ^."""
MOST_ALTERNATIVES = 4
_PLAIN = re.compile(r"[^.^$*+?{}\[\]\\|()]*")


class Refused(ValueError):
    """What is wrong with a pattern, as a sentence."""


def plain(text: str) -> bool:
    """Nothing in it means more than itself."""
    return _PLAIN.fullmatch(text) is not None


def compiled(text: str) -> re.Pattern[str]:
    """For `search`, ignoring case. Raises Refused."""
    if len(text) > MOST_CHARACTERS:
        raise Refused(f"It is longer than {MOST_CHARACTERS} characters.")
    # A search finds the same without them.
    wanted = text
    while wanted.startswith(".*") and not wanted.startswith((".*?", ".*+")):
        wanted = wanted[2:]
    while wanted.endswith(".*") and not _escaped(wanted, len(wanted) - 2):
        wanted = wanted[:-2]
    repetitions, alternatives = _cost(wanted)
    if repetitions + (not wanted.startswith("^")) > MOST_FACTORS:
        raise Refused("It repeats too often; at most two parts may be repeated.")
    if alternatives > MOST_ALTERNATIVES:
        raise Refused(f"It has more than {MOST_ALTERNATIVES} alternatives.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of sets in sets, which mean what they always have
            return re.compile(wanted, re.IGNORECASE)
    except (re.error, RecursionError, OverflowError):
        raise Refused("It is not a regular expression.") from None


def _escaped(text: str, at: int) -> bool:
    """Whether an odd number of backslashes stands before this place."""
    before = text[:at]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def _cost(text: str) -> tuple[int, int]:
    """(repetitions, alternatives). Raises Refused for what has no bound: repeated groups, references, extensions."""
    repetitions = alternatives = at = 0
    before = ""
    while at < len(text):
        char = text[at]
        if char == "\\":
            if text[at + 1 : at + 2].isdigit():
                raise Refused("It refers back to a group.")
            at += 2
            before = "x"
            continue
        if char == "[":
            at = _end_of_class(text, at)
            before = "x"
            continue
        if char in "*+?{":
            if char == "?" and before == "*":
                before, at = "lazy", at + 1
                continue
            if before == "(":
                raise Refused("Extensions are not allowed in it.")
            if before in (")", "*", "lazy"):
                raise Refused("Nested repetition is not allowed in it.")
            repetitions += 1
            at = text.find("}", at) + 1 if char == "{" and "}" in text[at:] else at + 1
            before = "*"
            continue
        alternatives += char == "|"
        before = char
        at += 1
    return repetitions, alternatives


def _end_of_class(text: str, at: int) -> int:
    """The place after [...]; a ] that comes first is a member of it."""
    at += 1
    at += text[at : at + 1] == "^"
    at += text[at : at + 1] == "]"
    while at < len(text) and text[at] != "]":
        at += 2 if text[at] == "\\" else 1
    return at + 1
