"""The card as it is published: it names its repository, and what stands in it works and is true."""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, ModelCardData

import export
import generate
from captioner import Captioner
from captioning.sharing import published_card as module
from captioning.sharing.model_card import model_card
from captioning.sharing.published import published_files
from captioning.sharing.published_card import published_card
from captioning.system.errors import UserError
from captioning.system.folders import check_files, read_manifest
from captioning.system.rules import TYPED
from checkpoint import read_checkpoint
from config import settings_with
from tests.helpers.small_captioner import SCENES, SMALL, save_captioner

REPO = "me/captioner"
SCORES = {"validation_loss": 2.0, "CIDEr": 0.25}
CARD = model_card(replace(SMALL, ENCODER_MODEL_NAME="openai/clip-vit-base-patch32"), SCORES)


def data_of(card: str) -> ModelCardData:
    data = ModelCard(card).data
    assert isinstance(data, ModelCardData)
    return data


def evaluated(folder: Path, **changes: object) -> Path:
    """A checkpoint with what `evaluate.py` writes beside it."""
    (folder.parent / "evaluation").mkdir(parents=True)
    folder.mkdir(exist_ok=True)
    (folder / "checkpoint.json").write_text("{}")
    found = {
        "CIDEr": 0.5,
        "METEOR": None,
        "num_images": 300,
        "checkpoint": str(folder),
        "protocol": {"split": "test", "decoding": "greedy"},
    }
    (folder.parent / "evaluation" / "metrics.json").write_text(json.dumps(found | changes))
    return folder


def test_the_repository_is_named_wherever_the_card_was_made(tmp_path: Path) -> None:
    card = published_card(CARD, tmp_path, REPO)
    assert f'Captioner.from_pretrained("{REPO}")' in card
    assert f"generate.py --checkpoint {REPO} --image" in card
    assert "checkpoints/run" not in card
    assert data_of(card).model_name == "captioner"


@pytest.mark.parametrize("name", ["{folder}", "somewhere/else/run/best", "run/best/"])
def test_scores_of_the_test_split_are_shown_and_listed(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run" / "best"
    evaluated(folder, checkpoint=name.format(folder=folder))
    card = published_card(CARD, folder, REPO)
    assert "300 pictures of the test split" in card
    assert card.index("## Test scores") < card.index("\n## Data\n")
    results = [(r.dataset_split, r.metric_name, r.metric_value) for r in data_of(card).eval_results]
    assert results == [("validation", "CIDEr", 0.25), ("test", "CIDEr", 0.5)]
    first = published_card(model_card(SMALL, {}), folder, REPO, dataset="demo")
    (only,) = data_of(first).eval_results
    assert (only.dataset_name, only.dataset_split, only.metric_value) == ("demo", "test", 0.5)


@pytest.mark.parametrize(
    "changes",
    [
        {"checkpoint": "runs/last"},
        {"protocol": {"split": "validation"}},
        {"CIDEr": float("nan")},
        {"num_images": "many"},
        {"protocol": "test"},
        {"checkpoint": 7},
    ],
)
def test_scores_of_something_else_are_not_shown(tmp_path: Path, changes: dict[str, object]) -> None:
    folder = evaluated(tmp_path / "best", **changes)
    assert "Test scores" not in published_card(CARD, folder, REPO)


def test_scores_of_an_older_checkpoint_in_the_same_place_are_not_shown(tmp_path: Path) -> None:
    folder = evaluated(tmp_path / "best")
    os.utime(tmp_path / "evaluation" / "metrics.json", (0, 0))
    assert "Test scores" not in published_card(CARD, folder, REPO)


def test_where_the_trainer_is_to_be_had_is_said_if_the_clone_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "code_version", lambda folder: None)
    assert "From a clone of the trainer, with" in published_card(CARD, tmp_path, REPO)
    code = {"commit": "c0ffee", "repository": "https://example.org/me/trainer"}
    monkeypatch.setattr(module, "code_version", lambda folder: code)
    assert f"a clone of the trainer, {code['repository']}, with" in published_card(
        CARD, tmp_path, REPO
    )


def test_the_pictures_licence_is_the_uploaders_word(tmp_path: Path) -> None:
    card = published_card(CARD, tmp_path, REPO, data_license="CC BY 4.0 | <b>all</b>")
    licence = card.partition("\n## Licence\n")[2]
    assert "Licence of the pictures, as the uploader says: CC BY 4.0 &#124;" in licence
    assert "<b>" not in card
    assert "as the uploader says" not in published_card(CARD, tmp_path, REPO)


def test_what_people_wrote_stays(tmp_path: Path) -> None:
    mine = "---\nlicense: other\n---\n\n# A captioner \u00e9\r\n\r\nMy words.\n"
    assert published_card(mine, tmp_path, REPO) == mine
    for text in (
        "My words.\n",
        "---\n[broken\n---\nMy words.\n",
        "---\n- a list\n---\nMy words.\n",
    ):
        assert published_card(text, tmp_path, REPO) == text
        card = published_card(
            text, evaluated(tmp_path / str(len(text)) / "best"), REPO, forms=["onnx"]
        )
        assert card.startswith(text)
        assert "## Test scores" in card
        assert "hf download me/captioner" in card


def test_library_and_tags_are_those_of_what_is_there(tmp_path: Path) -> None:
    plain = data_of(published_card(CARD, tmp_path, REPO))
    assert (plain.library_name, plain.pipeline_tag) == ("pytorch", "image-to-text")
    assert not {"onnx", "transformers"} & set(plain.tags)
    data = data_of(published_card(CARD, tmp_path, REPO, forms=["transformers", "onnx"]))
    assert data.library_name == "transformers"
    assert {"onnx", "transformers"} <= set(data.tags)
    older = CARD.replace("library_name: pytorch", "library_name: image-captioning-trainer")
    assert data_of(published_card(older, tmp_path, REPO)).library_name == "pytorch"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`run/best`, its export for transformers, and `there`, what is published of both."""
    place = tmp_path_factory.mktemp("alice")
    folder = save_captioner(place, CARD, OUTPUT_DIR=str(place))
    SCENES[0].save(place / "photo.jpg")
    words = ["--checkpoint", str(folder), "--output", str(place / "export")]
    words += ["--format", "transformers", "--pictures", str(place / "photo.jpg")]
    assert export.main(words) == 0
    files = published_files(
        folder, REPO, left_out=settings_with(TYPED), added=[place / "export"], data_license="mine"
    )
    for name, content in files.items():
        (place / "there").mkdir(exist_ok=True)
        data = content if isinstance(content, bytes) else content.read_bytes()
        (place / "there" / name).write_bytes(data)
    return place


def test_what_is_published_with_an_export_is_a_whole_checkpoint_and_tells_nothing(
    place: Path,
) -> None:
    there = place / "there"
    check_files(there, read_manifest(there))
    assert read_checkpoint(there).config.DATASET == "demo"
    for path in there.iterdir():
        assert str(place).encode() not in path.read_bytes(), path.name
        assert b"alice" not in path.read_bytes(), path.name


def snippets(place: Path, kind: str) -> list[str]:
    card = (place / "there" / "README.md").read_text()
    return re.findall(rf"^```{kind}\n(.*?)^```", card, re.DOTALL | re.MULTILINE)


def test_each_snippet_says_what_the_checkpoint_says(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    (place / "me").mkdir()
    (place / REPO).symlink_to(place / "run" / "best")
    expected = Captioner.from_pretrained(place / "run" / "best", device="cpu")("photo.jpg").text
    said = []
    for code in snippets(place, "python"):
        # The repository's files in the place of the repository itself.
        is_ours = "from captioner import" in code
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code if is_ours else code.replace(f'"{REPO}"', '"there"'), {})
        said.append(printed.getvalue().strip())
    assert said[:2] == [expected, expected]
    assert said[2] == str([{"generated_text": expected}])
    # The page on it has the same lines, for a folder.
    page = (Path(__file__).parents[2] / "docs" / "transformers.md").read_text()
    of_page = re.findall(r"^```py\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert of_page == [code.replace(REPO, "demo-hf") for code in snippets(place, "python")[1:]]
    card = (place / "there" / "README.md").read_text()
    command = re.search(r"`(python generate.py .*?)`", card)
    assert command
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert generate.main([*shlex.split(command[1])[2:], "--device", "cpu"]) == 0
    assert expected in printed.getvalue()


@pytest.mark.slow
def test_the_snippet_of_onnx_says_what_the_checkpoint_says(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in export.PACKAGES:
        pytest.importorskip(package)
    folder, photo = place / "run" / "best", place / "photo.jpg"
    words = ["--checkpoint", str(folder), "--output", str(tmp_path / "export")]
    assert export.main([*words, "--format", "onnx", "--pictures", str(photo)]) == 0
    files = published_files(
        folder, REPO, left_out=settings_with(TYPED), added=[tmp_path / "export"]
    )
    # What the first line of the snippet fetches, and the second runs.
    for name, content in files.items():
        if fnmatch(name, "onnx/*") and isinstance(content, Path):
            (tmp_path / "captioner" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(content, tmp_path / "captioner" / name)
    shutil.copyfile(photo, tmp_path / "photo.jpg")
    card = files["README.md"]
    assert isinstance(card, bytes)
    fetch, run = re.findall(r"^```bash\n(.*?)\n(.*?)\n```", card.decode(), re.MULTILINE)[0]
    assert fetch == f'hf download {REPO} --include "onnx/*" --local-dir captioner'
    program, *options = shlex.split(run)
    assert program == "python"
    monkeypatch.chdir(tmp_path)
    result = subprocess.run([sys.executable, *options], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == Captioner.from_pretrained(folder, device="cpu")(photo).text
    for path in (tmp_path / "captioner" / "onnx").glob("*.json"):
        assert b"alice" not in path.read_bytes(), path.name


def test_an_export_of_something_else_is_not_added(place: Path, tmp_path: Path) -> None:
    def add(export: Path) -> None:
        published_files(folder, REPO, left_out=settings_with(TYPED), added=[export])

    folder = place / "run" / "best"
    with pytest.raises(UserError, match=r"no folder that export\.py wrote"):
        add(tmp_path)
    about = json.loads((place / "export" / "export.json").read_text())
    for changes, problem in (
        ({"format": "web"}, "beside a checkpoint lie transformers and onnx"),
        ({"checkpoint": "0" * 64}, "was made of another checkpoint"),
        ({"files": ["modeling_captioner.py"]}, "names no files"),
        ({"files": {"config.json": {}}}, "Upload it alone: hf upload"),
    ):
        (tmp_path / "export.json").write_text(json.dumps(about | changes))
        with pytest.raises(UserError, match=problem):
            add(tmp_path)
    (tmp_path / "export.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="is missing, though"):
        add(tmp_path)
