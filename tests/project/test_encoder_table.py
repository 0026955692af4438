"""The page's table of encoders is what the architectures give, and every row is tested."""

import json
from pathlib import Path

import pytest

from docs import encoder_table
from tests.helpers.tiny_encoders import FAMILIES

ROWS = json.loads(encoder_table.OUTPUT.read_text(encoding="utf-8"))


@pytest.mark.parametrize("example", encoder_table.EXAMPLES, ids=lambda one: one.family)
def test_each_row_is_what_its_architecture_gives(example: encoder_table.Example) -> None:
    (found,) = (row for row in ROWS if row["family"] == example.family)
    assert json.loads(json.dumps(encoder_table.row(example))) == found
    family = FAMILIES.get(example.test)
    if family is None:
        tests = Path("tests/vision/test_tower.py").read_text(encoding="utf-8")
        assert f"def test_{example.test}_equals_its_own_processor_and_model(" in tests
    else:  # registers and class tokens are the family's, whatever the size
        assert (family.prefix > 0) == (found["prefix"] > 0)


def test_the_page_shows_every_row_and_no_other() -> None:
    page = (encoder_table.ROOT / "docs" / "encoders.md").read_text(encoding="utf-8")
    table = page.split("<!-- encoders -->", 1)[1].split("<!-- /encoders -->", 1)[0]
    lines = [line for line in table.splitlines() if "`" in line]
    assert len(lines) == len(ROWS) == len(encoder_table.EXAMPLES)
    for line, row in zip(lines, ROWS, strict=True):
        assert f"| {row['family']} | `{row['name']}` |" in line
        assert f"{row['tokens']} x {row['width']}" in line


def test_every_tiny_family_has_a_row() -> None:
    variants = {"vit-classifier", "resnet-classifier"}
    assert {row["test"] for row in ROWS} >= FAMILIES.keys() - variants
