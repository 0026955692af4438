"""Settings: defaults, presets, flags, round trip, all problems at once."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.system.errors import UserError
from captioning.system.options import check_value, described_fields, kind_of
from captioning.system.rules import MAY_CHANGE, NO_EFFECT, PER_RUN
from config import (
    Config,
    dump_config,
    load_config,
    parse_config,
    result_settings,
    settings_with,
)

ROOT = Path(__file__).parents[2]


def problems_of(*argv: str) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        parse_config(list(argv))
    return caught.value.problems


def test_a_flag_is_read_in_any_case_with_dashes_or_underscores() -> None:
    for flag in ("--BATCH_SIZE", "--batch_size", "--batch-size", "--Batch-Size"):
        assert parse_config([flag, "64"]).BATCH_SIZE == 64
        assert parse_config([f"{flag}=64"]).BATCH_SIZE == 64


def test_a_setting_of_version_0_1_is_told_what_became_of_it() -> None:
    (problem,) = problems_of("--cache-features", "false")
    assert "no setting cache-features any more; write FEATURE_CACHE" in problem
    (problem,) = problems_of("--POSITIONS", "learned")
    assert "leave it out" in problem


def test_switches_take_a_word_or_none() -> None:
    for argv, expected in (
        (["--HF_UPLOAD_BEST_CHECKPOINTS"], True),
        (["--hf-upload-best-checkpoints", "true"], True),
        (["--HF_UPLOAD_BEST_CHECKPOINTS=False"], False),
        (["--no-HF_UPLOAD_BEST_CHECKPOINTS"], False),
    ):
        config = parse_config(["--HF_REPO_ID", "user/name", *argv])
        assert config.HF_UPLOAD_BEST_CHECKPOINTS is expected


def test_numbers_keep_their_kind() -> None:
    config = parse_config(["--BATCH_SIZE", "1e3", "--LEARNING_RATE", "1", "--NUM_WORKERS", "-1"])
    assert (config.BATCH_SIZE, type(config.BATCH_SIZE)) == (1000, int)
    assert (config.LEARNING_RATE, type(config.LEARNING_RATE)) == (1.0, float)


def test_flags_win_over_the_preset_and_the_preset_over_defaults(tmp_path: Path) -> None:
    preset = tmp_path / "one.toml"
    preset.write_text('batch-size = 32\nNUM_EPOCHS = 3\nLEARNING_RATE = 1\nRUN_NAME = "a b"\n')
    config = parse_config(["--NUM_EPOCHS", "4", "--config", str(preset)])
    assert (config.BATCH_SIZE, config.NUM_EPOCHS, config.LEARNING_RATE) == (32, 4, 1.0)
    assert config.RUN_NAME == "a b"
    assert config.VOCAB_SIZE == Config().VOCAB_SIZE


def test_a_base_stands_below_preset_and_flags(tmp_path: Path) -> None:
    preset = tmp_path / "one.toml"
    preset.write_text("NUM_EPOCHS = 3\n")
    base = Config(NUM_EPOCHS=9, BATCH_SIZE=8)
    config = parse_config(["--config", str(preset)], base=base)
    assert (config.NUM_EPOCHS, config.BATCH_SIZE) == (3, 8)


UNBOUNDED = {
    "ENCODER_TRAINED_BLOCKS",
    "ENCODER_START_EPOCH",
    "RANDOM_SEED",
    "CAPTIONS_PER_STEP",
    "MICRO_BATCH_SIZE",
    "WARMUP_STEPS",
    "VALIDATION_INTERVAL",
    "VALIDATION_IMAGES",
    "KEEP_CHECKPOINTS",
    "LOG_INTERVAL",
}
"""Whole numbers that are compared with others, and decide nothing that is built."""


def test_what_decides_how_much_is_built_has_a_limit() -> None:
    whole = [field for field in fields(Config) if kind_of(field) is int]
    assert {field.name for field in whole if not [*check_value(field, 10**9 + 1)]} == UNBOUNDED
    for field in whole:
        for value in (2**63, 2**71, 10**400):
            assert len([*check_value(field, value)]) == 1


@pytest.mark.parametrize("value", ["9" * 400 + "m", "9" * 5000, "9" * 400 + "GB"])
def test_text_that_is_a_number_is_no_number_without_end(tmp_path: Path, value: str) -> None:
    for name in ("SAVE_INTERVAL", "FEATURE_CACHE"):
        path = tmp_path / "settings.toml"
        path.write_text(f'STREAM = "s"\n{name} = "{value}"\n')
        with pytest.raises(UserError, match=f"{name} is") as caught:
            load_config(path)
        assert len(str(caught.value)) < 500


@given(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.floats(min_value=1e-300, allow_infinity=False, allow_nan=False),
    st.integers(1, 10**6),
)
def test_dumped_and_loaded_it_is_equal(
    tmp_path_factory: object, text: str, rate: float, size: int
) -> None:
    config = Config(CAPTIONS_FILE=text or "x", IMAGE_DIR="y", LEARNING_RATE=rate, BATCH_SIZE=size)
    path = Path(str(tmp_path_factory.getbasetemp())) / "config.toml"  # type: ignore[attr-defined]
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path) == config


@given(st.binary(max_size=200))
def test_any_bytes_are_settings_or_a_sentence(tmp_path_factory: object, content: bytes) -> None:
    path = Path(str(tmp_path_factory.getbasetemp())) / "fuzzed.toml"  # type: ignore[attr-defined]
    path.write_bytes(content)
    try:
        assert isinstance(load_config(path), Config)
    except UserError as error:
        assert str(path) in str(error)  # noqa: PT017


def test_all_problems_are_reported_at_once() -> None:
    problems = problems_of(
        *("--batchsize", "64", "--NUM_EPOCHS", "many", "--LEARNING_RATE", "-1"),
        *("--PRECISION", "fp8", "--DECODER_HEADS", "7", "--HF_UPLOAD_BEST_CHECKPOINTS"),
    )
    text = "\n".join(problems)
    assert len(problems) == 6
    assert "batchsize; did you mean BATCH_SIZE?" in text
    assert "NUM_EPOCHS is 'many'; it must be a whole number." in text
    assert "LEARNING_RATE is -1.0; it must be above 0." in text
    assert "PRECISION is 'fp8'; it must be one of auto, fp32, bf16." in text
    assert "must divide DECODER_EMBED_DIM (512). Try --DECODER_HEADS 1." in text
    assert "add --HF_REPO_ID" in text


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["64"], "'64' follows no flag"),
        (["--BATCH_SIZE"], "takes one value, found nothing"),
        (["--BATCH_SIZE", "1", "2"], "takes one value, found 1 2"),
        (["--BATCH_SIZE", "1.5"], "whole number"),
        (["--GRADIENT_CHECKPOINTING", "maybe"], "true or false"),
        (["--LEARNING_RATE", "nan"], "above 0"),
        (["--no-BATCH_SIZE"], "no setting no-BATCH_SIZE"),
        (["--CAPTIONS_FILE", "x"], "add --IMAGE_DIR"),
        (["--STREAM", "x", "--IMAGE_COLUMN", "y"], "STREAM and IMAGE_COLUMN both say"),
        (["--HELD_OUT_FRACTION", "0.5"], "at least 0 and below 0.5"),
        (["--SAVE_INTERVAL", "5h"], 'minutes such as "10m", steps such as "500", or 0'),
        (["--FEATURE_CACHE", "500"], "on, off, or a size as 500GB"),
        (["--FEATURE_CACHE", "5GB"], "or say which with --STREAM"),
        (["--config"], "needs a file"),
        (["--config", "missing.toml"], "missing.toml cannot be read"),
        (["--VALIDATION_IMAGES", "0"], "BEST_METRIC CIDEr needs captions"),
        (["--RUN_NAME", "../x"], "without slashes"),
        (["--RUN_NAME", "a\0b"], "without slashes"),
        (["--DATASET", "../x"], "DATASET"),
        (["--AUGMENTATION", "crop"], "add --FEATURE_VIEWS 8"),
        (["--AUGMENTATION", "crop,crop", "--FEATURE_VIEWS", "2"], "some of"),
        (["--FEATURE_VIEWS", "4"], "the views would be the same"),
        (["--FEATURE_VIEWS", "4", "--FEATURE_CACHE", "off"], "there are no views"),
        (["--ENCODER_LAYERS", "first"], "last, or places from the end such as -2"),
        (["--ENCODER_LAYERS", "-1,last"], "none twice"),
    ],
)
def test_a_mistake_gets_one_sentence(argv: list[str], sentence: str) -> None:
    (problem,) = problems_of(*argv)
    assert sentence in problem


def test_a_presets_mistakes_name_the_file(tmp_path: Path) -> None:
    preset = tmp_path / "mine.toml"
    preset.write_text('BATCHSIZE = 3\nNUM_EPOCHS = "x"\nHF_UPLOAD_BEST_CHECKPOINTS = 1\n')
    problems = problems_of("--config", str(preset))
    assert len(problems) == 3
    assert all(str(preset) in problem for problem in problems)
    for broken in ("NUM_EPOCHS = ", "A = " + "[" * 5000, "NUM_EPOCHS = " + "9" * 5000):
        preset.write_text(broken)
        assert "is not TOML" in problems_of("--config", str(preset))[0]
    preset.write_text("BATCH_SIZE = " + "9" * 400)
    assert (
        "BATCH_SIZE is a number that no computer counts with"
        in problems_of("--config", str(preset))[0]
    )


def test_every_preset_loads_and_says_what_to_expect() -> None:
    presets = sorted((ROOT / "presets").glob("*.toml"))
    names = {path.stem for path in presets}
    assert names >= {"flickr30k-clip", "flickr30k-vit", "flickr30k-blip", "demo"}
    for path in presets:
        if path.stem.startswith("compare-"):
            with pytest.raises(UserError, match=f"python compare.py --config {path}"):
                load_config(path)
        else:
            load_config(path)
        assert path.read_text().startswith("#")
    assert load_config(ROOT / "presets" / "flickr30k-clip.toml") == Config(VALIDATION_IMAGES=-1)


def test_every_setting_has_a_docstring_and_most_a_rule() -> None:
    source = (ROOT / "config.py").read_text()
    for field in fields(Config):
        after = source.split(f"    {field.name}: ", 1)[1].split("\n", 1)[1].lstrip()
        assert after.startswith('"""'), field.name
    headings = {one.heading for one in described_fields(Config)}
    assert len(headings) == 7
    assert next(described_fields(Config)).heading == "Every day"


def test_roles_say_what_a_run_may_go_on_with_and_what_alters_it() -> None:
    assert {"NUM_EPOCHS", "DEVICE"} <= settings_with(NO_EFFECT, MAY_CHANGE)
    assert not {"RANDOM_SEED", "BATCH_SIZE", "DATASET"} & settings_with(NO_EFFECT, MAY_CHANGE)
    assert settings_with(PER_RUN) == {
        *("RUN_NAME", "RANDOM_SEED", "OUTPUT_DIR", "RESUME_CHECKPOINT_PATH")
    }
    assert "RANDOM_SEED" not in result_settings(Config())
    assert "NUM_EPOCHS" in result_settings(Config())


def test_the_command_line_ends_with_2_and_without_a_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "train.py", "--BATCHSIZE", "3", "--NUM_EPOCHS", "-1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: there is no setting BATCHSIZE; did you mean BATCH_SIZE?",
        "error: NUM_EPOCHS is -1; it must be from 0 to 1,000,000.",
    ]
