"""A run folder says where its numbers come from, and nothing secret."""

import json
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

from captioning.sources.records import Record, write_records
from captioning.system.privacy import shareable_words
from captioning.tracking.energy import EnergyMeter
from captioning.tracking.provenance import (
    code_version,
    data_fingerprint,
    finish,
    provenance,
    write_provenance,
)


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *words], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_record_is_whole_and_json() -> None:
    record = provenance(
        {"BATCH_SIZE": 64, "RUN_NAME": "x"}, device="cpu", data={"sha256": "f00"}, argv=["train.py"]
    )
    ended = finish(record)
    assert json.loads(json.dumps(ended)) == ended
    assert ended["settings"] == {"BATCH_SIZE": 64, "RUN_NAME": "x"}
    assert ended["command"] == ["train.py"]
    assert ended["data"] == {"sha256": "f00"}
    assert ended["hardware"]["device"] == "cpu"
    assert ended["hardware"]["cores"] >= 1
    assert ended["hardware"]["memory_bytes"] > 2**28
    assert ended["hardware"]["processor"]
    assert ended["packages"]["torch"].startswith("2.")
    assert ended["python"].startswith("3.")
    started, finished = (datetime.fromisoformat(ended[key]) for key in ("started", "finished"))
    assert started.utcoffset() is not None
    assert started < finished
    assert record["finished"] is None


def test_the_environment_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef" * 3)
    monkeypatch.setenv("SOME_NAME", "some-value-of-the-environment")
    text = json.dumps(provenance({}))
    assert "0123456789abcdef" not in text
    assert "some-value" not in text


@pytest.mark.parametrize(
    ("words", "masked"),
    [
        (["--token", "abc"], ["--token", "***"]),
        (["--HF_TOKEN=abc"], ["--HF_TOKEN=***"]),
        (["--api-key", "abc", "--BATCH_SIZE", "3"], ["--api-key", "***", "--BATCH_SIZE", "3"]),
        (["x", "hf_abcdefghijklmnop"], ["x", "***"]),
        (["--RUN_NAME", "a" * 40], ["--RUN_NAME", "***"]),
        (["--ENCODER_REVISION", "a" * 40], ["--ENCODER_REVISION", "a" * 40]),
        (["https://me:pass@host/x"], ["https://***@host/x"]),
        (["https://host/x?token=abc&y=1"], ["https://host/x?token=***&y=1"]),
        (
            ["--MAX_SEQ_LEN", "64", "--DATASET", "demo"],
            ["--MAX_SEQ_LEN", "64", "--DATASET", "demo"],
        ),
    ],
)
def test_what_looks_like_a_secret_is_masked(words: list[str], masked: list[str]) -> None:
    assert shareable_words(words) == masked


def test_settings_are_masked_too() -> None:
    settings = {"DATASET_SOURCE": "https://me:pass@host/x.zip", "ENCODER_REVISION": "b" * 40}
    assert provenance(settings)["settings"] == {
        "DATASET_SOURCE": "https://***@host/x.zip",
        "ENCODER_REVISION": "b" * 40,
    }


def test_code_version_is_that_of_the_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = tmp_path / "clone"
    (clone / "inner").mkdir(parents=True)
    assert code_version(clone) is None
    git(clone, "init")
    assert code_version(clone) is None  # no commit yet
    (clone / "a.py").write_text("1")
    git(clone, "add", ".")
    git(clone, "commit", "-m", "first")
    commit = git(clone, "rev-parse", "HEAD")
    (clone / "checkpoints").mkdir()
    (clone / "checkpoints" / "new").write_text("untracked files are not changes")
    assert code_version(clone) == {"commit": commit, "dirty": False}
    (clone / "a.py").write_text("2")
    assert code_version(clone) == {"commit": commit, "dirty": True}
    assert code_version(clone / "inner") is None  # somebody else's repository around us
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert code_version(clone) == {"commit": commit, "dirty": True}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_version(clone) is None


def test_the_fingerprint_follows_captions_and_splits(tmp_path: Path) -> None:
    def prepare(train: list[str], test: list[str]) -> str:
        for split, captions in (("train", train), ("test", test)):
            folder = tmp_path / "data" / split
            write_records(folder, [Record(folder / f"{c}.jpg", (c,)) for c in captions])
        found = data_fingerprint(tmp_path / "data")
        assert found["pictures"] == {"train": len(train), "validation": 0, "test": len(test)}
        return str(found["sha256"])

    prints = [
        prepare(*splits) for splits in ((["a", "b"], ["c"]), (["a"], ["b", "c"]), (["a"], []))
    ]
    assert len(set(prints)) == 3
    assert prepare(["a", "b"], ["c"]) == prints[0]


def test_the_folder_keeps_every_session_of_a_resumed_run(tmp_path: Path) -> None:
    first, second, fresh = (provenance({"n": n}) for n in range(3))

    def written() -> list[tuple[int, bool]]:
        sessions = json.loads((tmp_path / "run" / "provenance.json").read_text())["sessions"]
        return [(item["settings"]["n"], item["finished"] is not None) for item in sessions]

    write_provenance(tmp_path / "run", first, resumed=False)
    assert written() == [(0, False)]
    write_provenance(tmp_path / "run", second, resumed=True)
    write_provenance(tmp_path / "run", finish(second), resumed=True)
    assert written() == [(0, False), (1, True)]
    write_provenance(tmp_path / "run", fresh, resumed=False)
    assert written() == [(2, False)]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["provenance.json"]


def make_zone(powercap: Path, name: str, microjoules: int) -> Path:
    zone = powercap / name
    zone.mkdir(parents=True, exist_ok=True)
    (zone / "max_energy_range_uj").write_text("1000000000\n")
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    return zone


def test_energy_of_processors_adds_up_over_wraps_and_sessions(tmp_path: Path) -> None:
    make_zone(tmp_path, "intel-rapl:0", 900_000_000)
    make_zone(tmp_path, "intel-rapl:1", 0)
    make_zone(tmp_path, "intel-rapl:0:0", 0)
    meter = EnergyMeter(joules=10.0, powercap=tmp_path)
    assert meter.sources == ("processor (RAPL)",) * 2
    assert meter.joules() == 10.0
    make_zone(tmp_path, "intel-rapl:0", 50_000_000)  # wrapped around: 150 J
    make_zone(tmp_path, "intel-rapl:1", 7_000_000)
    make_zone(tmp_path, "intel-rapl:0:0", 500_000_000)  # a part of 0, not counted twice
    assert meter.joules() == 167.0


def test_energy_is_left_out_where_nothing_tells(tmp_path: Path) -> None:
    (tmp_path / "intel-rapl:0").mkdir()
    meter = EnergyMeter(["GPU-00000000-0000-0000-0000-000000000000"], powercap=tmp_path)
    assert meter.joules() is None
    assert meter.sources == ()
