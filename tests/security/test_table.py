"""docs/security.md is what it says: every row once, every test that is named exists, every test of a row is named."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" |")]
    for line in (ROOT / "docs" / "security.md").read_text().splitlines()
    if re.match(r"\| \d", line)
]
RESULTS = ("tested", "part", "open", "later")


def test_every_row_once_with_a_result() -> None:
    assert [int(row[0].strip("| ")) for row in ROWS] == list(range(1, 95))
    for number, _, tests, result in ROWS:
        word, _, why = result.strip("| ").partition(":")
        assert word.split(" ")[0] in RESULTS, number
        assert why or word.startswith("tested"), f"{number}: say what is missing"
        assert tests.strip() or word in ("open", "later"), number


def test_every_test_that_is_named_exists() -> None:
    for number, _, tests, _ in ROWS:
        for named in re.findall(r"`([^`]+)`", tests):
            path, _, function = named.partition("::")
            text = (ROOT / "tests" / path).read_text()
            assert not function or f"def {function}(" in text, (number, named)


def test_every_test_of_a_row_is_named() -> None:
    told = " ".join(row[2] for row in ROWS)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for function in re.findall(r"def (test_row_\d\w*)\(", path.read_text()):
            if function not in ("test_row_61_an_unknown_route_is_noticed", *PARTS):
                assert function in told, f"{path.name}::{function} is missing in docs/security.md"


PARTS = ("test_row_79_allowed_patterns_mean_what_they_say", "test_row_79_others_are_refused_with_a_sentence")
"""Tests that stand beside one that is named."""
