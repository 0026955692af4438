"""The notebook goes its whole way, on fewer drawn pictures, offline and without Jupyter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "own_pictures.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
PUT_IN_PLACE = {
    "DRAWN = 400": "DRAWN = 20",
    "EPOCHS = 8": "EPOCHS = 1",
    "--BATCH_SIZE 32": "--BATCH_SIZE 32 --MAX_SEQ_LEN 12",
}
"""What is smaller here than in the notebook, so that it takes seconds."""


def code_of(cells: list[dict[str, object]]) -> str:
    """The code cells as one program."""
    cells = [cell for cell in cells if cell["cell_type"] == "code"]
    program = "\n\n".join("".join(cell["source"]) for cell in cells)
    for named, small in PUT_IN_PLACE.items():
        assert program.count(named) == 1, named
        program = program.replace(named, small)
    return program


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clone's files, so that nothing is written into it."""
    folder = tmp_path_factory.mktemp("clone é")
    for path in (*ROOT.glob("*.py"), ROOT / "captioning", ROOT / "presets"):
        (folder / path.name).symlink_to(path)
    (folder / "examples").mkdir()
    return folder


def test_the_notebook_goes_from_pictures_to_scores(clone: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code_of(CELLS)],
        cwd=clone / "examples",
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert "image,caption" in done.stdout
    assert "data/mine: " in done.stdout
    assert "(confidence 0." in done.stdout
    assert "CIDEr" in done.stdout
    assert (clone / "checkpoints" / "mine" / "evaluation" / "report.html").is_file()
