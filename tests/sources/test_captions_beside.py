"""Captions in a file, in one a split, or beside each picture; and the splits that lists say."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from captioning.sources.folder_source import files_source
from captioning.sources.origins import Source
from captioning.system.errors import UserError
from config import Config
from prepare_dataset import prepare_dataset
from tests.helpers.sample_sources import make_zip, picture_bytes, splits_of

Found = dict[str, tuple[tuple[str, ...], str | None]]


def folder_of(folder: Path, pictures: str, texts: Mapping[str, str | bytes]) -> str:
    """A folder with pictures, which nobody opens here, and texts."""
    for name in pictures.split():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(folder)


def found_in(source: Source) -> Found:
    good = [picture for picture in source.pictures if not picture.problem]
    assert [picture.read() for picture in good] == [picture.name.encode() for picture in good]
    return {picture.name: (picture.captions, picture.split) for picture in good}


def coco(**captions: str) -> str:
    images = [{"id": number, "file_name": f"{name}.jpg"} for number, name in enumerate(captions)]
    said = [{"image_id": number, "caption": text} for number, text in enumerate(captions.values())]
    return json.dumps({"images": images, "annotations": said})


@pytest.mark.parametrize("suffix", [".txt", ".caption", ".TXT"])
def test_a_text_file_beside_each_picture(tmp_path: Path, suffix: str) -> None:
    texts = {f"10_girl/a.v2{suffix}": "\ufeffa dog\r\n", f"10_girl/b.png{suffix}": "1girl, red"}
    source = files_source(folder_of(tmp_path, "10_girl/a.v2.jpg 10_girl/b.png c.jpg", texts))
    assert found_in(source) == {
        "10_girl/a.v2.jpg": (("a dog",), None),
        "10_girl/b.png": (("1girl, red",), None),
    }
    assert source.unused == ("c.jpg",)


def test_what_is_odd_beside_pictures_is_said(tmp_path: Path) -> None:
    texts = {
        "a.txt": "one\ntwo\n", "b.txt": " \n", "c.txt": b"caf\xe9", "d.txt": "whose?", "e.txt": "x",
    }  # fmt: skip
    source = files_source(folder_of(tmp_path, "a.jpg b.jpg c.jpg d.jpg d.png", texts))
    assert found_in(source) == {"a.jpg": (("one", "two"), None), "b.jpg": ((), None)}
    problems = {picture.name: picture.problem for picture in source.pictures if picture.problem}
    assert sorted(problems) == ["c.jpg", "d.jpg", "d.png"]
    assert problems["c.jpg"].startswith("unreadable: c.txt: ")
    assert problems["d.png"] == "ambiguous: d.txt stands beside several pictures of its name"
    assert [out.name for out in source.left_out] == ["e.txt"]
    assert source.remarks == ("1 of them have several lines; each line was taken for a caption.",)


def test_labels_of_boxes_are_no_captions(tmp_path: Path) -> None:
    where = folder_of(tmp_path, "a.jpg b.jpg", {"a.txt": "0 0.5 0.5 0.1 0.2\n", "b.txt": ""})
    with pytest.raises(UserError, match=r"hold no words \('0 0.5 0.5 0.1 0.2'\), as labels"):
        files_source(where)


XMP = """<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" %s>%s</rdf:Description>
</rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""
LANGUAGES = (
    '<dc:description><rdf:Alt><rdf:li xml:lang="de">ein Hund</rdf:li>'
    '<rdf:li xml:lang="x-default">a dog &amp; a cat</rdf:li></rdf:Alt></dc:description>'
)


def test_the_description_of_an_xmp_sidecar(tmp_path: Path) -> None:
    texts = {
        "a.xmp": XMP % ("", LANGUAGES),
        "b.jpg.xmp": XMP % ('dc:description="a cow"', ""),
        "c.xmp": XMP % ("", "<dc:subject/>"),
        "d.xmp": '<!DOCTYPE x [<!ENTITY e "aaaa">]><x>&e;</x>',
        "e.xmp": "<x>",
    }
    source = files_source(folder_of(tmp_path, "a.jpg b.jpg c.jpg d.jpg e.jpg", texts))
    assert found_in(source) == {
        "a.jpg": (("a dog & a cat",), None),
        "b.jpg": (("a cow",), None),
        "c.jpg": ((), None),
    }
    problems = [picture.problem for picture in source.pictures if picture.problem]
    assert problems[0] == "unreadable: d.xmp: it is no XMP: it declares entities or types"
    assert problems[1].startswith("unreadable: e.xmp: it is no XML: ")


def test_two_places_of_captions_are_a_question(tmp_path: Path) -> None:
    where = folder_of(tmp_path, "a.jpg", {"a.txt": "t", "a.caption": "c"})
    with pytest.raises(UserError, match=r"a.jpg has its captions in .*--CAPTIONS_FILE \.\w+"):
        files_source(where)
    with pytest.raises(UserError, match="where no columns are"):
        files_source(where, ".caption", caption_column="x")
    assert found_in(files_source(where, ".caption")) == {"a.jpg": (("c",), None)}
    folder_of(tmp_path, "", {"captions.csv": "image,caption\na.jpg,s\n"})
    with pytest.raises(UserError, match=r"--CAPTIONS_FILE .txt, or --CAPTIONS_FILE .*captions.csv"):
        files_source(where)
    assert found_in(files_source(where, ".txt")) == {"a.jpg": (("t",), None)}
    assert found_in(files_source(where, f"{where}/captions.csv")) == {"a.jpg": (("s",), None)}


def test_what_img2dataset_leaves_behind(tmp_path: Path) -> None:
    rest = {"00000_stats.json": "{}", "00000.parquet": "PAR1"}
    row = json.dumps({"caption": "a dog", "url": "x", "key": "0"})
    where = folder_of(tmp_path, "00000/0.jpg", {"00000/0.json": row, **rest})
    assert found_in(files_source(where)) == {"00000/0.jpg": (("a dog",), None)}
    folder_of(tmp_path, "", {"00000/0.txt": "a cat"})
    assert found_in(files_source(where)) == {"00000/0.jpg": (("a cat",), None)}


def test_one_captions_file_a_split(tmp_path: Path) -> None:
    texts = {
        "annotations/captions_train2017.json": coco(a="a dog", b="a cat"),
        "annotations/captions_val2017.json": coco(a="a cow"),
        "annotations/instances_val2017.json": "{}",
    }
    where = folder_of(tmp_path, "train2017/a.jpg train2017/b.jpg val2017/a.jpg", texts)
    right = {
        "train2017/a.jpg": (("a dog",), "train"),
        "train2017/b.jpg": (("a cat",), "train"),
        "val2017/a.jpg": (("a cow",), "validation"),
    }
    assert found_in(files_source(where)) == right
    assert found_in(files_source(where, f"{where}/annotations/captions_*.json")) == right
    two = [f"{where}/annotations/captions_{split}2017.json" for split in ("val", "train")]
    assert found_in(files_source(where, " ; ".join(two))) == right
    (tmp_path / "train2017" / "a.jpg").unlink()
    source = files_source(where)
    assert "train2017/a.jpg" not in found_in(source)
    assert [picture.problem for picture in source.pictures if picture.problem] == [
        "missing: there is val2017/a.jpg"
    ]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_hugging_face_image_folder(tmp_path: Path, form: str) -> None:
    texts = {}
    for split in ("train", "validation", "test"):
        row = json.dumps({"file_name": "0.jpg", "text": f"of {split}"})
        texts[f"{split}/metadata.{form}"] = (
            row if form == "jsonl" else f"file_name,prompt\n0.jpg,of {split}\n"
        )
    where = folder_of(tmp_path, "train/0.jpg validation/0.jpg test/0.jpg", texts)
    right = {f"{s}/0.jpg": ((f"of {s}",), s) for s in ("train", "validation", "test")}
    assert found_in(files_source(where)) == right
    (tmp_path / "train" / "0.jpg").rename(tmp_path / "train" / "1.jpg")
    source = files_source(where)
    assert sorted(found_in(source)) == ["test/0.jpg", "validation/0.jpg"]
    assert source.unused == ("train/1.jpg",)


def test_files_that_differ_in_more_than_the_split_are_a_question(tmp_path: Path) -> None:
    texts = {"captions_train.json": coco(a="x"), "captions_val_old.json": coco(a="y")}
    where = folder_of(tmp_path, "a.jpg", texts)
    with pytest.raises(UserError, match="several files that may be the captions"):
        files_source(where)
    texts = {"captions_more.json": coco(b="y")}
    folder_of(tmp_path, "b.jpg", texts)
    two = f"{where}/captions_train.json; {where}/captions_val_old.json; {where}/captions_more.json"
    with pytest.raises(UserError, match=r"captions_more.json does not; give it one that does"):
        files_source(where, two)
    with pytest.raises(UserError, match=r"gone_\*.json matches no file"):
        files_source(where, "gone_*.json")


FLICKR8K = {
    "Flickr8k.token.txt": "".join(f"{name}.jpg#0\tof {name}\n" for name in "abcd"),
    "Flickr8k.lemma.token.txt": "a.jpg#0\tlemma\n",
    "Flickr_8k.trainImages.txt": "a.jpg\r\n",
    "Flickr_8k.devImages.txt": "b.jpg\r\n",
    "Flickr_8k.testImages.txt": "c.jpg\r\n",
    "ExpertAnnotations.txt": "a.jpg\tb.jpg#2\t1\t1\t1\n",
}


def test_official_split_lists_are_read(tmp_path: Path) -> None:
    pictures = " ".join(f"Flicker8k_Dataset/{name}.jpg" for name in "abcd")
    source = files_source(folder_of(tmp_path, pictures, FLICKR8K))
    splits = {name[-5]: split for name, (_, split) in found_in(source).items()}
    assert splits == {"a": "train", "b": "validation", "c": "test"}
    assert [(out.name, out.kind) for out in source.left_out] == [
        ("d.jpg", "pictures in none of the split lists")
    ]
    assert "Splits are those of Flickr_8k" in source.remarks[0]


def test_split_lists_beside_the_captions_file(tmp_path: Path) -> None:
    captions = "image_name| comment_number| comment\n" + "".join(f"{n}.jpg| 0| x\n" for n in "abc")
    lists = {"train.txt": "a\n", "val.txt": "b\n", "test.txt": "c\n", "notes.txt": "no list"}
    folder_of(tmp_path / "text", "", {"results.csv": captions, **lists})
    where = folder_of(tmp_path / "photos", "a.jpg b.jpg c.jpg", {})
    source = files_source(where, str(tmp_path / "text" / "results.csv"))
    assert [split for _, split in found_in(source).values()] == ["train", "validation", "test"]
    (tmp_path / "text" / "val.txt").write_text("a\n")
    with pytest.raises(UserError, match=r"a.jpg is listed for"):
        files_source(where, str(tmp_path / "text" / "results.csv"))
    (tmp_path / "text" / "train.txt").unlink()  # a list of one split alone decides nothing
    source = files_source(where, str(tmp_path / "text" / "results.csv"))
    assert {split for _, split in found_in(source).values()} == {None}


def test_a_folder_alone_is_enough_and_all_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = {f"x/{i}.jpg": picture_bytes(i) for i in range(5)}
    members |= {f"x/{i}.txt": f"Nr {i}".encode() for i in range(4)}
    members |= {"x/lost.txt": b"?"}
    archive = make_zip(tmp_path / "pictures.zip", members)
    config = Config(DATASET="mine", IMAGE_DIR=str(archive), DATA_DIR=str(tmp_path / "data"))
    summary = prepare_dataset(config)
    assert prepare_dataset(config) == summary
    assert sum(summary.pictures.values()) == 4
    assert {name: c for found in splits_of(config).values() for name, c in found.items()} == {
        f"{i}.jpg": (f"Nr {i}",) for i in range(4)
    }
    said = capsys.readouterr().out
    assert "Left out: 1 text files that stand beside no picture; see" in said
    assert "1 picture files have no captions" in said
    problems = (config.dataset_dir / "problems.tsv").read_text()
    assert "x/lost.txt\ttext files that stand beside no picture\tleft out" in problems
