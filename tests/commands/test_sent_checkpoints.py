"""What a checkpoint's settings may say: nothing of places and accounts."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import evaluate
import train
from captioning.system.errors import UserError
from captioning.system.rules import TYPED
from checkpoint import data_folder, read_checkpoint
from config import Config, settings_with
from tests.helpers.forged_checkpoints import forge
from tests.helpers.small_runs import run, write_data, write_encoder

Resume = Callable[..., Config]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, an encoder and a finished run."""
    folder = tmp_path_factory.mktemp("mine")
    write_data(folder)
    write_encoder(folder)
    run(folder, NUM_EPOCHS=1)
    return folder


@pytest.fixture
def sent(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that run, as somebody else might send it; nothing else is at hand here."""
    shutil.copytree(trained / "checkpoints" / "run", tmp_path / "sent" / "them")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "sent" / "them"


@pytest.fixture
def resume(monkeypatch: pytest.MonkeyPatch) -> Resume:
    """Gives the settings with which training would go on."""

    def resumed(*words: object) -> Config:
        found: list[Config] = []

        def keep(config: Config, _: object) -> int:
            found.append(config)
            return 0

        with monkeypatch.context() as patched:
            patched.setattr(train, "train", keep)
            assert train.main([str(word) for word in words]) == 0
        return found[0]

    return resumed


def write_settings(folder: Path, values: Mapping[str, object]) -> None:
    """Have a checkpoint say something else."""
    path = folder / "config.toml"
    lines = path.read_text().splitlines()
    kept = [line for line in lines if line.split(" = ")[0] not in values]
    path.write_text("\n".join([*kept, *(f"{k} = {json.dumps(v)}" for k, v in values.items())]))
    forge(folder)


FORGED = {
    "OUTPUT_DIR": "/home/me/victim",
    "RUN_NAME": "project",
    "RESUME_CHECKPOINT_PATH": "/home/me/other",
    "IMAGE_DIR": "/home/me/Pictures",
    "CAPTIONS_FILE": "/home/me/captions.csv",
    "DATASET_SOURCE": "attacker/set",
    "WANDB_ENTITY": "attacker",
    "WANDB_PROJECT": "open-project",
    "WANDB_RUN_NAME": "theirs",
    "HF_REPO_ID": "attacker/x",
    "HF_UPLOAD_BEST_CHECKPOINTS": True,
}


def test_neither_places_nor_accounts_come_from_a_checkpoint(
    sent: Path, resume: Resume, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = {"WANDB_MODE": "online", "INIT_CHECKPOINT_PATH": "/home/me/other"}  # not opened
    write_settings(sent / "last", {**FORGED, **strange})
    assert settings_with(TYPED) == {*FORGED, "DATA_DIR"}
    config = resume("--RESUME_CHECKPOINT_PATH", sent / "last")
    assert config.run_dir == sent
    assert str(sent / "last") == config.RESUME_CHECKPOINT_PATH
    for name in FORGED.keys() - {"OUTPUT_DIR", "RUN_NAME", "RESUME_CHECKPOINT_PATH"}:
        assert getattr(config, name) == getattr(Config, name), name
    assert config.WANDB_MODE == "auto"
    assert config.DECODER_LAYERS == 2  # what makes the model does come from it
    said = capsys.readouterr().out
    assert "Accounts are not taken from a checkpoint. It names HF_REPO_ID attacker/x" in said


def test_what_is_typed_is_taken(sent: Path, resume: Resume, trained: Path) -> None:
    write_settings(sent / "last", {**FORGED, "WANDB_MODE": "disabled"})
    words = ["--OUTPUT_DIR", "own", "--WANDB_PROJECT", "mine", "--DATA_DIR", trained / "data"]
    config = resume("--RESUME_CHECKPOINT_PATH", sent / "last", *words)
    assert (config.OUTPUT_DIR, config.RUN_NAME) == ("own", "them")
    assert (config.WANDB_PROJECT, config.WANDB_MODE) == ("mine", "disabled")


@pytest.mark.parametrize("words", [["auto"], ["sent/them/last"], ["./sent/../sent/them/last"]])
def test_the_run_is_where_the_checkpoint_lies(sent: Path, resume: Resume, words: list[str]) -> None:
    places = ["--OUTPUT_DIR", "sent", "--RUN_NAME", "them"] if words == ["auto"] else []
    config = resume("--RESUME_CHECKPOINT_PATH", *words, *places)
    assert config.run_dir.resolve() == sent


@pytest.mark.parametrize("name", ["last", "../them/last", "./last"])
def test_the_run_is_found_from_within_it(
    sent: Path, resume: Resume, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(sent)
    config = resume("--RESUME_CHECKPOINT_PATH", name)
    assert config.run_dir.resolve() == sent


def test_data_are_read_where_they_were_if_they_are_the_same(
    sent: Path, resume: Resume, trained: Path, tmp_path: Path
) -> None:
    config = resume("--RESUME_CHECKPOINT_PATH", sent / "last")
    assert str(trained / "data") == config.DATA_DIR
    # The same data in the usual place come first, and nobody need look elsewhere.
    shutil.copytree(trained / "data", tmp_path / "data")
    assert resume("--RESUME_CHECKPOINT_PATH", sent / "last").DATA_DIR == "data"


def test_other_data_are_not_read_because_a_checkpoint_names_them(
    sent: Path, resume: Resume, tmp_path: Path
) -> None:
    other = write_data(tmp_path / "private", count=30)
    for values in (
        {"DATA_DIR": str(other)},
        {"DATA_DIR": str(tmp_path / "missing")},
        {"DATA_DIR": "data", "DATASET": "attacker/set"},
        {"DATA_DIR": "data", "DATASET": "home/me/Pictures"},
    ):
        write_settings(sent / "last", values)
        with pytest.raises(UserError, match=r"is not the data that .* --DATA_DIR FOLDER"):
            resume("--RESUME_CHECKPOINT_PATH", sent / "last")
    assert not (tmp_path / "data").exists()


def test_a_stream_has_to_be_typed(sent: Path, resume: Resume) -> None:
    write_settings(sent / "last", {"STREAM": "https://***@host/x.tar?token=***"})
    with pytest.raises(UserError, match=r"was trained on the stream .* --STREAM SHARDS"):
        resume("--RESUME_CHECKPOINT_PATH", sent / "last")
    typed = "https://alice:PW@host/x.tar?token=tok9"
    config = resume("--RESUME_CHECKPOINT_PATH", sent / "last", "--STREAM", typed)
    assert typed == config.STREAM
    with pytest.raises(UserError, match=r"STREAM was .* in the checkpoint") as caught:
        resume("--RESUME_CHECKPOINT_PATH", sent / "last", "--STREAM", f"{typed}; b/*.tar")
    assert "PW" not in str(caught.value)


def test_evaluation_reads_the_data_of_the_training_or_what_is_typed(
    sent: Path, trained: Path, tmp_path: Path
) -> None:
    best = sent / "best"
    assert data_folder(str(best), read_checkpoint(best).config) == trained / "data"
    manifest = json.loads((best / "checkpoint.json").read_text())
    del manifest["data"]  # as an older version wrote it
    (best / "checkpoint.json").write_text(json.dumps(manifest))
    assert data_folder(str(best), read_checkpoint(best).config) == trained / "data"
    (sent / "provenance.json").write_text("{}")
    private = write_data(tmp_path / "private", count=30)
    write_settings(best, {"DATA_DIR": str(private)})
    with pytest.raises(UserError, match=f"say so: --data-dir {private}"):
        data_folder(str(best), read_checkpoint(best).config)
    write_settings(best, {"DATA_DIR": "data"})
    assert data_folder(str(best), read_checkpoint(best).config) == Path("data")


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_no_evaluation_is_written_through_links(
    sent: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "captions.jsonl").write_text("mine")
    if kind == "folder":
        (sent / "evaluation").symlink_to(victim)
    else:
        (sent / "evaluation").mkdir()
        (sent / "evaluation" / "captions.jsonl").symlink_to("../../../victim/captions.jsonl")
    monkeypatch.setattr(evaluate, "evaluate_checkpoint", lambda *_, **__: pytest.fail("too late"))
    with pytest.raises(UserError, match="is a link to"):
        evaluate.main(["--checkpoint", str(sent / "best")])
    assert (victim / "captions.jsonl").read_text() == "mine"
