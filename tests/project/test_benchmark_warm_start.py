"""The warm start's worlds have nothing in common, and it goes on where it stopped."""

import itertools
import json
from pathlib import Path

import pytest

from benchmarks import warm_start
from captioning.scenes import make_scene
from captioning.sources.records import Record, read_records
from captioning.system.errors import UserError
from config import Config, dump_config, parse_config
from tests.helpers.small_runs import arguments


def test_old_and_new_scenes_share_no_thing_no_colour_and_no_wording(tmp_path: Path) -> None:
    old, new = (
        list(itertools.islice(warm_start.draw_all(tmp_path, is_new=is_new), 8))
        for is_new in (False, True)
    )
    strange = warm_start.NEW_THINGS | warm_start.NEW_COLOURS
    assert not any(strange & {*text.split()} for one in old for text in one.captions)
    assert all(strange & {*text.replace(",", " ").split()} for one in new for text in one.captions)
    assert {one.image for one in old}.isdisjoint(one.image for one in new)
    scene = next(s for n in range(99) if (s := make_scene(0, n)).relation == "above")
    first, second = (f"a {thing.colour} {thing.kind}" for thing in scene.objects)
    assert f"{second} with {first} overhead" in warm_start.new_captions(scene)[0]


def test_pictures_are_of_a_kind_by_the_words_of_their_captions() -> None:
    record = Record(Path("a.jpg"), ("A boy swims .", "Waves", "A seat by a desk", "the Ocean"))
    assert warm_start.hits(record, "water") == 3
    assert warm_start.hits(record, "children") == 1
    assert warm_start.hits(record, "dogs") == 0


def test_a_validation_that_scored_nothing_counts(tmp_path: Path) -> None:
    lines = ['{"step": 3, "CIDEr": 0.0}', '{"step": 4, "loss": 1.0}', '{"step": 6, "CIDEr": 0.5}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert warm_start.validations_of(tmp_path) == [(3, 0.0), (6, 0.5)]


def test_the_table_has_means_intervals_and_steps_to_the_same_score() -> None:
    warm = [{"new": 0.5, "old": 0.4, "validations": [[10, 0.2], [20, 0.6]]}] * 2
    cold = [
        {"new": 0.2, "validations": [[10, 0.1], [30, 0.2]]},
        {"new": 0.4, "validations": [[30, 0.5]]},
    ]
    base = [{"new": 0.1, "old": 0.9, "validations": []}]
    found = {("base", 50): base, ("warm", 50): warm, ("cold", 50): cold}
    text = warm_start.tables(found)
    assert "| 50 | 0.300 ±1.271 | 0.500 ±0.000 | 15 ±64 of 30 ±0 | 0.100 |" in text
    assert "| trained on, 50 new | 0.400 ±0.000 | 0.500 ±0.000 |" in text


def test_too_few_pictures_of_a_kind_are_told(place: Path) -> None:
    words = ["--part", "photos", "--data", str(place / "data" / "small"), "--kind", "water"]
    with pytest.raises(UserError, match=r"pictures of water, and 900 are needed"):
        warm_start.main([*words, "--output", str(place / "few")])


@pytest.mark.slow
def test_it_measures_photographs_and_goes_on_where_it_stopped(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    water = {"train": range(0, 32, 2), "validation": range(2)}
    for split, numbers in water.items():
        path = place / "data" / "small" / split / "metadata.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for number in numbers:
            lines[number]["captions"] = [f"water and wave {number % 3} here"] * 3
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = parse_config(arguments(place, VALIDATION_IMAGES=-1))
    toml = place / "base.toml"
    toml.write_text(dump_config(Config(**{**vars(config), "RUN_NAME": "", "NUM_EPOCHS": 1})))
    words = ["--part", "photos", "--data", str(place / "data" / "small"), "--config", str(toml)]
    words += ["--output", str(place / "bench"), "--counts", "4", "--held-out", "6"]
    words += ["--seeds", "1", "--steps", "4", "--validations", "2", "--mixed", "4"]
    assert warm_start.main(words) == 0
    old = read_records(place / "bench/photos/data/old/train")
    assert not any(warm_start.hits(record, "water") for record in old)
    table = capsys.readouterr().out.split("| new pictures")[-1]
    assert "| trained on, old pictures mixed in, 4 new |" in table
    assert warm_start.main(words) == 0
    again = capsys.readouterr().out
    assert again.split("| new pictures")[-1] == table
    assert "epoch" not in again  # nothing was trained
