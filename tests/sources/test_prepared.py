"""A source becomes an ImageFolder: counted, listed, nothing in two splits."""

import json
import shutil
from pathlib import Path

import pytest

from captioning.sources.prepared import Summary, prepare_folder, summary_of
from captioning.sources.records import SPLITS, read_records
from captioning.system.errors import UserError
from prepare_dataset import prepare_dataset
from tests.helpers.sample_sources import (
    assert_no_picture_in_two_splits,
    config_for,
    make_source,
    picture_bytes,
    problems_of,
    splits_of,
)


def test_missing_pictures_and_captions_are_counted(tmp_path: Path) -> None:
    make_source(tmp_path, count=10)
    (tmp_path / "images" / "extra.jpg").write_bytes(picture_bytes(99))
    rows = "gone.jpg,Not here.\n000.jpg,  \nbare.jpg, \n"
    (tmp_path / "images" / "bare.jpg").write_bytes(picture_bytes(98))
    with (tmp_path / "captions.csv").open("a") as file:
        file.write(rows)
    with pytest.raises(UserError, match="MAX_BAD_FRACTION") as caught:
        prepare_dataset(config_for(tmp_path))
    assert "1 missing (gone.jpg)" in str(caught.value)
    listed = problems_of(tmp_path / "data" / "mine.partial")
    assert [line[:2] for line in listed] == [["gone.jpg", "missing"]]
    config = config_for(tmp_path, MAX_BAD_FRACTION=0.2)
    summary = prepare_dataset(config)
    assert summary.problems == {"missing": 1, "no caption": 1}
    assert summary.unused == 1
    assert [line[:2] for line in problems_of(config.dataset_dir)] == [
        ["gone.jpg", "missing"],
        ["bare.jpg", "no caption"],
        ["000.jpg", "empty caption"],
        ["extra.jpg", "no captions for this file"],
    ]
    assert sum(summary.pictures.values()) == 10


def test_refusal_names_the_first_few_and_a_share_that_is_enough(tmp_path: Path) -> None:
    make_source(tmp_path, count=30)
    for i in range(7):
        (tmp_path / "images" / f"{i:03d}.jpg").unlink()
    with pytest.raises(UserError) as caught:
        prepare_dataset(config_for(tmp_path))
    text = str(caught.value)
    assert "7 of 30 pictures" in text
    assert "(000.jpg, 001.jpg, 002.jpg, ...)" in text
    share = float(text.rsplit("--MAX_BAD_FRACTION ", 1)[1].rstrip("."))
    assert prepare_dataset(config_for(tmp_path, MAX_BAD_FRACTION=share)).problems == {"missing": 7}


def test_captions_of_all_kinds_survive(tmp_path: Path) -> None:
    make_source(tmp_path, count=0)
    captions = ["word " * 5000, "🐕‍🦺 𝒟og", "כלב רץ על הדשא", "a\tb\x00c\x85d", 'quote " \\ end']
    for i in range(len(captions)):
        (tmp_path / "images" / f"{i}.jpg").write_bytes(picture_bytes(i))
    content = {f"{i}.jpg": [caption] for i, caption in enumerate(captions)}
    (tmp_path / "captions.csv").write_text(json.dumps(content))
    config = config_for(tmp_path, HELD_OUT_FRACTION=0.0)
    prepare_dataset(config)
    found = [c for captions in splits_of(config)["train"].values() for c in captions]
    assert found == [captions[0].strip(), *captions[1:3], "a b c d", captions[4]]


def test_leaks_of_a_source_leave_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_source(tmp_path, count=6)
    shutil.copy(tmp_path / "images" / "000.jpg", tmp_path / "images" / "copy.jpg")
    rows = [
        {"image": name, "split": split, "caption": f"Of {name}."}
        for name, split in [
            ("copy.jpg", "train"),
            ("000.jpg", "test"),
            ("001.jpg", "train"),
            ("002.jpg", "val"),
        ]
    ]
    (tmp_path / "captions.csv").write_text("\n".join(map(json.dumps, rows)))
    config = config_for(tmp_path)
    assert prepare_dataset(config).left_out == 1
    found = splits_of(config)
    assert [list(found[split]) for split in SPLITS] == [["001.jpg"], ["002.jpg"], ["000.jpg"]]
    assert_no_picture_in_two_splits(config.dataset_dir)
    assert ["copy.jpg", "left out of train", "the same picture as 000.jpg in test"] in problems_of(
        config.dataset_dir
    )
    assert "1 that the source has in two were left out of one" in capsys.readouterr().out


def test_identical_pictures_share_a_split(tmp_path: Path) -> None:
    make_source(tmp_path, count=12)
    for i in range(12):
        shutil.copy(tmp_path / "images" / f"{i:03d}.jpg", tmp_path / "images" / f"twin{i}.jpg")
    rows = "".join(f"twin{i}.jpg,A twin.\n" for i in range(12))
    text = (tmp_path / "captions.csv").read_text()
    (tmp_path / "captions.csv").write_text(text + rows)
    config = config_for(tmp_path, HELD_OUT_FRACTION=0.3)
    summary = prepare_dataset(config)
    assert (sum(summary.pictures.values()), summary.left_out) == (24, 0)
    assert_no_picture_in_two_splits(config.dataset_dir)


def test_datasets_opens_the_folder(tmp_path: Path) -> None:
    make_source(tmp_path)
    (tmp_path / "images" / "000.jpg").rename(tmp_path / "images" / "no_extension")
    text = (tmp_path / "captions.csv").read_text().replace("000.jpg", "no_extension")
    (tmp_path / "captions.csv").write_text(text)
    config = config_for(tmp_path)
    summary = prepare_dataset(config)
    import datasets

    datasets.disable_progress_bars()
    opened = datasets.load_dataset(
        "imagefolder", data_dir=str(config.dataset_dir), cache_dir=str(tmp_path / "cache")
    )
    assert {split: len(rows) for split, rows in opened.items()} == summary.pictures
    row = opened["train"][0]
    assert row["image"].size == (24, 16)
    assert row["captions"] == list(read_records(config.dataset_dir / "train")[0].captions)


def test_fingerprint_is_of_the_data_alone(tmp_path: Path) -> None:
    here, there = make_source(tmp_path / "here"), make_source(tmp_path / "there")
    first, second = prepare_dataset(config_for(here)), prepare_dataset(config_for(there))
    assert first.fingerprint == second.fingerprint


def test_a_folder_with_a_picture_in_two_splits_is_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / f"{split}.jpg").write_bytes(picture_bytes(1))
        line = {"file_name": f"{split}.jpg", "captions": ["x"]}
        (tmp_path / split / "metadata.jsonl").write_text(json.dumps(line))
    with pytest.raises(UserError, match=r"test.jpg is also in .*train; take one out"):
        summary_of(tmp_path, "by hand")


@pytest.mark.parametrize("kind", ["partial", "journal", "pool", "old", "old link"])
def test_nothing_is_prepared_through_links_or_over_other_folders(tmp_path: Path, kind: str) -> None:
    make_source(tmp_path)
    config = config_for(tmp_path)
    elsewhere, partial = tmp_path / "elsewhere", tmp_path / "data" / "mine.partial"
    elsewhere.mkdir()
    (elsewhere / "thesis.tex").write_text("years")
    partial.parent.mkdir()
    if kind == "partial":
        partial.symlink_to(elsewhere)
    elif kind == "old":
        shutil.copytree(elsewhere, partial.with_suffix(".old"))
    elif kind == "old link":
        partial.with_suffix(".old").symlink_to(elsewhere)
    else:
        partial.mkdir()
        target = elsewhere / "thesis.tex" if kind == "journal" else elsewhere
        (partial / {"journal": "progress.jsonl", "pool": "pictures"}[kind]).symlink_to(target)
    with pytest.raises(UserError, match=r"is a link to|was not made by this command"):
        prepare_dataset(config)
    assert [path.name for path in elsewhere.iterdir()] == ["thesis.tex"]
    assert (elsewhere / "thesis.tex").read_text() == "years"


def test_no_cell_of_the_problems_is_a_formula(tmp_path: Path) -> None:
    make_source(tmp_path)
    names = ["=cmd.jpg", "+1.jpg", "-2.jpg", "@SUM(A1).jpg", "a=b.jpg"]
    with (tmp_path / "captions.csv").open("a") as file:
        file.writelines(f"{name},Gone.\n" for name in names)
    prepare_dataset(config_for(tmp_path, MAX_BAD_FRACTION=0.5))
    listed = [line[0] for line in problems_of(tmp_path / "data" / "mine")]
    assert listed == [f"'{name}" for name in names[:4]] + ["a=b.jpg"]


def test_two_commands_never_make_one_data_set(tmp_path: Path) -> None:
    folder = tmp_path / "drawn"
    settings = {"source": ["drawn"], "splits": [0, 0.1, 0.1]}

    def make_again(partial: Path) -> Summary:
        raise AssertionError("both at work")

    def make(partial: Path) -> Summary:
        (partial / f".{'0a' * 8}.tmp").write_text("of a writer that was killed")
        with pytest.raises(UserError, match="Another process is preparing"):
            prepare_folder(folder, make_again, settings=settings, names_source=False)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_folder(folder, make, settings=settings, names_source=False)

    def make_nothing(partial: Path) -> Summary:
        assert list(partial.iterdir()) == []
        raise UserError("there is no such source")

    with pytest.raises(UserError, match="no such source"):
        prepare_folder(folder, make_nothing, settings=settings, names_source=False)
    assert list(tmp_path.iterdir()) == []
