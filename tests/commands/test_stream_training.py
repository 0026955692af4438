"""Training on a stream through the ordinary command: from shards to checkpoints, and on."""

import json
from hashlib import sha256
from pathlib import Path
from shutil import rmtree

import pytest
import torch

import train
from captioning.sources.records import read_records
from captioning.streaming.shards import find_sources
from captioning.streaming.steps import StreamSteps
from captioning.system.errors import UserError
from captioning.system.runtime import Runtime
from config import parse_config
from prepare_dataset import prepare_dataset
from tests.helpers.processes import run_together
from tests.helpers.small_runs import NOT_EXACT, arguments, differences, lines_of, run, write_encoder
from tests.helpers.steps import run_killed
from tests.helpers.streams import write_parquet, write_shards, write_webdataset

STREAM = {
    "DATASET": "streamed",
    "STREAM_STEPS_PER_EPOCH": 7,
    "SAVE_INTERVAL": 2,
    "BATCH_SIZE": 12,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards of two kinds and a tiny CLIP."""
    folder = tmp_path_factory.mktemp("streams é")
    write_encoder(folder)
    write_shards(folder / "tars", shards=4, each=10)
    write_parquet(folder / "rows" / "a.parquet", range(100, 115))
    return folder


@pytest.fixture(autouse=True)
def few_are_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight pictures, where real streams give a thousand."""
    monkeypatch.setattr("captioning.streaming.held_out.HELD_OUT_PICTURES", 8)


def settings(place: Path) -> dict[str, object]:
    return {**STREAM, "STREAM": f"{place / 'tars'}/*.tar = 3; {place / 'rows'} = 1"}


def test_a_stream_trains_validates_and_resumes_exactly(place: Path) -> None:
    changes = {**settings(place), "AUGMENTATION": "crop,flip"}
    whole = run(place, RUN_NAME="whole", **changes)
    run_killed(place, after=10, RUN_NAME="killed", **changes)
    killed = place / "checkpoints" / "killed"
    state = json.loads((killed / "last" / "trainer_state.json").read_text())
    assert (state["step"], state["step_in_epoch"]) == (10, 3)
    assert differences(killed / "last", whole / "last") != []
    run(place, RUN_NAME="killed", RESUME_CHECKPOINT_PATH="auto", NUM_WORKERS=2, **changes)
    assert differences(killed / "last", whole / "last") == []
    assert lines_of(killed / "metrics.jsonl", NOT_EXACT) == lines_of(
        whole / "metrics.jsonl", NOT_EXACT
    )


@pytest.mark.slow
def test_two_processes_share_a_stream_and_go_on_exactly(place: Path) -> None:
    changes = {**settings(place), "STREAM": f"{place / 'tars'}/*.tar", "KEEP_CHECKPOINTS": 20}
    whole = run_together(place, RUN_NAME="two", **changes)
    middle = whole / "step-000000008"
    position = json.loads(json.loads((middle / "trainer_state.json").read_text())["data_position"])
    assert len(position["standings"]) == 2
    assert len(position["lanes"][0]) == 4
    assert [one["drawn"] for one in position["standings"]] == [24, 24]  # 8 steps of 3 pictures
    again = run_together(place, RUN_NAME="two again", RESUME_CHECKPOINT_PATH=middle, **changes)
    assert differences(again / "last", whole / "last") == []
    assert differences(middle, whole / "last") != []


def test_kept_features_change_nothing_and_are_gone_on_with_exactly(place: Path) -> None:
    changes = {**settings(place), "DATASET": "kept", "FEATURE_CACHE": "1GB"}
    run_killed(place, after=10, RUN_NAME="killed kept", **changes)
    (kept,) = (place / "data" / "kept" / "features").glob("*/stream")
    blocks = {path: path.read_bytes() for path in kept.glob("*/*.block")}
    assert len(blocks) == 5  # a block a shard
    killed = run(place, RUN_NAME="killed kept", RESUME_CHECKPOINT_PATH="auto", **changes)
    assert {path: path.read_bytes() for path in kept.glob("*/*.block")} == blocks
    rmtree(kept)
    crowded = run(place, RUN_NAME="crowded", **{**changes, "FEATURE_CACHE": "1KB"})
    assert len(list(kept.glob("*/*"))) == 0
    assert differences(killed / "last", crowded / "last") == []


def test_held_out_pictures_are_the_streams_first(place: Path) -> None:
    prepare_dataset(parse_config(arguments(place, **settings(place))))
    folder = place / "data" / "streamed"
    assert not (folder / "train").exists()
    held_out = [
        record for split in ("validation", "test") for record in read_records(folder / split)
    ]
    assert len(held_out) == 8
    hashes = {sha256(record.image.read_bytes()).hexdigest() for record in held_out}
    assert len(hashes) == 8
    numbers = sorted(int(record.captions[0].split()[1]) for record in held_out)
    assert numbers == [*range(6), 100, 101]


def test_a_run_reads_its_stream_as_set_and_nothing_that_is_held_out(place: Path) -> None:
    changes = {"RANDOM_SEED": 5, "CAPTIONS_PER_STEP": 1, "MAX_BAD_FRACTION": 0.25}
    config = parse_config(arguments(place, RUN_NAME="read", **settings(place), **changes))
    prepare_dataset(config)
    steps = train.build_trainer(config, Runtime(torch.device("cpu"))).phase.steps
    assert isinstance(steps, StreamSteps)
    seen = set()
    for number, _ in enumerate(steps.iterate(0)):
        seen |= set(steps.names(0, number))
    numbers = {int(name.rsplit(": ")[-1].removeprefix("row ")) for name in seen if "tars" in name}
    assert len(numbers) > 20
    assert not numbers & set(range(6))
    assert not {f"{place / 'rows' / 'a.parquet'}: row {number}" for number in (0, 1)} & seen
    read = steps._settings
    assert (read.seed, read.captions_per_step, read.max_bad_fraction) == (5, 1, 0.25)
    assert (read.batch_size, read.steps_per_epoch) == (12, 7)
    records = train.read_splits(config)
    held_out = {text for record in records["validation"] for text in record.captions}
    assert len(held_out) == 8
    assert not held_out & {
        text
        for texts in train.training_captions(records, find_sources(config.STREAM))
        for text in texts
    }


def test_other_shards_are_not_the_data_of_the_run(place: Path) -> None:
    extra = write_webdataset(place / "tars" / "9999.tar", range(200, 203))
    try:
        with pytest.raises(UserError, match="shards or splits differ"):
            train.main(
                arguments(place, RUN_NAME="whole", RESUME_CHECKPOINT_PATH="auto", **settings(place))
            )
    finally:
        extra.unlink()


def test_too_many_bad_pictures_stop_the_run_before_it_is_worth_nothing(
    place: Path, tmp_path: Path
) -> None:
    shard = write_webdataset(tmp_path / "a.tar", range(300, 340))
    content = bytearray(shard.read_bytes())
    for number in range(320, 340):
        start = content.index(f"{number:06d}.png".encode()) + 512
        content[start : start + 8] = b"no image"
    shard.write_bytes(content)
    with pytest.raises(UserError, match="more than MAX_BAD_FRACTION"):
        train.main(
            arguments(
                place,
                **{**STREAM, "STREAM": shard, "RUN_NAME": "bad", "DATASET": "bad"},
            )
        )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "a size is about a stream"),
        ({"STREAM": "x/*.tar", "ENCODER_TRAINED_BLOCKS": 1}, "a trained encoder"),
        ({"STREAM": "x/*.tar", "FEATURE_CACHE": "-1GB"}, "a size as 500GB"),
        ({"STREAM": "x/*.tar", "AUGMENTATION": "crop"}, "features of pictures as they are"),
        (
            {"STREAM": "x/*.tar", "FEATURE_CACHE": "on", "FEATURE_VIEWS": 2},
            "of a stream, and without cached features, there are no views",
        ),
    ],
)
def test_features_of_a_stream_are_kept_where_they_can_be(
    place: Path, changes: dict[str, object], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        train.main(arguments(place, **{"FEATURE_CACHE": "1GB", **changes}))


def test_a_stream_and_own_pictures_exclude_each_other(place: Path) -> None:
    with pytest.raises(UserError, match="STREAM and IMAGE_DIR both say"):
        train.main(
            arguments(place, STREAM="x/*.tar", IMAGE_DIR="pictures", CAPTIONS_FILE="captions.csv")
        )
