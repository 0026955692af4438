"""The average of the weights: its formula, what it holds, and what a run does with it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import train
from captioning.sources.records import read_records
from captioning.system.errors import UserError
from captioning.system.runtime import Runtime
from captioning.training.weight_average import WeightAverage
from checkpoint import load_pipeline, read_checkpoint
from dataset import CaptionDataset
from features import open_stores
from tests.helpers.small_runs import arguments, run
from validation import validation_loss

RUNTIME = Runtime(torch.device("cpu"))


def moved(decay: float, updates: int) -> tuple[list[float], float]:
    """The values that a weight takes, and what its average is after them."""
    layer = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    average = WeightAverage({"layer": layer}, decay)
    path = []
    for number in range(updates + 1):
        path.append(float(number**2))
        layer.weight.data.fill_(path[-1])
        if number == 0:
            average = WeightAverage({"layer": layer}, decay)
        else:
            average.update(number)
    return path, average.tensors["layer.weight"].item()


@pytest.mark.parametrize("decay", [0.1, 0.5, 0.99])
def test_the_average_is_the_formula(decay: float) -> None:
    path, found = moved(decay, 30)
    expected = path[0]
    for number, value in enumerate(path[1:], start=1):
        now = min(decay, (1 + number) / (10 + number))
        expected = now * expected + (1 - now) * value
    assert found == pytest.approx(expected, rel=1e-12)


def test_it_holds_what_training_moves_and_nothing_else() -> None:
    trained = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    trained[0].bias.requires_grad_(False)
    trained.register_buffer("constant", torch.ones(2), persistent=False)
    frozen = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).requires_grad_(False)
    average = WeightAverage({"a": trained, "b": frozen}, 0.9)
    assert set(average.tensors) == {
        "a.0.weight",
        "a.1.weight",
        "a.1.bias",
        "a.1.running_mean",
        "a.1.running_var",
    }


def test_applied_it_fills_the_modules_and_gives_their_weights_back() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    average = WeightAverage({"model": model}, 0.5)
    model(torch.randn(8, 4))  # moves the statistics
    nn.init.normal_(model[0].weight)
    average.update(1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    averages = {name: tensor.clone() for name, tensor in average.tensors.items()}

    def stopped_inside() -> None:
        with average.applied():
            inside.update({f"model.{name}": t.clone() for name, t in model.state_dict().items()})
            raise KeyError

    inside: dict[str, Tensor] = {}
    with pytest.raises(KeyError):
        stopped_inside()
    assert all(inside[name].equal(tensor) for name, tensor in averages.items())
    assert not inside["model.0.weight"].equal(before["0.weight"])
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert all(tensor.equal(averages[name]) for name, tensor in average.tensors.items())


def test_the_average_is_validated_and_kept_as_best(place: Path) -> None:
    folder = run(place, EMA_DECAY=0.8, NUM_EPOCHS=1)
    best, last = (load_file(folder / kind / "model.safetensors") for kind in ("best", "last"))
    average = load_file(folder / "last" / "average.safetensors")
    assert not (folder / "best" / "average.safetensors").exists()
    assert set(average) <= set(best)
    assert all(best[name].equal(tensor) for name, tensor in average.items())
    assert not best["model.decoder.norm.weight"].equal(last["model.decoder.norm.weight"])

    checkpoint = read_checkpoint(folder / "best")
    pipeline, config = load_pipeline(checkpoint, RUNTIME), checkpoint.config
    records = {split: read_records(config.dataset_dir / split) for split in ("train", "validation")}
    pictures = open_stores(config, pipeline.encoder, RUNTIME, records)["validation"]
    captions = CaptionDataset(records["validation"], pipeline.tokenizer, config.MAX_SEQ_LEN)
    loss = validation_loss(pipeline, captions, pictures, batch_size=config.BATCH_SIZE)
    metrics = json.loads((folder / "best" / "metrics.json").read_text())
    assert metrics["validation_loss"] == pytest.approx(loss, rel=1e-6)


def test_averaging_does_not_change_what_is_trained(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers: list[int] = []
    update = WeightAverage.update

    def noted_update(self: WeightAverage, number: int) -> None:
        numbers.append(number)
        update(self, number)

    monkeypatch.setattr(WeightAverage, "update", noted_update)
    averaged = run(place, RUN_NAME="averaged", EMA_DECAY=0.8)
    steps = json.loads((averaged / "last" / "trainer_state.json").read_text())["step"]
    assert numbers == list(range(1, steps + 1))  # counted through both epochs
    plain = run(place, RUN_NAME="plain")
    one, other = (
        (folder / "last" / "model.safetensors").read_bytes() for folder in (averaged, plain)
    )
    assert one == other


def test_a_run_cannot_begin_to_average_midway(place: Path) -> None:
    run(place, RUN_NAME="midway", NUM_EPOCHS=1)
    words = arguments(place, RUN_NAME="midway", RESUME_CHECKPOINT_PATH="auto", EMA_DECAY=0.8)
    with pytest.raises(UserError, match=r"EMA_DECAY was 0.0 in the checkpoint and is 0.8 now"):
        train.main(words)
