"""Checkpoint folders: whole or not at all, checked before use, nothing executed."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from captioning.sharing.repository import upload_checkpoint
from captioning.system import folders as checkpoint_files
from captioning.system.errors import UserError
from captioning.system.runtime import Runtime
from captioning.training.guards import locked
from checkpoint import (
    load_optimizer,
    load_pipeline,
    newest_best,
    newest_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from tests.helpers.forged_checkpoints import forge
from tests.helpers.small_runs import run, write_data, write_encoder

RUNTIME = Runtime(torch.device("cpu"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished run."""
    folder = tmp_path_factory.mktemp("trained")
    write_data(folder)
    write_encoder(folder)
    return run(folder, NUM_EPOCHS=1, VALIDATION_IMAGES=2)


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_saved_and_loaded_it_is_the_same(trained: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(trained / "last")
    pipeline = load_pipeline(checkpoint, RUNTIME)
    save_checkpoint(
        tmp_path / "again",
        pipeline,
        checkpoint.config,
        metrics=checkpoint.metrics,
        card="card",
    )
    for name in ("config.toml", "model.safetensors", "tokenizer.json", "metrics.json"):
        assert (tmp_path / "again" / name).read_bytes() == (trained / "last" / name).read_bytes()


def test_a_frozen_encoder_is_recorded_and_not_copied(trained: Path) -> None:
    manifest = json.loads((trained / "best" / "checkpoint.json").read_text())
    assert manifest["encoder"]["in_checkpoint"] is False
    assert manifest["encoder"]["name"].endswith("tiny-clip")
    names = load_file(trained / "best" / "model.safetensors").keys()
    assert all(name.startswith("model.") for name in names)


def test_a_trained_encoder_is_in_the_checkpoint(tmp_path: Path) -> None:
    write_data(tmp_path)
    write_encoder(tmp_path)
    folder = run(
        tmp_path,
        NUM_EPOCHS=1,
        ENCODER_TRAINED_BLOCKS=1,
        ENCODER_LEARNING_RATE="0.1",
        ENCODER_LAYERS="-1,-2",
        ENCODER_TOKENS="patches",
    )
    before = load_pipeline(read_checkpoint(folder / "last"), RUNTIME)
    shutil.rmtree(tmp_path / "tiny-clip")  # the checkpoint must do without it
    after = load_pipeline(read_checkpoint(folder / "last"), RUNTIME)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert before.encoder(pixels).equal(after.encoder(pixels))
    assert after.encoder(pixels).shape == (2, 16, 32)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "optimizer.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_file_that_was_cut_short_is_named(copied: Path, name: str, share: float) -> None:
    path = copied / "last" / name
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UserError, match=f"{name} is damaged"):
        read_checkpoint(copied / "last")


def test_a_flipped_bit_is_found(copied: Path) -> None:
    path = copied / "last" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged: its SHA-256"):
        read_checkpoint(copied / "last")


def test_a_missing_file_is_named(copied: Path) -> None:
    (copied / "best" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json is missing"):
        read_checkpoint(copied / "best")


def test_a_folder_without_manifest_is_no_checkpoint(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a checkpoint: .* Name a folder such as"):
        read_checkpoint(tmp_path)
    with pytest.raises(UserError, match=r"It is the folder of a run; name .* in it: .*/best$"):
        read_checkpoint(copied)
    with pytest.raises(UserError, match=r"it has no checkpoint\.json,.* in it: .*/best$"):
        upload_checkpoint(copied, "me/x", left_out=())
    (tmp_path / "export.json").write_text("{}")
    with pytest.raises(UserError, match=r"is not a checkpoint: .* It is an export"):
        read_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "image-captioner"}')
    with pytest.raises(UserError, match=r"is not a checkpoint\. It is an export"):
        read_checkpoint(tmp_path)


def test_another_format_version_is_refused(copied: Path) -> None:
    path = copied / "best" / "checkpoint.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "format_version": 99}))
    with pytest.raises(UserError, match="format version 99"):
        read_checkpoint(copied / "best")


def rewrite_state(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "trainer_state.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    forge(folder)


def test_the_state_of_the_first_version_is_read_as_it_was_meant(copied: Path) -> None:
    rewrite_state(copied / "last", lambda values: values.update(loss_sums=[2.5]))
    now = read_checkpoint(copied / "last").state

    def to_first(values: dict[str, Any]) -> None:
        values["loss_sum"] = values.pop("loss_sums")[0]
        del values["micro_batch_size"], values["data_position"]

    rewrite_state(copied / "last", to_first)
    assert read_checkpoint(copied / "last").state == now


def test_a_state_of_a_newer_version_is_refused_and_a_lacking_one_too(copied: Path) -> None:
    rewrite_state(copied / "last", lambda values: values.update(moon_phase=1))
    with pytest.raises(UserError, match=r"moon_phase, which this version .* does not know"):
        read_checkpoint(copied / "last")
    rewrite_state(copied / "last", lambda values: (values.pop("moon_phase"), values.pop("step")))
    with pytest.raises(UserError, match="damaged: step is missing"):
        read_checkpoint(copied / "last")


def test_settings_that_came_later_are_at_their_default_and_unknown_ones_are_named(
    copied: Path,
) -> None:
    path = copied / "best" / "config.toml"
    before = read_checkpoint(copied / "best").config
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("EMA_DECAY")))
    forge(copied / "best")
    assert read_checkpoint(copied / "best").config == before
    path.write_text("".join([*lines, "MOON_PHASE = 1\n"]))
    forge(copied / "best")
    with pytest.raises(UserError, match=r"config\.toml: .*MOON_PHASE"):
        read_checkpoint(copied / "best")


def test_a_manifest_cannot_name_files_elsewhere(copied: Path) -> None:
    path = copied / "best" / "checkpoint.json"
    manifest = json.loads(path.read_text())
    manifest["files"] = {"../../x": {"size": 1, "sha256": "0"}}
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="damaged"):
        read_checkpoint(copied / "best")


def test_weights_of_other_names_or_shapes_are_refused(copied: Path) -> None:
    path = copied / "best" / "model.safetensors"
    tensors = load_file(path)
    name = "model.decoder.norm.weight"
    for changed, message in (
        ({key: value for key, value in tensors.items() if key != name}, "norm.weight is missing"),
        ({**tensors, "model.more": torch.zeros(1)}, "model.more is unknown"),
        ({**tensors, name: torch.zeros(3)}, r"norm.weight is \(3,\), the settings make it \(16,\)"),
    ):
        save_file(changed, path)
        forge(copied / "best")
        with pytest.raises(UserError, match=message):
            load_pipeline(read_checkpoint(copied / "best"), RUNTIME)


def test_another_vocabulary_is_refused(copied: Path, trained: Path) -> None:
    from tokenizer import train_tokenizer

    train_tokenizer(["other captions"] * 3, 262).save(copied / "best" / "tokenizer.json")
    forge(copied / "best")
    with pytest.raises(UserError, match="does not fit the settings"):
        load_pipeline(read_checkpoint(copied / "best"), RUNTIME)


def test_another_encoder_of_the_same_name_is_refused(tmp_path: Path) -> None:
    write_data(tmp_path)
    encoder = write_encoder(tmp_path)
    folder = run(tmp_path, NUM_EPOCHS=1)
    weights = load_file(encoder / "model.safetensors")
    key = next(name for name in weights if "vision" in name and name.endswith("q_proj.weight"))
    weights[key] = weights[key] + 1
    save_file(weights, encoder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="was trained with another"):
        load_pipeline(read_checkpoint(folder / "best"), RUNTIME)


def load_all(folder: Path) -> None:
    """Read everything that a checkpoint holds."""
    checkpoint = read_checkpoint(folder)
    pipeline = load_pipeline(checkpoint, RUNTIME)
    load_optimizer(torch.optim.AdamW(pipeline.model.parameters()), pipeline, folder)


class Exploding:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, ("exploded",))


def test_a_malicious_file_is_not_executed(
    copied: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    bomb = pickle.dumps(Exploding())
    for name in ("model.safetensors", "optimizer.safetensors", "tokenizer.json", "config.toml"):
        spoilt = Path(shutil.copytree(copied / "last", tmp_path / f"bad-{name}"))
        (spoilt / name).write_bytes(bomb)
        forge(spoilt)
        with pytest.raises(UserError, match=name):
            load_all(spoilt)
    assert not (tmp_path / "exploded").exists()
    pickle.loads(bomb)  # the bomb itself works
    assert (tmp_path / "exploded").exists()


def test_a_failed_save_leaves_the_old_checkpoint(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = read_checkpoint(copied / "last")
    pipeline = load_pipeline(checkpoint, RUNTIME)
    before = (copied / "last" / "model.safetensors").read_bytes()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_files, "_flush", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(copied / "last", pipeline, checkpoint.config, metrics={}, card="")
    monkeypatch.undo()
    assert (copied / "last" / "model.safetensors").read_bytes() == before
    assert read_checkpoint(copied / "last").state == checkpoint.state
    assert {path.name for path in copied.iterdir() if path.is_dir()} == {"last", "best"}


def test_auto_passes_over_what_is_damaged_and_finds_what_a_kill_left(copied: Path) -> None:
    (copied / "last").rename(copied / "last.replaced")  # killed between the two renames
    folder, problems = newest_checkpoint(copied)
    assert (folder, problems) == (copied / "last.replaced", [])
    shutil.copytree(copied / "last.replaced", copied / "last")
    state = copied / "last" / "trainer_state.json"
    values = json.loads(state.read_text())
    state.write_text(json.dumps({**values, "step": values["step"] + 1}))
    folder, problems = newest_checkpoint(copied)
    assert folder == copied / "last.replaced"
    assert "trainer_state.json is damaged" in problems[0]
    shutil.copytree(copied / "last.replaced", copied / "last.unfinished")
    shutil.rmtree(copied / "last.replaced")
    assert newest_checkpoint(copied)[0] is None


def test_the_newest_best_is_found(copied: Path, tmp_path: Path) -> None:
    older = Path(shutil.copytree(copied, tmp_path / "older"))
    os.utime(older / "best" / "checkpoint.json", (1, 1))
    assert newest_best(tmp_path) == copied / "best"
    with pytest.raises(UserError, match="there is no trained model"):
        newest_best(tmp_path / "empty")


def test_of_older_checkpoints_only_checkpoints_are_removed(copied: Path) -> None:
    checkpoint = read_checkpoint(copied / "last")
    assert checkpoint.state is not None
    for number in (1, 2, 999_999_999, 1_000_000_000):
        shutil.copytree(copied / "last", copied / f"step-{number:09}")
    (copied / "step-000000003").mkdir()
    (copied / "step-by-step").mkdir()
    for name in ("step-000000003", "step-by-step"):
        (copied / name / "thesis.tex").touch()
    save_checkpoint(
        copied / "last",
        load_pipeline(checkpoint, RUNTIME),
        checkpoint.config,
        metrics={},
        card="",
        state=checkpoint.state,
        keep=2,
    )
    assert {path.name for path in copied.glob("step-*")} == {
        *("step-999999999", "step-1000000000", "step-000000003", "step-by-step")
    }


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "wandb", ".uploads", "last", "any"])
def test_no_run_is_held_in_a_folder_with_links(copied: Path, tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("years")
    with locked(copied):
        pass
    if (copied / name).is_dir():
        (copied / name).rename(tmp_path / "moved")
    (copied / name).unlink(missing_ok=True)
    (copied / name).symlink_to(os.path.relpath(victim, copied))
    with pytest.raises(UserError, match=f"{name} is a link"), locked(copied):
        pass
    assert victim.read_text() == "years"


def test_no_run_is_held_where_something_else_is_called_last(tmp_path: Path) -> None:
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "thesis.tex").touch()
    with pytest.raises(UserError, match="last is there and is no checkpoint"), locked(tmp_path):
        pass
    os.mkfifo(tmp_path / ".lock")
    (tmp_path / "last").rename(tmp_path / "thesis")
    with pytest.raises(UserError, match="cannot be written to"), locked(tmp_path):
        pass


def test_links_in_a_checkpoint_lead_to_no_other_place(copied: Path, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.write_text("# mine")
    best = copied / "best"
    (best / "README.md").unlink()
    (best / "README.md").symlink_to("../../private")
    with pytest.raises(UserError, match=r"README\.md is a link that leads out of the checkpoint"):
        read_checkpoint(best)
    # As the Hub's cache has them.
    (best / "README.md").unlink()
    cached = tmp_path / "models--me--x" / "snapshots" / "abc"
    (tmp_path / "models--me--x" / "blobs").mkdir(parents=True)
    cached.mkdir(parents=True)
    for number, path in enumerate(best.iterdir()):
        blob = tmp_path / "models--me--x" / "blobs" / str(number)
        blob.write_bytes(path.read_bytes())
        (cached / path.name).symlink_to(f"../../blobs/{number}")
    assert read_checkpoint(cached).metrics == read_checkpoint(best).metrics
