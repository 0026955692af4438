"""What is trained of an encoder, at which rate, and what is not: to the bit."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from captioner import Captioner
from captioning.system.errors import UserError
from captioning.system.runtime import Runtime
from captioning.vision import lora
from captioning.vision.tower_features import FeatureChoice
from checkpoint import ADAPTERS
from config import Config
from encoder import VisionEncoder
from generate import main as generate
from optimization import CrossEntropy, Schedule, StepResult, build_optimizer, set_learning_rate
from tests.helpers.small_runs import arguments, run, weights_of
from tests.helpers.tiny_encoders import FAMILIES, saved, some_pixels
from train import build_optimization
from trainer import Trainer

RATE, DECAY = 1e-2, 0.5
WITH_BATCH_NORM = ("resnet", "resnet-classifier", "efficientnet", "mobilenet-v2")
LORA_FAMILIES = ["clip", "vit", "blip", "siglip", "dinov2-registers", "swin", "convnext"]


def ready(folder: str, *, blocks: int = -1, **settings: object) -> VisionEncoder:
    if "ENCODER_LORA_RANK" in settings:
        pytest.importorskip("peft")
    encoder = VisionEncoder.from_pretrained(folder, trained_blocks=blocks)
    encoder.prepare_training(Config(ENCODER_TRAINED_BLOCKS=blocks, **settings))
    return encoder.train()


def optimizer_of(encoder: VisionEncoder, decay: float = 1.0) -> torch.optim.AdamW:
    return build_optimizer(
        nn.Linear(2, 2),
        encoder,
        learning_rate=1.0,
        encoder_learning_rate=RATE,
        encoder_layer_decay=decay,
        weight_decay=0.1,
        betas=(0.9, 0.98),
        eps=1e-8,
    )


def rates(encoder: VisionEncoder, decay: float) -> dict[str, float]:
    optimizer = optimizer_of(encoder, decay)
    found = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    return {name: found[p] for name, p in encoder.tower.named_parameters() if p in found}


def changed_by_a_step(encoder: VisionEncoder, side: int) -> set[str]:
    """Names of the tower's state that one update changes."""
    before = {key: value.clone() for key, value in encoder.tower.state_dict().items()}
    optimizer = optimizer_of(encoder)
    for _ in range(2):  # the second adapter matrix has a gradient only once the first is not zero
        encoder(some_pixels(side)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    after = encoder.tower.state_dict()
    return {key for key, value in after.items() if not torch.equal(value, before[key])}


def test_each_block_has_its_share_of_the_rate_of_the_next(tmp_path: Path) -> None:
    encoder = ready(saved(tmp_path, "vit"))
    found = rates(encoder, DECAY)
    assert len(found) == len(encoder.trained_parameters())
    for name, rate in found.items():
        if name.startswith("embeddings."):
            depth = 3  # before the first of three blocks
        elif ".layer." in name or "layers." in name:
            depth = 2 - int(next(part for part in name.split(".") if part.isdigit()))
        else:
            depth = 0  # the final norm
        assert rate == pytest.approx(RATE * DECAY**depth), name
    assert set(rates(encoder, 1.0).values()) == {RATE}


@pytest.mark.parametrize("family", FAMILIES)
def test_deeper_is_slower_in_every_family(family: str, tmp_path: Path) -> None:
    found = rates(ready(saved(tmp_path, family)), DECAY)
    has_none_before_its_stages = family in ("dinov3-convnext", "pvt-v2")
    used = FAMILIES[family].blocks - has_none_before_its_stages
    assert max(found.values()) == RATE
    assert min(found.values()) == pytest.approx(RATE * DECAY**used)
    first = next(iter(found))
    assert found[first] == pytest.approx(RATE * DECAY**used), first


def test_rates_count_from_the_last_trained_block(tmp_path: Path) -> None:
    found = rates(ready(saved(tmp_path, "clip"), blocks=2), DECAY)
    assert {rate for name, rate in found.items() if "layers.2." in name} == {RATE}
    assert {rate for name, rate in found.items() if "layers.1." in name} == {RATE * DECAY}
    assert len(set(found.values())) == 2
    choice = FeatureChoice("-2")  # which the last of three blocks has no part in
    encoder = VisionEncoder.from_pretrained(
        saved(tmp_path, "clip"), choice=choice, trained_blocks=-1
    )
    found = rates(encoder, DECAY)
    assert {rate for name, rate in found.items() if "layers.1." in name} == {RATE}


def test_a_run_s_settings_reach_its_optimizer(tmp_path: Path) -> None:
    config = Config(
        LEARNING_RATE=0.25,
        ENCODER_TRAINED_BLOCKS=2,
        ENCODER_LEARNING_RATE=0.125,
        ENCODER_LAYER_DECAY=0.5,
        WEIGHT_DECAY=0.3,
        ADAM_BETA1=0.8,
        ADAM_BETA2=0.9,
        ADAM_EPS=1e-5,
    )
    encoder = ready(saved(tmp_path, "clip"), blocks=2)
    runtime = Runtime(torch.device("cpu"))
    pipeline = SimpleNamespace(model=nn.Linear(2, 2), encoder=encoder, runtime=runtime)
    groups = build_optimization(config, pipeline, CrossEntropy(0), 10).optimizer.param_groups
    assert {(one["peak_lr"], one["is_encoder"]) for one in groups} == {
        (0.25, False),
        (0.125, True),
        (0.0625, True),
    }
    assert {one["weight_decay"] for one in groups} == {0.3, 0.0}
    assert {(one["betas"], one["eps"]) for one in groups} == {((0.8, 0.9), 1e-5)}


def test_the_encoder_has_a_schedule_of_its_own() -> None:
    schedule = Schedule(100, 5, start_step=40)
    assert [schedule.factor(step) for step in (0, 39)] == [0, 0]
    assert [schedule.factor(step) for step in range(40, 45)] == pytest.approx(
        [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6]
    )
    assert schedule.factor(45) == 1
    assert schedule.factor(100) == pytest.approx(0)
    shifted = Schedule(60, 5)
    assert [schedule.factor(step + 40) for step in range(60)] == [
        shifted.factor(step) for step in range(60)
    ]


def test_a_run_s_settings_reach_the_encoder_s_schedule() -> None:
    runtime = Runtime(torch.device("cpu"))
    parts = SimpleNamespace(model=nn.Linear(2, 2), encoder=nn.Linear(2, 2), runtime=runtime)
    settings = {"ENCODER_TRAINED_BLOCKS": 1, "ENCODER_START_EPOCH": 1, "NUM_EPOCHS": 4}
    optimization = build_optimization(
        Config(WARMUP_STEPS=3, **settings), parts, CrossEntropy(0), 400, encoder_start=1 / 4
    )
    assert optimization.schedule == Schedule(400, 3)
    assert optimization.encoder_schedule == Schedule(400, 3, start_step=100)


def test_set_learning_rate_knows_whose_group_it_is(tmp_path: Path) -> None:
    optimizer = optimizer_of(ready(saved(tmp_path, "vit")))
    assert set_learning_rate(optimizer, 0.5, 0.25) == 0.5
    assert {group["lr"] for group in optimizer.param_groups} == {0.5, RATE * 0.25}
    set_learning_rate(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5, RATE * 0.5}


@pytest.mark.parametrize("family", LORA_FAMILIES)
@pytest.mark.parametrize("blocks", [1, -1])
def test_adapters_alone_change(family: str, blocks: int, tmp_path: Path) -> None:
    folder, side = saved(tmp_path, family), FAMILIES[family].side
    plain = VisionEncoder.from_pretrained(folder)
    encoder = ready(folder, blocks=blocks, ENCODER_LORA_RANK=2)
    with torch.no_grad():
        assert torch.equal(encoder(some_pixels(side)), plain(some_pixels(side)))
    assert encoder.fingerprint() == plain.fingerprint()
    changed = changed_by_a_step(encoder, side)
    assert changed
    assert all(".lora_" in name for name in changed)
    count = sum(".lora_" in name for name in encoder.tower.state_dict())
    assert len(changed) == count == len(encoder.trained_parameters())
    if blocks == -1 and family == "clip":
        assert count == 2 * 6 * 3  # two matrices for each of six layers of three blocks


def test_merged_weights_give_what_the_adapters_give(tmp_path: Path) -> None:
    folder = saved(tmp_path, "clip")
    encoder = ready(folder, ENCODER_LORA_RANK=3)
    changed_by_a_step(encoder, 32)
    plain = VisionEncoder.from_pretrained(folder)
    before = plain(some_pixels(32))
    assert plain.state_dict().keys() == encoder.plain_state().keys()
    plain.load_state_dict(encoder.plain_state())
    with torch.no_grad():
        expected = encoder(some_pixels(32))
    torch.testing.assert_close(plain(some_pixels(32)), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(before, expected, atol=1e-3)


def test_adapters_count_as_often_whatever_their_rank_and_begin_by_the_seed(tmp_path: Path) -> None:
    folder = saved(tmp_path, "clip")
    states = []
    for number, (rank, seed) in enumerate([(2, 7), (2, 7), (2, 8), (3, 7)]):
        torch.manual_seed(number)
        before = torch.random.get_rng_state()
        encoder = ready(folder, ENCODER_LORA_RANK=rank, RANDOM_SEED=seed)
        assert torch.equal(torch.random.get_rng_state(), before)
        layers = [one for one in encoder.modules() if hasattr(one, "base_layer")]
        assert {one.scaling["default"] for one in layers} == {lora.ALPHA_PER_RANK}
        states.append(torch.cat([p.detach().flatten() for p in encoder.trained_parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_adapters_go_on_to_the_bit(tmp_path: Path) -> None:
    folder = saved(tmp_path, "clip")
    encoder, other = (ready(folder, ENCODER_LORA_RANK=3) for _ in range(2))
    changed_by_a_step(encoder, 32)
    state = {key: value.clone() for key, value in encoder.adapter_state().items()}
    assert other.load_adapter_state(state)
    with torch.no_grad():
        assert torch.equal(other(some_pixels(32)), encoder(some_pixels(32)))
    assert not ready(folder, ENCODER_LORA_RANK=2).load_adapter_state(state)
    resumed = VisionEncoder.from_pretrained(folder, trained_blocks=-1)
    resumed.load_state_dict(encoder.plain_state())  # as a checkpoint has them: merged
    resumed.prepare_training(Config(ENCODER_TRAINED_BLOCKS=-1, ENCODER_LORA_RANK=3))
    assert resumed.load_adapter_state(state)
    with torch.no_grad():
        assert torch.equal(resumed(some_pixels(32)), encoder(some_pixels(32)))


def test_adapters_that_cannot_be_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="no linear layers"):
        ready(saved(tmp_path, "resnet"), ENCODER_LORA_RANK=2)
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e \.\[lora\]"):
        ready(saved(tmp_path, "clip"), ENCODER_LORA_RANK=2)


def test_frozen_norms_count_nothing_under_adapters_or_before_the_thaw(tmp_path: Path) -> None:
    encoder = ready(saved(tmp_path, "resnet"))
    encoder.unfreeze(False)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    assert not encoder(some_pixels(32)).requires_grad
    assert not any(module.training for module in encoder.tower.modules())
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    encoder.unfreeze()
    assert encoder(some_pixels(32)).requires_grad
    assert any(not torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    adapted = ready(saved(tmp_path, "vit"), ENCODER_LORA_RANK=2)
    assert not any(module.training for module in adapted.tower.modules())


def gradients(encoder: VisionEncoder, side: int) -> dict[str, Tensor]:
    torch.manual_seed(4)  # some towers drop paths or shake positions in training
    encoder(some_pixels(side)).square().mean().backward()
    return {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in WITH_BATCH_NORM])
@pytest.mark.parametrize("blocks", [1, -1])
def test_recomputed_gradients_are_the_kept_ones(family: str, blocks: int, tmp_path: Path) -> None:
    folder, side = saved(tmp_path, family), FAMILIES[family].side
    kept = gradients(ready(folder, blocks=blocks), side)
    calls: list[int] = []
    encoder = ready(folder, blocks=blocks, GRADIENT_CHECKPOINTING=True)
    for module in encoder.tower.modules():
        if isinstance(module, nn.Linear) and module.weight.requires_grad:
            module.register_forward_pre_hook(lambda *_: calls.append(1))
    found = gradients(encoder, side)
    once = len([m for m in encoder.tower.modules() if m._forward_pre_hooks])
    assert len(calls) > once  # some of it was computed again
    assert found.keys() == kept.keys()
    for name, gradient in kept.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_batch_norm_is_not_counted_twice(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="BatchNorm, which would count each picture twice"):
        ready(saved(tmp_path, "resnet"), GRADIENT_CHECKPOINTING=True)


def test_the_encoder_joins_in_at_its_epoch(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, dict[str, Tensor], float]] = []
    count = Trainer._count

    def note_and_count(self: Trainer, result: StepResult) -> None:
        state = {k: v.clone() for k, v in self.pipeline.encoder.state_dict().items()}
        groups = self.phase.optimization.optimizer.param_groups
        rate = next(group["lr"] for group in groups if group["is_encoder"])
        seen.append((self.state.epoch, state, rate))
        count(self, result)

    monkeypatch.setattr(Trainer, "_count", note_and_count)
    run(place, RUN_NAME="two stages", ENCODER_TRAINED_BLOCKS=1, ENCODER_START_EPOCH=1)
    first = VisionEncoder.from_pretrained(str(place / "tiny-clip")).state_dict()
    for epoch, state, rate in seen:
        same = all(torch.equal(value, first[key]) for key, value in state.items())
        assert same == (epoch == 0)
        assert (rate == 0) == (epoch == 0)
    changed = {key for key, value in seen[-1][1].items() if not torch.equal(value, first[key])}
    assert changed
    assert all(".layers.2." in key for key in changed)


def test_best_holds_merged_weights_and_captions_without_peft(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("peft")
    settings = {"ENCODER_TRAINED_BLOCKS": -1, "ENCODER_LORA_RANK": 2}
    folder = run(place, RUN_NAME="adapted", ENCODER_LEARNING_RATE="1e-2", **settings)
    assert not (folder / "best" / ADAPTERS).exists()
    assert (folder / "last" / ADAPTERS).exists()
    assert ADAPTERS in json.loads((folder / "last" / "checkpoint.json").read_text())["files"]
    assert not any("lora" in name for name in weights_of(folder / "last") if "model." in name[:6])
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    captioner = Captioner.from_pretrained(folder / "best")
    first = VisionEncoder.from_pretrained(str(place / "tiny-clip")).state_dict()
    trained = captioner.pipeline.encoder.state_dict()
    changed = {key for key, value in trained.items() if not torch.equal(value, first[key])}
    assert len(changed) == 3 * 6
    assert all(key.endswith(".weight") and ".layers." in key for key in changed)
    picture = next((place / "data" / "small" / "test").glob("scene*"))
    assert generate(["--image", str(picture), "--checkpoint", str(folder / "last")]) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"ENCODER_LORA_RANK": 4}, "ENCODER_LORA_RANK is about a trained encoder"),
        ({"GRADIENT_CHECKPOINTING": True}, "add --ENCODER_TRAINED_BLOCKS -1"),
        ({"ENCODER_TRAINED_BLOCKS": 1, "ENCODER_START_EPOCH": 2}, "would never be trained"),
        ({"ENCODER_TRAINED_BLOCKS": 1, "ENCODER_LAYER_DECAY": 0}, "above 0 and at most 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    changes: dict[str, object], sentence: str, place: Path
) -> None:
    import train

    with pytest.raises(UserError) as caught:
        train.main(arguments(place, RUN_NAME="refused", **changes))
    assert sentence in str(caught.value)
