"""A run that begins with a trained model: what it takes from it, what it refuses, what it says."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import train
from beginning import initial_config
from captioning.scenes import write_scenes
from captioning.sharing.published import published_files
from captioning.system.errors import UserError
from captioning.system.files import sha256_of
from captioning.system.options import described_fields
from captioning.system.rules import ARCHITECTURE, OF_ENCODER, OF_TRAINED_ENCODER, TYPED
from captioning.system.runtime import Runtime
from checkpoint import load_pipeline, read_checkpoint
from compare import read_plan
from config import Config, dump_config, parse_config, settings_with
from dataset import Step
from tests.helpers.forged_checkpoints import forge
from tests.helpers.processes import run_together
from tests.helpers.small_runs import (
    arguments,
    differences,
    lines_of,
    run,
    weights_of,
    write_encoder,
)
from tests.helpers.steps import Killed, before_each_step
from trainer import Trainer

RUNTIME = Runtime(torch.device("cpu"))
MODEL = settings_with(ARCHITECTURE, OF_ENCODER) | {"MAX_SEQ_LEN"}


@pytest.fixture(autouse=True)
def curves_without_a_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plotting takes half of so small a training."""
    monkeypatch.setattr("captioning.tracking.run_log.draw_curves", lambda *_, **__: None)


@pytest.fixture(scope="module")
def base(place: Path) -> Path:
    """A trained model, to begin with, and data of another world."""
    write_scenes(place / "data" / "other", seed=5, count=30, size=32)
    return run(place, RUN_NAME="base", NUM_EPOCHS=1, VALIDATION_IMAGES=2) / "best"


def words(place: Path, model: Path | str, **changes: object) -> list[str]:
    """A command line that begins with `model` and names nothing that the model decides."""
    given = {"DATASET": "other", "RUN_NAME": "child", "INIT_CHECKPOINT_PATH": model, **changes}
    left_out = MODEL - given.keys()
    line = arguments(place, **given)
    pairs = zip(line[::2], line[1::2], strict=True)
    return [word for pair in pairs if pair[0][2:] not in left_out for word in pair]


def begun(place: Path, model: Path | str, **changes: object) -> Trainer:
    """A run before its first step."""
    line = words(place, model, **changes)
    config = initial_config(parse_config(line), line)
    trainer = train.build_trainer(config, RUNTIME)
    trainer.log.close(finished=False)
    return trainer


def vanish_after(step: int) -> Callable[[Trainer, Step], None]:
    """Ends a run just after the update of a step."""

    def vanish(trainer: Trainer, _: Step) -> None:
        if trainer.state.step == step:
            raise Killed

    return vanish


def weights_of_model(trainer: Trainer) -> dict[str, Tensor]:
    return {f"model.{name}": one for name, one in trainer.pipeline.model.state_dict().items()}


def test_a_run_has_the_models_weights_words_and_settings_and_all_else_anew(
    place: Path, base: Path
) -> None:
    trainer = begun(place, base, DECODER_DROPOUT=0.3)
    saved, config = read_checkpoint(base), trainer.config
    assert {n: getattr(config, n) for n in MODEL} == {n: getattr(saved.config, n) for n in MODEL}
    assert config.DECODER_DROPOUT == trainer.pipeline.model.decoder.dropout.p == 0.3
    stored = load_file(base / "model.safetensors")
    found = weights_of_model(trainer)
    assert stored.keys() == found.keys()
    assert all(found[name].equal(stored[name]) for name in stored)
    assert trainer.pipeline.tokenizer.to_json() == saved.tokenizer.to_json()
    assert (trainer.state.step, trainer.state.epoch, trainer.state.best_score) == (0, 0, None)
    assert {record.image.parent.parent.name for record in trainer.validation.records} == {"other"}


def test_longer_captions_may_be_asked_for(place: Path, base: Path) -> None:
    trainer = begun(place, base, MAX_SEQ_LEN=60)
    assert trainer.pipeline.max_length == 60
    assert len(trainer.pipeline.model.decoder.positions) == 60


def test_what_contradicts_the_model_is_one_sentence_each(place: Path, base: Path) -> None:
    with pytest.raises(UserError) as raised:
        begun(place, base, DECODER_LAYERS=3, VOCAB_SIZE=500)
    assert raised.value.problems == (
        f"DECODER_LAYERS is 3, and {base}, with which the run is to begin, has 2; leave it out, or "
        "leave out INIT_CHECKPOINT_PATH to begin with nothing.",
        f"VOCAB_SIZE is 500, and {base}, with which the run is to begin, has 320; leave it out, or "
        "leave out INIT_CHECKPOINT_PATH to begin with nothing.",
    )


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("nowhere/at/all", "neither a folder nor the name of a Hub repository"),
        ("data/small", "is not a checkpoint: checkpoint.json is missing"),
    ],
)
def test_what_is_no_checkpoint_is_told(place: Path, model: str, text: str) -> None:
    name = place / model if model.startswith("data") else model
    line = words(place, name)
    with pytest.raises(UserError, match=text):
        train.main(line)


def test_a_run_either_begins_or_goes_on(place: Path, base: Path) -> None:
    line = words(place, base, RESUME_CHECKPOINT_PATH=base.parent / "last")
    with pytest.raises(UserError, match="leave one of them out"):
        train.main(line)


def test_who_cannot_go_on_is_told_how_to_begin(place: Path, base: Path) -> None:
    with pytest.raises(UserError, match=r"model alone.*--INIT_CHECKPOINT_PATH '?/.*base/best"):
        train.main(arguments(place, RESUME_CHECKPOINT_PATH=base))
    with pytest.raises(UserError, match=r"--INIT_CHECKPOINT_PATH '?/.*base/last"):
        train.main(arguments(place, DATASET="new", RESUME_CHECKPOINT_PATH=base.parent / "last"))


def test_behind_another_encoder_the_projection_alone_is_new(
    place: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_encoder(place, "vit")
    found = weights_of_model(begun(place, base, ENCODER_MODEL_NAME=other))
    assert f"ENCODER_MODEL_NAME {other}: another encoder than that of" in capsys.readouterr().out
    stored = load_file(base / "model.safetensors")
    kept = {name for name in found if found[name].shape == stored[name].shape}
    equal = {name for name in kept if found[name].equal(stored[name])}
    assert equal >= {name for name in found if not name.startswith("model.projection.")}
    assert "model.projection.mlp.2.weight" not in equal


def test_an_encoder_that_only_lies_elsewhere_is_the_same(
    place: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(place / "tiny-clip", place / "moved-clip", dirs_exist_ok=True)
    found = weights_of_model(begun(place, base, ENCODER_MODEL_NAME=moved))
    assert "another encoder" not in capsys.readouterr().out
    stored = load_file(base / "model.safetensors")
    assert all(found[name].equal(stored[name]) for name in stored)


def test_it_goes_on_exactly_without_the_model_that_it_began_with(place: Path, base: Path) -> None:
    model = shutil.copytree(base, place / "sent" / "best")
    small = {"EMA_DECAY": 0.5, "NUM_EPOCHS": 1, "VALIDATION_IMAGES": 1}
    assert train.main(words(place, model, RUN_NAME="whole", **small)) == 0
    changes = {"RUN_NAME": "killed", "SAVE_INTERVAL": 1, **small}
    with before_each_step(vanish_after(2)), pytest.raises(Killed):
        train.main(words(place, model, **changes))
    shutil.rmtree(model)
    assert train.main(words(place, model, RESUME_CHECKPOINT_PATH="auto", **changes)) == 0
    whole, killed = place / "checkpoints/whole", place / "checkpoints/killed"
    assert differences(whole / "last", killed / "last") == []
    assert differences(whole / "best", killed / "best") == []
    parent = {"name": "best", "sha256": sha256_of(base / "model.safetensors")}
    for folder in (whole, killed):
        assert read_checkpoint(folder / "best").parent == parent
        assert json.loads((folder / "provenance.json").read_text())["sessions"][-1]["parent"] == (
            parent
        )
        assert f"`{parent['sha256'][:16]}`" in (folder / "best" / "README.md").read_text()
    with pytest.raises(UserError, match=r"INIT_CHECKPOINT_PATH was .* cannot change within a run"):
        train.main(words(place, base, RESUME_CHECKPOINT_PATH="auto", **changes))
    published = published_files(killed / "best", "me/child", left_out=settings_with(TYPED))
    for content in published.values():
        data = content if isinstance(content, bytes) else content.read_bytes()
        assert str(place).encode() not in data


def test_of_the_hub_the_commit_is_written_down(
    place: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository, commit = tmp_path / "models--me--captioner", "c0ffee" + "1" * 34
    shutil.copytree(base, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    address = f"https://huggingface.co/me/captioner/tree/{commit}"
    for name in ("me/captioner", f"me/captioner@{commit}", address):
        child = begun(place, name, RUN_NAME="of-hub")
    child.save_last()
    last = read_checkpoint(child.config.run_dir / "last")
    assert last.parent == {"name": address, "sha256": sha256_of(base / "model.safetensors")}
    card = (last.folder / "README.md").read_text()
    assert "\nbase_model: me/captioner\n" in card
    assert f"`{address}`" in card


def test_who_goes_on_uploads_the_best_that_a_kill_may_have_kept_back(
    place: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: list[Path] = []
    uploader = SimpleNamespace(submit=submitted.append)
    monkeypatch.setattr(train, "BestUploader", lambda *_, **__: uploader)
    upload = {"HF_REPO_ID": "me/x", "HF_UPLOAD_BEST_CHECKPOINTS": True}
    begun(place, base, RUN_NAME="uploading", **upload)
    assert submitted == []
    config = parse_config(arguments(place, RUN_NAME="base", NUM_EPOCHS=1, **upload))
    train.build_trainer(config, RUNTIME, base.parent / "last").log.close(finished=False)
    assert submitted == [base]


def test_self_critical_training_alone_of_a_model_that_has_learnt(place: Path, base: Path) -> None:
    small = {"NUM_EPOCHS": 0, "SCST_EPOCHS": 1, "SCST_SAMPLES": 2, "VALIDATION_IMAGES": 1}
    assert train.main(words(place, base, RUN_NAME="rewarded", **small)) == 0
    run = place / "checkpoints/rewarded"
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("reward" in line for line in log)
    assert not any("loss" in line for line in log)
    (validated,) = (line for line in log if "validation_loss" in line)
    assert "BLEU-4" in validated
    assert "CIDEr" not in validated  # of a single picture
    killed = {"RUN_NAME": "rewarded-killed", "SAVE_INTERVAL": 1, **small}
    with before_each_step(vanish_after(2)), pytest.raises(Killed):
        train.main(words(place, base, **killed))
    assert train.main(words(place, base, RESUME_CHECKPOINT_PATH="auto", **killed)) == 0
    assert differences(run / "last", place / "checkpoints/rewarded-killed/last") == []
    for changes in ({"SCST_EPOCHS": 0}, {"INIT_CHECKPOINT_PATH": ""}):
        with pytest.raises(UserError, match="NUM_EPOCHS is 0, which leaves"):
            parse_config(words(place, base, **{**small, **changes}))


def saved_after_a_change(place: Path, name: str, **changes: object) -> Path:
    """A checkpoint of a run whose trained encoder has other weights than it began with."""
    config = parse_config(arguments(place, RUN_NAME=name, **changes))
    trainer = train.build_trainer(config, RUNTIME)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in trainer.pipeline.encoder.trained_parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    trainer.save_last()
    trainer.log.close(finished=False)
    return config.run_dir / "last"


def encoder_of(trainer: Trainer) -> dict[str, Tensor]:
    """Its weights, by the names that a checkpoint gives them."""
    weights = trainer.pipeline.encoder.plain_state()
    return {f"encoder.{name}": weight for name, weight in weights.items()}


def test_an_encoder_that_was_trained_comes_along_and_may_stay_frozen(place: Path) -> None:
    model = saved_after_a_change(place, "tuned", ENCODER_TRAINED_BLOCKS=1)
    stored = load_file(model / "model.safetensors")
    child = begun(place, model, RUN_NAME="on-tuned")
    child.save_last()
    assert child.pipeline.encoder.trained_parameters() == []
    again = load_file(place / "checkpoints/on-tuned/last/model.safetensors")
    assert any(name.startswith("encoder.") for name in stored)
    assert again.keys() == stored.keys()
    assert all(again[name].equal(stored[name]) for name in stored)
    resumed = load_pipeline(read_checkpoint(place / "checkpoints/on-tuned/last"), RUNTIME)
    assert resumed.encoder.fingerprint() == child.pipeline.encoder.fingerprint()
    trained = begun(place, model, RUN_NAME="on", ENCODER_TRAINED_BLOCKS=-1)
    assert trained.pipeline.encoder.trained_parameters()
    assert all(weight.equal(stored[name]) for name, weight in encoder_of(trained).items())


def test_adapters_are_in_the_weights_and_new_ones_are_added(place: Path) -> None:
    pytest.importorskip("peft")
    changes = {"ENCODER_TRAINED_BLOCKS": -1, "ENCODER_LORA_RANK": 2}
    model = saved_after_a_change(place, "adapted", **changes)
    stored = load_file(model / "model.safetensors")
    trainer = begun(place, model, **changes)
    assert trainer.pipeline.encoder.adapter_state()
    assert all(weight.equal(stored[name]) for name, weight in encoder_of(trainer).items())


def test_runs_of_a_comparison_begin_with_it_too(place: Path, base: Path) -> None:
    file = place / "begun.toml"
    text = f"""
    DATASET = "other"
    [compare]
    SEEDS = [1]
    [models.warm]
    INIT_CHECKPOINT_PATH = "{base}"
    [models.cold]
    ENCODER_MODEL_NAME = "{place}/tiny-clip"
    """
    file.write_text(text)
    warm, cold = (run.config for run in read_plan(file).runs)
    assert (warm.DECODER_LAYERS, warm.VOCAB_SIZE, cold.DECODER_LAYERS) == (2, 320, 6)
    assert str(place / "tiny-clip") == warm.ENCODER_MODEL_NAME
    file.write_text(dump_config(warm))  # as a run of it is started
    line = ["--config", str(file)]
    assert initial_config(parse_config(line), line) == warm
    file.write_text(text.replace("[models.cold]", "decoder-layers = 3\n[models.cold]"))
    with pytest.raises(UserError, match=r"begun.toml, \[models.warm\]: DECODER_LAYERS is 3, and"):
        read_plan(file)


def test_it_works_with_all_that_a_run_may_be(
    place: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stream that mixes old data in, self-critical training, an average; to the end."""
    line = words(
        place,
        base,
        RUN_NAME="mixed",
        STREAM=f"{place}/data/other = 2; {place}/data/small = 1",
        STREAM_STEPS_PER_EPOCH=2,
        NUM_EPOCHS=1,
        SCST_EPOCHS=1,
        EMA_DECAY=0.5,
        FEATURE_CACHE="1GB",
        VALIDATION_IMAGES=1,
    )
    assert train.main(line) == 0
    assert "/mixed/best  (epoch 2:" in capsys.readouterr().out.replace("\n              ", " ")
    last = read_checkpoint(place / "checkpoints/mixed/last")
    assert last.state is not None
    assert last.state.step == 4
    assert str(base) == last.config.INIT_CHECKPOINT_PATH
    assert last.tokenizer.to_json() == read_checkpoint(base).tokenizer.to_json()


@pytest.mark.slow
def test_several_processes_begin_as_one_does(place: Path, base: Path) -> None:
    """With the encoder in parts; and go on exactly, into self-critical training."""
    settings = {
        "DATASET": "other",
        "INIT_CHECKPOINT_PATH": base,
        "NUM_EPOCHS": 1,
        "SCST_EPOCHS": 1,
        "ENCODER_TRAINED_BLOCKS": -1,
        "DECODER_DROPOUT": 0,
        "LOG_INTERVAL": 1,
        **dict.fromkeys(MODEL),
    }
    one = run(place, RUN_NAME="one", **settings)
    parts = {**settings, "SHARDING": "on", "SAVE_INTERVAL": 1, "KEEP_CHECKPOINTS": 9}
    two = run_together(place, RUN_NAME="two", **parts)
    curves = [lines_of(folder / "metrics.jsonl") for folder in (one, two)]
    for alone, together in zip(*curves, strict=True):  # samples are each process's own
        for name in {"loss", "gradient_norm", "validation_loss"} & alone.keys():
            if alone["epoch"] == 1:
                assert together[name] == pytest.approx(alone[name], rel=2e-5)
    first, second = (weights_of(folder / "best-cross-entropy") for folder in (one, two))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=2e-5, msg=name)
    assert read_checkpoint(two / "best").parent["sha256"] == sha256_of(base / "model.safetensors")
    earliest = min(two.glob("step-*"), key=lambda path: int(path.name[5:]))
    again = shutil.copytree(earliest, place / "checkpoints" / "again" / "last").parent
    run_together(place, RUN_NAME="again", RESUME_CHECKPOINT_PATH="auto", **parts)
    assert differences(two / "last", again / "last") == []


def test_a_forged_model_is_refused(base: Path, place: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(base, tmp_path / "best"))
    settings = (model / "config.toml").read_text().replace("LAYERS = 2", "LAYERS = 3")
    (model / "config.toml").write_text(settings)
    forge(model)
    with pytest.raises(UserError, match="does not fit the settings beside it"):
        begun(place, model)


def test_what_a_checkpoint_says_of_its_parent_is_checked(base: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(base, tmp_path / "best"))
    manifest = json.loads((model / "checkpoint.json").read_text())
    for parent in ("x", ["a"], {"name": "a"}, {"name": "a", "sha256": "`|<b>"}, {"name": 1}):
        (model / "checkpoint.json").write_text(json.dumps({**manifest, "parent": parent}))
        with pytest.raises(UserError, match="damaged: its parent is"):
            read_checkpoint(model)


def test_every_setting_of_encoder_and_decoder_says_whether_the_model_decides_it() -> None:
    by_heading: dict[str, set[str]] = {}
    for one in described_fields(Config):
        by_heading.setdefault(one.heading, set()).add(one.name)
    of_training = {
        *("ENCODER_TRAINED_BLOCKS", "ENCODER_LEARNING_RATE"),
        *("DECODER_DROPOUT", "DECODER_TRAINED"),
    }
    assert settings_with(OF_ENCODER) == {"ENCODER_MODEL_NAME"} | by_heading["Encoder"] - (
        of_training | settings_with(OF_TRAINED_ENCODER)
    )
    assert settings_with(ARCHITECTURE) == by_heading["Decoder"] - of_training - {"MAX_SEQ_LEN"}


def test_a_run_is_named_after_the_model_that_it_begins_with() -> None:
    def name(model: str) -> str:
        return Config(DATASET="mine", INIT_CHECKPOINT_PATH=model).run_name

    assert name("checkpoints/demo/best") == "mine-from-demo-best"
    assert name("https://huggingface.co/you/captioner") == "mine-from-you-captioner"
    assert name("../best/") == "mine-from-best"
