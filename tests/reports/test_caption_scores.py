"""The command that is installed: scores of two files, document frequencies."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from captioning.reports import caption_scores
from captioning.system.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "mine.json").write_text('{"a": "a dog runs", "b": "a cat sits"}')
    (tmp_path / "theirs.json").write_text('{"a": ["a dog runs fast"], "b": ["the cat", "a cat"]}')
    words = ["--candidates", str(tmp_path / "mine.json")]
    return [*words, "--references", str(tmp_path / "theirs.json"), "--no-java"]


def test_a_table_or_json(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert caption_scores.main([*files, "--output", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "CIDEr" in out
    assert "PTB (CoreNLP 3.4.1's rules, as coco-caption)" in out
    page = (tmp_path / "out" / "report.html").read_text()
    assert "a dog runs" in page
    assert caption_scores.main([*files, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers == json.loads((tmp_path / "out" / "metrics.json").read_text())


def test_frequencies_are_made_and_used(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = str(tmp_path / "df.npz")
    assert caption_scores.main([*files[2:4], "--make-document-frequencies", made]) == 0
    assert "of 2 pictures, tokens ptb" in capsys.readouterr().out
    assert caption_scores.main([*files, "--document-frequencies", made]) == 0
    assert "df.npz, of 2 pictures" in capsys.readouterr().out
    with pytest.raises(UserError, match="leave out --candidates"):
        caption_scores.main([*files, "--make-document-frequencies", made])
    with pytest.raises(UserError, match="--references FILE is missing"):
        caption_scores.main(files[:2])


def test_torch_is_not_imported(files: list[str]) -> None:
    program = (
        "import sys; from captioning.reports.caption_scores import main\n"
        f"main({files!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, capture_output=True)
