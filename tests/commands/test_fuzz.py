"""Damaged files of every kind: refused in a sentence or read right; nothing else, and no hang.

A few cases of each kind in the normal run, thousands in the slow one, always the same.
"""

import contextlib
import io
import json
import math
import os
import random
import re
import shutil
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from captioning.sources.images import load_image
from captioning.system.errors import UserError
from captioning.system.folders import UNCHECKED
from captioning.system.runtime import Runtime
from captioning.system.toml_files import to_toml
from checkpoint import Checkpoint, load_optimizer, load_pipeline, newest_checkpoint, read_checkpoint
from config import Config, dump_config, load_config
from optimization import build_optimizer
from tests.helpers.forged_checkpoints import forge
from tests.helpers.fuzzing import CASES, HOSTILE, changed, damages, little_memory, no_hang
from tests.helpers.small_runs import run, write_data, write_encoder

RUNTIME = Runtime(torch.device("cpu"))
CHECKPOINT_FILES = (
    "README.md",
    "checkpoint.json",
    "config.toml",
    "encoder_config.json",
    "metrics.json",
    "model.safetensors",
    "optimizer.safetensors",
    "preprocessor_config.json",
    "tokenizer.json",
    "trainer_state.json",
)
PICTURES = {
    "JPEG": {"quality": 90},
    "PNG": {},
    "GIF": {},
    "TIFF": {"compression": "tiff_lzw"},
    "WEBP": {},
    "BMP": {},
    "PPM": {},
}


@contextmanager
def refused_by_name(path: Path) -> Iterator[None]:
    """The block may raise a `UserError`, if that names the file."""
    with suppress(UserError):
        try:
            yield
        except UserError as refusal:
            if str(path) not in str(refusal):
                raise AssertionError(f"{path.name} is not named") from refusal
            raise


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose checkpoint has every file that there can be."""
    folder = tmp_path_factory.mktemp("trained")
    write_data(folder)
    write_encoder(folder)
    return run(folder, NUM_EPOCHS=1, ENCODER_TRAINED_BLOCKS=1, VALIDATION_IMAGES=2)


@pytest.fixture
def last(trained: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(trained / "last", tmp_path / "run" / "last"))


def load_all(folder: Path) -> tuple[Checkpoint, dict[str, torch.Tensor]]:
    """All that a checkpoint says, and its weights and moments."""
    checkpoint = read_checkpoint(folder)
    pipeline = load_pipeline(checkpoint, RUNTIME)
    optimizer = build_optimizer(
        pipeline.model,
        pipeline.encoder,
        learning_rate=0.1,
        encoder_learning_rate=0.1,
        weight_decay=0.1,
        betas=(0.9, 0.9),
        eps=1e-8,
    )
    load_optimizer(optimizer, pipeline, folder)
    tensors = dict(pipeline.model.state_dict()) | dict(pipeline.encoder.state_dict())
    moments = enumerate(optimizer.state_dict()["state"].values())
    tensors |= {f"{kind} {i}": state[kind] for i, state in moments for kind in state}
    return checkpoint, tensors


def said(checkpoint: Checkpoint) -> list[object]:
    """What must be equal in two readings of a checkpoint."""
    about = (checkpoint.encoder_fingerprint, checkpoint.has_encoder, checkpoint.metrics)
    return [checkpoint.config, checkpoint.tokenizer.to_json(), checkpoint.state, *about]


def test_the_files_are_all_that_a_checkpoint_has(last: Path) -> None:
    assert sorted(path.name for path in last.iterdir()) == sorted(CHECKPOINT_FILES)


@pytest.mark.parametrize("cases", CASES)
@pytest.mark.parametrize("name", CHECKPOINT_FILES)
def test_a_damaged_checkpoint_is_refused_or_read_right(last: Path, name: str, cases: int) -> None:
    whole, tensors = load_all(last)
    path = last / name
    content = path.read_bytes()
    ends: Counter[str] = Counter()
    for damaged in damages(content, cases, name):
        path.write_bytes(damaged)
        with no_hang():
            try:
                found, others = load_all(last)
            except UserError:
                ends["refused"] += 1
                assert newest_checkpoint(last.parent)[0] is None or name == "checkpoint.json"
                continue
        ends["read"] += 1
        assert said(found) == said(whole)
        assert all(others[key].equal(tensor) for key, tensor in tensors.items())
    assert sum(ends.values()) == cases
    if name == UNCHECKED:
        assert not ends["refused"]
    elif name != "checkpoint.json":
        assert not ends["read"]


@pytest.mark.parametrize("cases", CASES)
@pytest.mark.parametrize("name", [name for name in CHECKPOINT_FILES if name != "checkpoint.json"])
def test_a_forged_checkpoint_is_refused_or_loads(last: Path, name: str, cases: int) -> None:
    path = last / name
    content = path.read_bytes()
    for damaged in damages(content, cases, f"forged {name}"):
        path.write_bytes(damaged)
        forge(last)
        with no_hang(), suppress(UserError):
            load_all(last)


DESCRIPTIONS = tuple(name for name in CHECKPOINT_FILES if name.endswith(".json"))


@pytest.mark.parametrize("cases", CASES)
@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_what_a_checkpoint_says_of_itself_is_not_believed(
    last: Path, name: str, cases: int
) -> None:
    path = last / name
    values = json.loads(path.read_text())
    for found in changed(values, cases, name):
        path.write_text(json.dumps(found), encoding="utf-8")
        if name != "checkpoint.json":
            forge(last)
        with no_hang(), little_memory(), suppress(UserError):
            load_all(last)


@pytest.mark.parametrize("cases", CASES)
def test_no_setting_of_a_checkpoint_is_believed(last: Path, cases: int) -> None:
    path = last / "config.toml"
    lines = path.read_text().splitlines()
    generator = random.Random("settings")
    for _ in range(cases * 3):
        changed_lines = list(lines)
        number = generator.randrange(len(lines))
        value = generator.choice([one for one in HOSTILE if isinstance(one, str | int | float)])
        shown = to_toml(value.replace("\ud800", "") if isinstance(value, str) else value)
        changed_lines[number] = f"{lines[number].split(' = ')[0]} = {shown}"
        path.write_text("\n".join(changed_lines), encoding="utf-8")
        forge(last)
        with no_hang(), little_memory(), suppress(UserError):
            load_all(last)


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder", "a socket", "large"])
@pytest.mark.parametrize("name", CHECKPOINT_FILES)
def test_what_is_no_file_is_never_waited_for(last: Path, name: str, kind: str) -> None:
    path = last / name
    path.unlink()
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as one, contextlib.chdir(last):
            one.bind(name)
    else:
        with path.open("wb") as file:
            file.truncate(10**12)
    if name == UNCHECKED:
        with no_hang(), suppress(UserError):  # it is never read; a link that leads out is refused
            load_all(last)
        return
    with no_hang(), pytest.raises(UserError, match=name):
        load_all(last)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["model.decoder.norm.bias", "encoder.tower.post_layernorm.weight"])
def test_weights_that_are_no_numbers_are_refused(last: Path, name: str, number: float) -> None:
    path = last / "model.safetensors"
    tensors = load_file(path)
    assert name in tensors
    tensors[name][0] = number
    save_file(tensors, path)
    forge(last)
    with pytest.raises(UserError, match=rf"{re.escape(name)} holds numbers that are none"):
        load_all(last)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("config.toml", "DECODER_LAYERS", 1_000),
        ("config.toml", "DECODER_EMBED_DIM", 65_536),
        ("config.toml", "PROJECTION_DIM", 65_536),
        ("encoder_config.json", "num_hidden_layers", 40_000),
        ("encoder_config.json", "hidden_size", 8_000),
        ("encoder_config.json", "intermediate_size", 2**20),
    ],
)
def test_nothing_is_built_that_the_weights_do_not_fill(
    last: Path, file: str, key: str, value: int
) -> None:
    path = last / file
    text = path.read_text()
    path.write_text(re.sub(rf'("?{key}"?[:=]? ?=? ?)\d+', rf"\g<1>{value}", text))
    assert str(value) in path.read_text()
    forge(last)
    with little_memory(), pytest.raises(UserError, match="and they ask for more"):
        load_all(last)


@pytest.mark.parametrize("cases", CASES)
@pytest.mark.parametrize("kind", PICTURES)
def test_a_damaged_picture_is_refused_or_opened(tmp_path: Path, kind: str, cases: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, kind, **PICTURES[kind])
    path = tmp_path / "picture"
    for damaged in damages(file.getvalue(), cases, kind):
        path.write_bytes(damaged)
        with no_hang(), refused_by_name(path):
            assert load_image(path).mode == "RGB"


@pytest.mark.parametrize("cases", CASES)
@pytest.mark.parametrize("name", ["dumped", "preset"])
def test_damaged_settings_are_refused_or_read(tmp_path: Path, name: str, cases: int) -> None:
    presets = Path(__file__).parents[2] / "presets"
    text = dump_config(Config()) if name == "dumped" else (presets / "demo.toml").read_text()
    path = tmp_path / "settings.toml"
    for damaged in damages(text.encode(), cases, name):
        path.write_bytes(damaged)
        with no_hang(), refused_by_name(path):
            config = load_config(path)
            path.write_text(dump_config(config), encoding="utf-8")
            assert load_config(path) == config


STATE_VALUES: list[object] = [None, "3", 3.5, [], {}, True, -1, 10**30]


@pytest.mark.parametrize("value", STATE_VALUES, ids=repr)
def test_a_state_of_other_values_is_refused_or_read(last: Path, value: object) -> None:
    path = last / "trainer_state.json"
    state = json.loads(path.read_text())
    for name in state:
        path.write_text(json.dumps({**state, name: value}))
        forge(last)
        try:
            found = newest_checkpoint(last.parent)[0]
        except UserError:
            continue
        assert found in (last, None)


@pytest.mark.parametrize("kind", ["missing", "of another shape", "unknown"])
def test_moments_that_do_not_fit_are_refused(last: Path, kind: str) -> None:
    path = last / "optimizer.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.startswith("exp_avg/"))
    moment = tensors.pop(name)
    if kind == "of another shape":
        tensors[name] = torch.zeros(*moment.shape, 2)
    elif kind == "unknown":
        tensors |= {name: moment, "more": moment.clone()}
    save_file(tensors, path)
    forge(last)
    with pytest.raises(UserError, match="holds other parameters"):
        load_all(last)
