"""Folders, archives and Parquet files as sources, and what is wrong with them."""

import json
import shutil
import stat
import zipfile
from pathlib import Path

import pytest

from captioning.sources.origins import hub_source, list_files
from captioning.system.errors import UserError
from prepare_dataset import prepare_dataset
from tests.helpers.sample_sources import (
    config_for,
    hub_config,
    make_source,
    make_zip,
    picture_bytes,
    problems_of,
    splits_of,
)


def test_equal_names_in_two_folders(tmp_path: Path) -> None:
    for i, folder in enumerate(("one", "two")):
        (tmp_path / "images" / folder).mkdir(parents=True)
        (tmp_path / "images" / folder / "a.jpg").write_bytes(picture_bytes(i))
    captions = {"one/a.jpg": ["First."], "two/a.jpg": ["Second."]}
    (tmp_path / "captions.csv").write_text(json.dumps(captions))
    config = config_for(tmp_path, HELD_OUT_FRACTION=0.0)
    prepare_dataset(config)
    assert splits_of(config) == {"train": {"a.jpg": ("First.",), "two__a.jpg": ("Second.",)}}
    assert ["two/a.jpg", "renamed", "two__a.jpg"] in problems_of(config.dataset_dir)

    (tmp_path / "captions.csv").write_text(
        json.dumps({"one/a.jpg": ["First."], "a.jpg": ["Which?"]})
    )
    with pytest.raises(UserError, match=r"1 ambiguous \(a.jpg\)"):
        prepare_dataset(config)


def test_the_end_of_a_path_tells_equal_names_apart(tmp_path: Path) -> None:
    for i, folder in enumerate(("one", "two")):
        (tmp_path / "images" / "deep" / folder).mkdir(parents=True)
        (tmp_path / "images" / "deep" / folder / "a.jpg").write_bytes(picture_bytes(i))
    (tmp_path / "captions.csv").write_text(json.dumps({"two/a.jpg": ["Second."]}))
    config = config_for(tmp_path)
    prepare_dataset(config)
    assert (config.dataset_dir / "train" / "a.jpg").read_bytes() == picture_bytes(1)


def test_names_without_folder_or_extension_are_found(tmp_path: Path) -> None:
    (tmp_path / "images" / "deep" / "er").mkdir(parents=True)
    (tmp_path / "images" / "deep" / "er" / "a.jpg").write_bytes(picture_bytes(1))
    (tmp_path / "images" / "b.PNG").write_bytes(picture_bytes(2, "PNG"))
    captions = {"a.jpg": ["A."], "b": ["B."]}
    (tmp_path / "captions.csv").write_text(json.dumps(captions))
    config = config_for(tmp_path, HELD_OUT_FRACTION=0.0)
    prepare_dataset(config)
    assert splits_of(config) == {"train": {"a.jpg": ("A.",), "b.PNG": ("B.",)}}


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    make_source(tmp_path, count=5)
    (tmp_path / "secret.jpg").write_bytes(picture_bytes(77))
    (tmp_path / "images" / "000.jpg").unlink()
    (tmp_path / "images" / "000.jpg").symlink_to(tmp_path / "secret.jpg")
    (tmp_path / "images" / "001.jpg").unlink()
    (tmp_path / "images" / "001.jpg").symlink_to("002.jpg")
    (tmp_path / "images" / "up").symlink_to(tmp_path)
    with (tmp_path / "captions.csv").open("a") as file:
        file.write("../secret.jpg,Out.\nup/secret.jpg,Out.\n")
    summary = prepare_dataset(config_for(tmp_path, MAX_BAD_FRACTION=0.9))
    assert (summary.problems, sum(summary.pictures.values())) == ({"missing": 3}, 4)


def test_zip_with_its_captions_file(tmp_path: Path) -> None:
    members = {f"flickr/images/{i}.jpg": picture_bytes(i) for i in range(6)}
    members["flickr/results.csv"] = b"image_name| comment_number| comment\n" + b"".join(
        b"%d.jpg| 0| Picture %d .\n" % (i, i) for i in range(6)
    )
    members["__MACOSX/flickr/images/._0.jpg"] = b"junk"
    config = hub_config(tmp_path, make_zip(tmp_path / "flickr.zip", members))
    assert sum(prepare_dataset(config).pictures.values()) == 6
    for split, records in splits_of(config).items():
        for name, captions in records.items():
            assert captions == (f"Picture {name[0]} .",)
            kept = (config.dataset_dir / split / name).read_bytes()
            assert kept == members[f"flickr/images/{name}"]


def test_zip_cannot_write_or_read_outside(tmp_path: Path) -> None:
    archive = tmp_path / "evil.zip"
    names = ["../../escaped.jpg", "/absolute.jpg", "..\\..\\windows.jpg", "good.jpg"]
    make_zip(archive, {name: picture_bytes(i) for i, name in enumerate(names)})
    with zipfile.ZipFile(archive, "a") as file:
        link = zipfile.ZipInfo("link.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "/etc/passwd")
        file.writestr("captions.json", json.dumps({name: ["x"] for name in [*names, "link.jpg"]}))
    work = tmp_path / "deep" / "work"
    work.mkdir(parents=True)
    config = hub_config(work, archive, MAX_BAD_FRACTION=0.6)
    assert prepare_dataset(config).problems == {"missing": 3}
    outside = {path for path in tmp_path.rglob("*.jpg") if config.dataset_dir not in path.parents}
    assert outside == set()
    names_kept = {name for records in splits_of(config).values() for name in records}
    assert names_kept == {"absolute.jpg", "good.jpg"}


def test_damaged_zip(tmp_path: Path) -> None:
    members = {f"{i}.jpg": picture_bytes(i, size=(80, 60)) for i in range(5)}
    members["captions.json"] = json.dumps({name: ["x"] for name in members}).encode()
    whole = make_zip(tmp_path / "whole.zip", members).read_bytes()
    cut = tmp_path / "cut.zip"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="neither a folder nor a whole zip"):
        prepare_dataset(hub_config(tmp_path, cut))
    flipped = tmp_path / "flipped.zip"
    at = whole.index(b"2.jpg") + 500
    flipped.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    with pytest.raises(UserError, match=r"1 unreadable \(2.jpg\)"):
        prepare_dataset(hub_config(tmp_path, flipped))


def test_zip_members_that_unpack_to_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captioning.sources.origins.LARGEST_PICTURE_BYTES", 100_000)
    members = {"a.jpg": picture_bytes(1), "b.jpg": b"\0" * 10_000_000}
    members["captions.json"] = b'{"a.jpg": "x", "b.jpg": "y"}'
    with pytest.raises(UserError, match=r"1 unreadable \(b.jpg\)"):
        prepare_dataset(hub_config(tmp_path, make_zip(tmp_path / "bomb.zip", members)))
    listed = problems_of(tmp_path / "data" / "flickr30k.partial")
    assert listed == [["b.jpg", "unreadable", "it is too large"]]


def test_folder_with_karpathy_splits(tmp_path: Path) -> None:
    make_source(tmp_path, count=8)
    splits = ["train"] * 4 + ["restval", "val", "val", "test"]
    images = [
        {"filename": f"{i:03d}.jpg", "split": split, "sentences": [{"raw": f"Nr {i}"}]}
        for i, split in enumerate(splits)
    ]
    (tmp_path / "dataset_flickr30k.json").write_text(json.dumps({"images": images}))
    config = hub_config(tmp_path, tmp_path)
    summary = prepare_dataset(config)
    assert summary.pictures == {"train": 5, "validation": 2, "test": 1}
    assert not summary.has_own_splits
    # DATA_DIR lies in the source folder: what was made there is no part of the source.
    assert prepare_dataset(config) == summary


def test_several_captions_files_are_a_question(tmp_path: Path) -> None:
    make_source(tmp_path, count=3)
    shutil.copy(tmp_path / "captions.csv", tmp_path / "captions_old.csv")
    with pytest.raises(UserError, match="several files that may be the captions"):
        prepare_dataset(hub_config(tmp_path, tmp_path))


def write_parquet(path: Path, columns: dict[str, list[object]]) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


@pytest.fixture
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


FLICKR_SPLITS = ["train", "val", "train", "test", "train", "train"]


def flickr30k_columns() -> dict[str, list[object]]:
    return {
        "image": [{"bytes": picture_bytes(i), "path": None} for i in range(6)],
        "caption": [[f"One {i}", f"Two {i}"] for i in range(6)],
        "sentids": [["0", "1"]] * 6,
        "split": list(FLICKR_SPLITS),
        "img_id": [str(i) for i in range(6)],
        "filename": [f"{1000 + i}.jpg" for i in range(6)],
    }


@pytest.mark.usefixtures("private_cache")
def test_flickr30k_parquet(tmp_path: Path) -> None:
    write_parquet(tmp_path / "hub" / "TEST" / "test" / "0000.parquet", flickr30k_columns())
    config = hub_config(tmp_path, tmp_path / "hub")
    summary = prepare_dataset(config)
    assert summary.pictures == {"train": 4, "validation": 1, "test": 1}
    found = splits_of(config)
    assert found["validation"] == {"1001.jpg": ("One 1", "Two 1")}
    assert found["test"] == {"1003.jpg": ("One 3", "Two 3")}
    assert (config.dataset_dir / "test" / "1003.jpg").read_bytes() == picture_bytes(3)
    assert prepare_dataset(config) == summary


@pytest.mark.usefixtures("private_cache")
def test_splits_of_the_hub_and_numbered_captions(tmp_path: Path) -> None:
    for part, (split, rows) in enumerate({"train": 4, "validation": 2, "test": 1}.items()):
        columns: dict[str, list[object]] = {
            "image": [
                {"bytes": picture_bytes(10 * part + i, "PNG"), "path": None} for i in range(rows)
            ]
        }
        for number in range(3):
            columns[f"caption_{number}"] = [f"{split} {i} {number}" for i in range(rows)]
        write_parquet(tmp_path / "hub" / "data" / f"{split}-00000-of-00001.parquet", columns)
    config = hub_config(tmp_path, tmp_path / "hub", DATASET="flickr8k")
    assert prepare_dataset(config).pictures == {"train": 4, "validation": 2, "test": 1}
    found = splits_of(config)
    assert list(found["test"].values()) == [("test 0 0", "test 0 1", "test 0 2")]
    assert {Path(name).suffix for records in found.values() for name in records} == {".png"}


@pytest.mark.usefixtures("private_cache")
def test_rows_with_a_caption_each_become_pictures(tmp_path: Path) -> None:
    columns: dict[str, list[object]] = {
        "text": [f"Caption {i}" for i in range(12)],
        "image": [{"bytes": picture_bytes(i // 3), "path": f"{i // 3}.jpg"} for i in range(12)],
    }
    write_parquet(tmp_path / "hub" / "train.parquet", columns)
    config = hub_config(tmp_path, tmp_path / "hub", DATASET="somebody/pictures")
    summary = prepare_dataset(config)
    assert config.dataset_dir.name == "somebody--pictures"
    assert (sum(summary.pictures.values()), summary.captions) == (4, 12)
    everything = {n: c for records in splits_of(config).values() for n, c in records.items()}
    assert everything["1.jpg"] == ("Caption 3", "Caption 4", "Caption 5")


@pytest.mark.usefixtures("private_cache")
@pytest.mark.parametrize("dropped", ["image", "caption"])
def test_columns_that_are_not_there(tmp_path: Path, dropped: str) -> None:
    columns = flickr30k_columns()
    del columns[dropped]
    write_parquet(tmp_path / "hub" / "0.parquet", columns)
    with pytest.raises(UserError, match=r"has the columns .*sentids, split, img_id, filename"):
        prepare_dataset(hub_config(tmp_path, tmp_path / "hub"))


@pytest.mark.usefixtures("private_cache")
def test_rows_without_a_picture_or_caption_are_problems(tmp_path: Path) -> None:
    columns = flickr30k_columns()
    columns["image"][2] = None
    columns["image"][4] = {"bytes": b"broken", "path": "/etc/passwd"}
    columns["image"][5] = {"bytes": None, "path": "/etc/passwd"}
    columns["caption"][0] = []
    write_parquet(tmp_path / "hub" / "0.parquet", columns)
    summary = prepare_dataset(hub_config(tmp_path, tmp_path / "hub", MAX_BAD_FRACTION=0.9))
    assert summary.problems == {"no caption": 1, "unreadable": 3}


@pytest.mark.usefixtures("private_cache")
def test_columns_of_the_hub_that_the_user_names(tmp_path: Path) -> None:
    columns = flickr30k_columns()
    columns["bild"] = [{"bytes": picture_bytes(50 + i), "path": None} for i in range(6)]
    columns["worte"] = [f"Wort {i}" for i in range(6)]
    columns["text"] = [f"Some other words {i}" for i in range(6)]
    columns["is_rejected"] = [False, True, False, False, False, False]
    write_parquet(tmp_path / "hub" / "0.parquet", columns)
    with pytest.raises(UserError, match=r"caption, text may all hold .* --CAPTION_COLUMN caption"):
        prepare_dataset(hub_config(tmp_path, tmp_path / "hub"))
    with pytest.raises(UserError, match=r"those of pictures are: image, bild"):
        prepare_dataset(hub_config(tmp_path, tmp_path / "hub", IMAGE_COLUMN="foto"))
    named = {"IMAGE_COLUMN": "bild", "CAPTION_COLUMN": "worte"}
    config = hub_config(tmp_path, tmp_path / "hub", **named)
    summary = prepare_dataset(config)
    assert summary.left_out_by_kind == {"captions that the data set marks as rejected": 1}
    assert splits_of(config)["test"] == {"1003.jpg": ("Wort 3",)}
    assert (config.dataset_dir / "test" / "1003.jpg").read_bytes() == picture_bytes(53)
    assert prepare_dataset(config) == summary


@pytest.mark.usefixtures("private_cache")
def test_a_data_set_that_is_known_may_have_further_columns_of_text(tmp_path: Path) -> None:
    columns = flickr30k_columns()
    columns["blip_caption"] = [f"What a model says of {i}" for i in range(6)]
    write_parquet(tmp_path / "hub" / "0.parquet", columns)
    found = hub_source([str(tmp_path / "hub")], is_known=True).pictures
    assert found[0].captions == ("One 0", "Two 0")
    with pytest.raises(UserError, match=r"caption, blip_caption may all hold captions"):
        hub_source([str(tmp_path / "hub")])


@pytest.mark.usefixtures("private_cache")
def test_what_cannot_be_told_of_the_hub_is_refused(tmp_path: Path) -> None:
    columns = flickr30k_columns()
    columns["split"][2] = "fold1"
    write_parquet(tmp_path / "hub" / "0.parquet", columns)
    with pytest.raises(UserError, match=r"row 2, split: the split 'fold1' is not known; train"):
        prepare_dataset(hub_config(tmp_path, tmp_path / "hub"))
    columns["bild"] = columns.pop("image")
    columns["foto"] = columns["bild"]
    write_parquet(tmp_path / "hub" / "0.parquet", columns)
    with pytest.raises(UserError, match="several columns of pictures, bild, foto; say which"):
        prepare_dataset(hub_config(tmp_path, tmp_path / "hub"))


def test_parquet_files_without_pictures_are_no_data_set(tmp_path: Path) -> None:
    make_source(tmp_path, count=3)
    write_parquet(tmp_path / "00000.parquet", {"url": ["x"], "caption": ["y"]})
    assert sum(prepare_dataset(hub_config(tmp_path, tmp_path)).pictures.values()) == 3


def test_captions_file_in_a_zip_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = {"./a.jpg": picture_bytes(1), "./captions.json": b'{"a.jpg": "x"}' + b" " * 10_000}
    archive = make_zip(tmp_path / "pictures.zip", members)
    prepare_dataset(hub_config(tmp_path, archive))
    monkeypatch.setattr("captioning.sources.origins.LARGEST_FILE_BYTES", 1000)
    with pytest.raises(UserError, match=r"captions.json cannot be read: it is too large"):
        prepare_dataset(hub_config(tmp_path, archive, DATASET="flickr8k"))


def test_a_member_of_a_zip_without_a_name_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "pictures.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jpg", picture_bytes(0))
        nameless = zipfile.ZipInfo("b")
        nameless.filename = "\0"  # which ends a name
        archive.writestr(nameless, b"x")
    assert [one.name for one in list_files(str(path))] == ["a.jpg"]
