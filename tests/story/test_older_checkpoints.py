"""A checkpoint that version 0.1 wrote (tests/reference/version-0.1) is read, captions, goes on."""

import shutil
from pathlib import Path

import pytest
import torch

import train
from captioner import Captioner
from captioning.sources.records import read_records
from captioning.store.rows import LivePictures
from captioning.system.errors import UserError
from checkpoint import read_checkpoint
from config import load_config
from dataset import CaptionDataset
from tests.helpers.small_runs import write_data
from validation import validation_loss

OLD = Path(__file__).parents[1] / "reference" / "version-0.1"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the data of the old run and its `last`."""
    write_data(tmp_path)
    shutil.copytree(OLD, tmp_path / "checkpoints" / "old" / "last")
    return tmp_path


def test_it_is_as_good_as_it_was(place: Path) -> None:
    captioner = Captioner.from_pretrained(OLD, device="cpu")
    records = read_records(place / "data" / "small" / "validation")
    pictures = LivePictures(
        [record.image for record in records], captioner.pipeline.encoder.preprocessor
    )
    captions = CaptionDataset(records, captioner.pipeline.tokenizer, captioner.config.MAX_SEQ_LEN)
    loss = validation_loss(captioner.pipeline, captions, pictures, batch_size=20)
    assert loss == pytest.approx(read_checkpoint(OLD).metrics["validation_loss"], rel=1e-3)
    assert captioner(records[0].image).text


def test_it_goes_on(place: Path) -> None:
    words = ["--RUN_NAME", "old", "--RESUME_CHECKPOINT_PATH", "auto", "--NUM_EPOCHS", "2"]
    places = ["--DATA_DIR", str(place / "data"), "--OUTPUT_DIR", str(place / "checkpoints")]
    assert train.main([*words, *places]) == 0
    before = read_checkpoint(OLD).state
    after = read_checkpoint(place / "checkpoints" / "old" / "last").state
    assert before is not None
    assert after is not None
    assert after.step == 2 * before.step
    assert "SAVE_INTERVAL_MINUTES" in (OLD / "config.toml").read_text()


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("CACHE_FEATURES = false", "FEATURE_CACHE", "off"),
        ("CACHE_FEATURES = true", "FEATURE_CACHE", "on"),
        (
            "STREAM_CACHE_GB = 2.5\nSTREAM = 'a.tar'\nCACHE_FEATURES = true",
            "FEATURE_CACHE",
            "2.5GB",
        ),
        ("SAVE_INTERVAL_STEPS = 500\nSAVE_INTERVAL_MINUTES = 10.0", "SAVE_INTERVAL", "500"),
        ("SAVE_INTERVAL_STEPS = 0\nSAVE_INTERVAL_MINUTES = 2.5", "SAVE_INTERVAL", "2.5m"),
        ("SAVE_INTERVAL_MINUTES = 0.0", "SAVE_INTERVAL", "0m"),
        ("SAVE_INTERVAL_MINUTES = 1e-5", "SAVE_INTERVAL", "0.00001m"),
        ("VALIDATION_FRACTION = 0.2\nTEST_FRACTION = 0.2", "HELD_OUT_FRACTION", 0.2),
        (
            "ENCODER_MODEL_NAME = 'a/b'\nENCODER_REVISION = 'c0ffee'",
            "ENCODER_MODEL_NAME",
            "a/b@c0ffee",
        ),
        ("DATASET = 'a/b'\nDATASET_REVISION = 'v2'", "DATASET", "a/b@v2"),
        ("DATASET_SOURCE = 'a/b'\nDATASET_REVISION = 'v2'", "DATASET_SOURCE", "a/b@v2"),
        ("HF_PRIVATE = false\nSTREAM_HELD_OUT = 1000\nWANDB_LOG_BEST = true", "HF_REPO_ID", ""),
        ("STOP_ON_SAVE_ERROR = true\nENCODER_WARMUP_STEPS = -1", "WARMUP_STEPS", 1000),
    ],
)
def test_settings_of_version_0_1_are_read(
    tmp_path: Path, line: str, name: str, value: object
) -> None:
    path = tmp_path / "config.toml"
    path.write_text(line)
    assert getattr(load_config(path), name) == value


@pytest.mark.parametrize(
    ("line", "name", "is_needed_to_caption"),
    [
        ("POSITIONS = 'learned'", "POSITIONS is 'learned'", True),
        ("LOWERCASE_CAPTIONS = true", "LOWERCASE_CAPTIONS is True", False),
        ("ENCODER_WARMUP_STEPS = 5", "ENCODER_WARMUP_STEPS is 5", False),
        ("VALIDATION_FRACTION = 0.6\nTEST_FRACTION = 0.1", "TEST_FRACTION differ", False),
        ("HF_PRIVATE = true", "HF_PRIVATE is True", False),
        ("STREAM_HELD_OUT = 8", "STREAM_HELD_OUT is 8", False),
        ("SAVE_INTERVAL_MINUTES = 'x'", "SAVE_INTERVAL_MINUTES is 'x'; it must be a number", True),
        ("VALIDATION_FRACTION = [1]", "it must be a number", True),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(
    tmp_path: Path, line: str, name: str, is_needed_to_caption: bool
) -> None:
    path = tmp_path / "config.toml"
    path.write_text(line)
    with pytest.raises(UserError, match=name):
        load_config(path)
    if is_needed_to_caption:
        with pytest.raises(UserError, match=name):
            load_config(path, to_train=False)
    else:
        load_config(path, to_train=False)


def test_lower_case_is_in_the_vocabulary_itself(tmp_path: Path) -> None:
    """So that a model which version 0.1 trained on lower case still reads and writes it."""
    from tokenizers import normalizers

    from tokenizer import CaptionTokenizer, train_tokenizer

    trained = train_tokenizer(["two dogs run"] * 3, 300)
    trained._bpe.normalizer = normalizers.Lowercase()
    trained.save(tmp_path / "tokenizer.json")
    loaded = CaptionTokenizer.load(tmp_path)
    assert loaded.decode(loaded.encode("Two DOGS run")) == "two dogs run"
    assert torch.tensor(loaded.encode("Two")).equal(torch.tensor(loaded.encode("two")))
