"""The ladder: a rung of another search shares the training that it stands on, and nothing is done
twice."""

import json
from pathlib import Path

import pytest

from benchmarks import photos
from benchmarks.flags import last_of_each
from captioning.system.errors import UserError
from captioning.system.files import sha256_of
from tests.helpers.small_runs import SETTINGS


def test_rungs_stand_on_one_another() -> None:
    assert photos.training_flags("pooled, memory layers") == (
        "--ENCODER_POOLING 2 --MEMORY_LAYERS 3".split()
    )
    assert photos.search_flags("self-critical, neighbours") == photos.NEIGHBOURS.split()
    assert photos.training_flags("plain sums") == []
    assert last_of_each(["--A", "1", "--B", "2", "--A", "3"]) == ["--A", "3", "--B", "2"]
    assert all(rung.on in photos.RUNGS for rung in photos.RUNGS.values() if rung.on)


def test_it_climbs_and_goes_on_where_it_stopped(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {name: value for name, value in SETTINGS.items() if name not in ("DATASET", "RUN_NAME")}
    settings = " ".join(f"--{name} {value}" for name, value in {**own, "NUM_EPOCHS": "1"}.items())
    words = ["--data", str(place / "data" / "small"), "--encoder", str(place / "tiny-clip")]
    words += ["--output", str(place / "ladder"), f"--settings={settings}", "--no-java"]
    assert photos.main([*words, "--rungs", "plain", "plain sums"]) == 0
    assert [path.name for path in (place / "ladder" / "runs").iterdir()] == ["plain 1"]
    numbers = json.loads((place / "ladder" / "plain sums 1.json").read_text())
    assert numbers["METEOR"] is None
    capsys.readouterr()
    assert photos.main([*words, "--rungs", "plain", "plain sums"]) == 0
    printed = capsys.readouterr().out
    assert "plain sums" in printed
    assert "epoch" not in printed  # nothing was trained
    assert photos.main([*words, "--rungs", "self-critical"]) == 0
    run = place / "ladder/runs/self-critical 1"
    parent = json.loads((run / "best/checkpoint.json").read_text())["parent"]
    assert parent["sha256"] == sha256_of(place / "ladder/runs/plain 1/best/model.safetensors")
    with pytest.raises(UserError, match="'plainer' is no rung"):
        photos.main([*words, "--rungs", "plainer"])
