"""The page on the parts alone: its programs run and print what it says."""

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.helpers.tiny_encoders import saved

PAGE = (Path(__file__).parents[2] / "docs" / "library.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", PAGE, re.DOTALL)
MODEL = "openai/clip-vit-base-patch32"


@pytest.mark.parametrize(
    ("program", "output"), [block for block in BLOCKS if block[1]], ids=["metrics", "decoding"]
)
def test_programs_print_what_the_page_says(
    program: str, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(compile(program, "library.md", "exec"), {"__name__": "library"})
    assert capsys.readouterr().out == output


def test_a_tower_gives_patches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((program, _),) = [block for block in BLOCKS if not block[1]]
    assert program.count(MODEL) == 2
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (60, 40), "red").save("dog.jpg")
    found: dict[str, Any] = {}
    exec(compile(program.replace(MODEL, saved(tmp_path, "clip")), "library.md", "exec"), found)
    assert found["features"].shape == (1, 17, 16)  # a class token, 4 x 4 patches
    assert found["patches"].shape == (1, 4, 4, 16)
    assert (found["where"].left, found["where"].right) == pytest.approx((10, 50), abs=1)
    assert found["deeper"].num_tokens == 16
