"""The command: what it makes, says, and does not do twice."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from captioning.sources.prepared import Summary
from captioning.sources.records import SPLITS
from captioning.system.errors import UserError
from config import Config
from prepare_dataset import prepare_dataset
from tests.helpers.sample_sources import (
    assert_no_picture_in_two_splits,
    config_for,
    make_source,
    picture_bytes,
    splits_of,
)

ROOT = Path(__file__).parents[2]


def run_command(*words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "prepare_dataset.py", *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, **more},
    )


def test_own_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_source(tmp_path)
    config = config_for(tmp_path)
    summary = prepare_dataset(config)
    found = splits_of(config)
    assert {split: len(records) for split, records in found.items()} == summary.pictures
    assert set(summary.pictures) == set(SPLITS)
    everything = {name: captions for split in found.values() for name, captions in split.items()}
    assert everything == {
        f"{i:03d}.jpg": (f"Caption 0 of {i}.", f"Caption 1 of {i}.") for i in range(20)
    }
    assert summary.captions == 40
    for path in config.dataset_dir.rglob("*.jpg"):
        assert path.read_bytes() == (tmp_path / "images" / path.name).read_bytes()
    assert (tmp_path / "images" / "000.jpg").exists()
    assert "no picture, compared by content, is in two splits" in capsys.readouterr().out
    assert not list((tmp_path / "data").glob("*.partial"))


def test_second_call_touches_nothing_and_imports_nothing_heavy(tmp_path: Path) -> None:
    make_source(tmp_path)
    config = config_for(tmp_path)
    prepare_dataset(config)
    before = {path: path.stat().st_mtime_ns for path in config.dataset_dir.rglob("*")}
    program = (
        "import sys; from prepare_dataset import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'datasets', 'transformers', 'tqdm'} & set(sys.modules);"
        "assert not heavy, heavy; sys.exit(code)"
    )
    flags = ["--DATASET", "mine", "--DATA_DIR", str(tmp_path / "data")]
    named = ["--IMAGE_DIR", str(tmp_path / "images")]
    named += ["--CAPTIONS_FILE", str(tmp_path / "captions.csv")]
    for arguments in (flags + named, flags):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "nothing to do: " in done.stdout
    assert {path: path.stat().st_mtime_ns for path in config.dataset_dir.rglob("*")} == before


def test_changed_sources_are_prepared_anew(tmp_path: Path) -> None:
    make_source(tmp_path)
    first = prepare_dataset(config_for(tmp_path))
    with (tmp_path / "captions.csv").open("a") as file:
        file.write("000.jpg,One more.\n")
    second = prepare_dataset(config_for(tmp_path))
    assert (second.captions, second.pictures) == (first.captions + 1, first.pictures)
    assert second.fingerprint != first.fingerprint
    assert prepare_dataset(config_for(tmp_path)) == second


def test_prepared_folder_that_lost_a_picture_is_made_anew(tmp_path: Path) -> None:
    make_source(tmp_path)
    config = config_for(tmp_path)
    first = prepare_dataset(config)
    next((config.dataset_dir / "train").glob("*.jpg")).unlink()
    assert prepare_dataset(config) == first
    assert splits_of(config)


def test_another_seed_leaves_prepared_splits_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_source(tmp_path)
    first = prepare_dataset(config_for(tmp_path))
    assert prepare_dataset(config_for(tmp_path, RANDOM_SEED=7)) == first
    assert "RANDOM_SEED 42" in capsys.readouterr().out


def test_folder_of_somebody_else_is_used_or_left_alone(tmp_path: Path) -> None:
    make_source(tmp_path)
    config = config_for(tmp_path)
    train = config.dataset_dir / "train"
    train.mkdir(parents=True)
    shutil.copy(tmp_path / "images" / "000.jpg", train)
    line = {"file_name": "000.jpg", "captions": ["Mine."]}
    (train / "metadata.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(UserError, match="did not write"):
        prepare_dataset(config)
    summary = prepare_dataset(Config(DATASET="mine", DATA_DIR=str(tmp_path / "data")))
    assert summary.pictures == {"train": 1}
    assert sorted(path.name for path in config.dataset_dir.iterdir()) == ["train"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"IMAGE_DIR": "gone"}, "gone does not exist"),
        ({"IMAGE_DIR": "captions.csv"}, "neither a folder nor a whole zip"),
        ({"IMAGE_DIR": "empty"}, "holds no pictures"),
        ({"IMAGE_DIR": "others"}, "None of the 5 pictures"),
        ({"CAPTIONS_FILE": "gone.csv"}, "gone.csv cannot be read"),
        ({"CAPTIONS_FILE": "images/000.jpg"}, "neither UTF-8 nor UTF-16"),
        ({"IMAGE_DIR": "", "CAPTIONS_FILE": ""}, "There is no data set mine"),
        ({"IMAGE_DIR": "", "CAPTIONS_FILE": "", "DATASET_SOURCE": "./gone.zip"}, "does not exist"),
        ({"IMAGE_DIR": "", "CAPTIONS_FILE": "", "DATASET_SOURCE": "images"}, "no captions file"),
    ],
)
def test_mistakes_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], words: str
) -> None:
    make_source(tmp_path, count=5)
    (tmp_path / "empty").mkdir()
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "x.jpg").write_bytes(picture_bytes(1))
    monkeypatch.chdir(tmp_path)
    defaults = {"IMAGE_DIR": "images", "CAPTIONS_FILE": "captions.csv", "DATA_DIR": "data"}
    with pytest.raises(UserError, match=words) as caught:
        prepare_dataset(config_for(tmp_path, **{**defaults, **settings}))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data" / "mine").exists()


def test_command_reports_mistakes_with_exit_code_2(tmp_path: Path) -> None:
    make_source(tmp_path, count=3)
    flags = ["--DATASET", "mine", "--DATA_DIR", tmp_path / "data", "--CAPTIONS_FILE"]
    done = run_command(*flags, tmp_path / "captions.csv", "--IMAGE_DIR", tmp_path / "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    done = run_command(*flags, tmp_path / "captions.csv", "--IMAGE_DIR", tmp_path / "images")
    assert (done.returncode, done.stderr) == (0, "")


def test_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    done = run_command("--DATA_DIR", tmp_path, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "home"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "nlphuji/flickr30k at revision refs/convert/parquet could not be loaded" in line
    assert "--DATASET_SOURCE" in line


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = pytest.importorskip("scenes")
    monkeypatch.setattr(scenes, "DEFAULT_COUNT", 30)
    write = scenes.write_scenes
    monkeypatch.setattr(scenes, "write_scenes", lambda *a, **k: write(*a, count=30, size=32, **k))
    config = Config(DATASET="demo", DATA_DIR=str(tmp_path))
    summary = prepare_dataset(config)
    assert (summary.pictures, summary.captions) == (
        {"train": 24, "validation": 3, "test": 3},
        150,
    )
    assert prepare_dataset(config) == summary
    assert_no_picture_in_two_splits(config.dataset_dir)


def test_real_photographs(tmp_path: Path, real_data: Path) -> None:
    sample = real_data / "flickr8k_sample"
    flags = ["--DATASET", "sample", "--DATA_DIR", tmp_path, "--IMAGE_DIR", sample / "images"]
    done = run_command(*flags, "--CAPTIONS_FILE", sample / "captions.txt")
    assert (done.returncode, done.stderr) == (0, "")
    config = Config(DATASET="sample", DATA_DIR=str(tmp_path))
    summary = prepare_dataset(config)
    assert isinstance(summary, Summary)
    assert (sum(summary.pictures.values()), summary.captions, summary.problems) == (800, 4000, {})
    assert 0.05 < summary.pictures["test"] / 800 < 0.15
    assert_no_picture_in_two_splits(config.dataset_dir)
