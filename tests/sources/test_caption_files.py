"""Every captions format is read for what it says; anything else is one sentence."""

import codecs
import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from captioning.sources.caption_fields import (
    caption_columns,
    captions_of,
    clean_caption,
    image_column,
    split_name,
)
from captioning.sources.caption_files import CaptionedPicture, parse_captions, read_captions
from captioning.system.errors import UserError

CAPTIONS = {
    "a.jpg": ("A dog runs.", 'He said "sit", and it sat.'),
    "b.png": ("Eine Straße, naß.", "雪の中の犬 🐕"),
}
PAIRS = [(name, caption) for name, captions in CAPTIONS.items() for caption in captions]


def csv_text(header: str | None, delimiter: str = ",", extra: str = "") -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    for name, caption in PAIRS:
        writer.writerow([name, *([extra] if extra else []), caption])
    return (f"{header}\n" if header else "") + text.getvalue()


def karpathy(**extra: str) -> str:
    images = [
        {"filename": name, "sentences": [{"raw": c, "tokens": c.split()} for c in found], **extra}
        for name, found in CAPTIONS.items()
    ]
    return json.dumps({"dataset": "flickr30k", "images": images})


COCO = json.dumps(
    {
        "info": {},
        "images": [{"id": 10 + i, "file_name": name} for i, name in enumerate(CAPTIONS)],
        "annotations": [
            {"id": i, "image_id": 10 + list(CAPTIONS).index(name), "caption": caption}
            for i, (name, caption) in enumerate(PAIRS)
        ],
    }
)
NUMBERED = "image,caption_0,caption_1\n" + "".join(
    f'{name},{first},"{second}"\n'.replace('"sit"', '""sit""').replace(first, f'"{first}"')
    for name, (first, second) in CAPTIONS.items()
)
FORMS = {
    "mapping": json.dumps(CAPTIONS),
    "mapping, indented": json.dumps(CAPTIONS, indent=2, ensure_ascii=False),
    "karpathy": karpathy(),
    "coco": COCO,
    "json lines": "\n".join(
        json.dumps({"file_name": name, "captions": found}) for name, found in CAPTIONS.items()
    ),
    "json lines, a caption each": "\n".join(
        json.dumps({"image": name, "caption": caption}) for name, caption in PAIRS
    ),
    "json list": json.dumps(
        [{"image": n, "caption": c, "image_id": 7} for n, c in CAPTIONS.items()]
    ),
    "csv": csv_text("image,caption"),
    "csv, other names": csv_text("Image Name,Sentence"),
    "csv, more columns": csv_text("filename,comment_number,text", extra="0"),
    "csv, no header": csv_text(None),
    "csv, semicolons": csv_text("image;caption", ";"),
    "csv, tabs": csv_text("image\tcaption", "\t"),
    "csv, numbered": NUMBERED,
    "csv, lists": "raw,filename\n"
    + "".join(
        '"{}",{}\n'.format(json.dumps(found).replace('"', '""'), name)
        for name, found in CAPTIONS.items()
    ),
    "results": "image_name| comment_number| comment\n"
    + "".join(f"{name}| {i}| {caption}\n" for i, (name, caption) in enumerate(PAIRS)),
    "token": "".join(f"{name}#{i}\t{caption}\n" for i, (name, caption) in enumerate(PAIRS)),
}


def captions_in(data: bytes | str) -> dict[str, tuple[str, ...]]:
    data = data if isinstance(data, bytes) else data.encode()
    return {picture.file_name: picture.captions for picture in parse_captions(data, "file")}


@pytest.mark.parametrize("form", FORMS)
def test_format_gives_every_caption(form: str) -> None:
    assert captions_in(FORMS[form]) == CAPTIONS


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "encode",
    [
        lambda text: codecs.BOM_UTF8 + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.encode("utf-16-le"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: b"\n\n" + text.encode() + b"\n\n",
        lambda text: gzip.compress(text.encode()),
    ],
    ids=["bom", "utf-16", "utf-16-le", "windows", "blank lines", "gzip"],
)
def test_encoding_changes_nothing(form: str, encode: Callable[[str], bytes]) -> None:
    assert captions_in(encode(FORMS[form])) == CAPTIONS


def test_extension_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_text(FORMS["karpathy"])
    assert {p.file_name: p.captions for p in read_captions(path)} == CAPTIONS


@pytest.mark.parametrize(
    ("given", "split"),
    [("train", "train"), ("restval", "train"), ("val", "validation"), ("test", "test")],
)
def test_karpathy_splits_are_kept(given: str, split: str) -> None:
    assert {p.split for p in parse_captions(karpathy(split=given).encode(), "file")} == {split}


def test_karpathy_folders_tell_equal_names_apart() -> None:
    images = [
        {"filename": "a.jpg", "filepath": folder, "sentences": [{"raw": folder}]}
        for folder in ("train2014", "val2014")
    ]
    found = captions_in(json.dumps({"images": images}))
    assert found == {"train2014/a.jpg": ("train2014",), "val2014/a.jpg": ("val2014",)}


def test_splits_of_rows_and_mappings() -> None:
    for text in (
        'image,split,caption\na.jpg,val,"x, y"\n',
        '{"image": "a.jpg", "split": "val", "caption": "x, y"}',
        '{"a.jpg": {"split": "val", "caption": "x, y"}}',
    ):
        assert parse_captions(text.encode(), "f") == [
            CaptionedPicture("a.jpg", ("x, y",), "validation")
        ]


def test_text_stays_as_written_but_for_white_space_and_control_characters() -> None:
    assert clean_caption(" \tA  dog ,  naïve ﬁ … \n") == "A  dog ,  naïve ﬁ …"
    assert clean_caption("one\r\ntwo\u2028three\x00four\x85five") == "one two three four five"
    assert clean_caption("broken \ud800 half") == "broken \ufffd half"


def test_unquoted_commas_stay_in_the_caption() -> None:
    for header in ("image,caption\n", ""):
        found = captions_in(f"{header}a.jpg,1,000 dogs, red and blue\n")
        assert found == {"a.jpg": ("1,000 dogs, red and blue",)}


def test_quotes_after_a_space() -> None:
    assert captions_in('image, caption\na.jpg, "red, ""green"""\n') == {"a.jpg": ('red, "green"',)}


def test_results_line_without_its_second_bar() -> None:
    text = 'image_name| comment_number| comment\na.jpg| 3| A "red" | bar\na.jpg| 4   A dog .\n'
    assert captions_in(text) == {"a.jpg": ('A "red" | bar', "A dog .")}


def test_key_that_stands_twice_keeps_both_captions() -> None:
    assert captions_in('{"a.jpg": ["x"], "b.jpg": "y", "a.jpg": ["z"]}') == {
        "a.jpg": ("x", "z"),
        "b.jpg": ("y",),
    }


def test_empty_captions_are_there_to_be_counted() -> None:
    assert captions_in('{"a.jpg": ["", " x "], "b.jpg": null, "c.jpg": []}') == {
        "a.jpg": ("", "x"),
        "b.jpg": ("",),
        "c.jpg": (),
    }


def test_windows_paths() -> None:
    assert captions_in('{"sub\\\\a.jpg": "x"}') == {"sub/a.jpg": ("x",)}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"hello", "its first line is 'hello'"),
        (b"caf\xe9.jpg,x", "neither UTF-8 nor UTF-16"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "neither UTF-8 nor UTF-16"),
        (b"\x1f\x8b\x08broken", "damaged gzip"),
        (b'{"a.jpg": ["x"', "line 1, column"),
        (b'{\n  "a.jpg": ["x"],\n}', ", column"),
        (b'{"a.jpg": 3}', "'a.jpg' holds 3"),
        (b'{"image": "a.jpg", "caption": "x"}\n{"image": "b.jpg"}', "line 2"),
        (b'{"image": "a.jpg", "caption": "x"}\n{"image": ', "line 2"),
        (b"[1, 2]", "entry 1 is 1"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"images": [{"id": 1}]}', 'neither "sentences" nor "annotations"'),
        (b'{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"bbox": 1}]}', "instances"),
        (b'{"images": [], "annotations": [{"image_id": 3, "caption": "x"}]}', "lack the id '3'"),
        (b'image,caption\na.jpg,"never closed\n', "begins on line 2"),
        (b'image,caption\na.jpg,x\nb.jpg,"one\nc.jpg,two"\n', "begins on line 3"),
        (b"a.jpg#0\tx\nb.jpg x\n", "line 2 is 'b.jpg x'"),
        (b"image,caption\n,x\n", "'x' has no file name"),
        (b'[{"image":"a","split":"val","caption":"x"},{"image":"a","caption":"y"}]', "in split"),
        (b"image,caption\n", "holds no captions"),
        (b'{"a.jpg": ""}', "holds no captions"),
    ],
)  # fmt: skip
def test_other_content_is_one_sentence_with_the_formats(content: bytes, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_captions(content, "some.file")
    text = str(caught.value)
    assert words in text
    assert "some.file" in text
    assert "Karpathy" in text
    assert "\n" not in text


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.json cannot be read: No such file"):
        read_captions(tmp_path / "gone.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_captions(tmp_path)


def test_unpacked_size_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captioning.sources.caption_files.LARGEST_FILE_BYTES", 1000)
    with pytest.raises(UserError, match="larger than"):
        parse_captions(gzip.compress(FORMS["mapping"].encode() + b" " * 10_000), "f")


def test_names_of_columns() -> None:
    assert image_column(["split", "Image Name", "id"]) == "Image Name"
    assert caption_columns(["image", "caption_0", "caption_1"]) == ["caption_0", "caption_1"]
    assert caption_columns(["sentences_tokens", "sentences_raw", "text"]) == ["sentences_raw"]
    assert split_name(" Val ") == "validation"
    assert split_name("everything") is None
    assert captions_of([{"raw": "x"}, "y", None]) == ["x", "y", ""]
    assert captions_of([["nested"]]) is None


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("end", ["\r", "\r\n", "\u2028"])
def test_any_line_ends(form: str, end: str) -> None:
    assert captions_in(FORMS[form].replace("\n", end)) == CAPTIONS


def test_a_number_at_the_start_of_a_caption_is_the_captions() -> None:
    for text in (
        "image|caption\na.jpg|3 dogs run\n",
        "image|caption|split\na.jpg|3 dogs run|val\n",
        "a.jpg| 3 dogs run\n",
        "a.jpg#0\t3 dogs run\n",
        "a.jpg#0 3 dogs run\n",
        "image,caption\na.jpg#0,3 dogs run\n",
        "image,comment_number,comment\na.jpg,0,3 dogs run\n",
        "image_name| comment_number| comment\na.jpg| 0| 3 dogs run\n",
        "| image | caption |\n|:---|---|\n| a.jpg | 3 dogs run |\n",
    ):
        assert captions_in(text) == {"a.jpg": ("3 dogs run",)}, text


def test_bars_keep_what_stands_between_them() -> None:
    text = 'image|caption\na.jpg|left | right\na.jpg| He said "sit" \n"a.jpg"|"A ""big"" dog"\n'
    assert captions_in(text) == {"a.jpg": ("left | right", 'He said "sit"', 'A "big" dog')}


def test_numbers_that_count_captions_are_none_of_them() -> None:
    text = "a.jpg,0,2 dogs, red\na.jpg,1,3 cats\nb.jpg,0,4 cows\nb.jpg,1,5 bees\n"
    assert captions_in(text) == {"a.jpg": ("2 dogs, red", "3 cats"), "b.jpg": ("4 cows", "5 bees")}
    assert captions_in("a.jpg,2,000 dogs\na.jpg,1,000 cats\n") == {
        "a.jpg": ("2,000 dogs", "1,000 cats")
    }
    text = "image_name| comment_number| comment\na.jpg| 0| A dog.\na.jpg| 3 dogs.\n"
    with pytest.raises(UserError, match=r"line 3 is 'a.jpg\| 3 dogs.', unlike those before it"):
        captions_in(text)


def test_a_caption_with_unquoted_commas_is_joined_where_that_is_certain() -> None:
    for text in (
        "id,image,caption\n0,a.jpg,A big, brown dog, running\n",
        "image,caption,split\na.jpg,A big, brown dog, running,train\n",
        "image,height,caption\na.jpg,480,A big, brown dog, running\n",
        "image,place,caption\nb.jpg,Rome,x\na.jpg,Rome,A big, brown dog, running\n",
    ):
        assert captions_in(text)["a.jpg"] == ("A big, brown dog, running",), text
    picture = parse_captions(b"image,caption,split\na.jpg,A, b,val\n", "f")[0]
    assert picture == CaptionedPicture("a.jpg", ("A, b",), "validation")


@pytest.mark.parametrize(
    "text",
    [
        "image,title,caption\na.jpg,One, two,A dog\n",
        "image,caption,source\na.jpg,A big, brown dog,flickr\n",
        "image,caption,split\na.jpg,A dog, running\n\na.jpg,A dog, running, fast\n",
        "image,caption_0,caption_1\na.jpg,A big, brown dog,A dog\n",
        "image,caption,split\na.jpg,train\n",
    ],
)
def test_fields_that_do_not_fit_the_header_are_refused_with_their_line(text: str) -> None:
    with pytest.raises(UserError, match=r"line \d.*fields, the header has 3|line \d.*split"):
        captions_in(text)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("image,caption\na.jpg,café\n".encode("cp1252"), "Windows-1252, where .* reads .*café"),
        (b"PK\x03\x04\x14\x00", "an Excel workbook; save the sheet as CSV UTF-8"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "old Excel workbook"),
        (b"PAR1\x15\x04", "it is damaged Parquet"),
    ],
)
def test_other_files_are_told_what_to_do(data: bytes, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_captions(data, "c.csv")


def test_excel_says_its_delimiter() -> None:
    for end, delimiter, encoding in (("\r\n", ";", "utf-8-sig"), ("\n", "\t", "utf-16")):
        rows = (f"sep={delimiter}", f"image{delimiter}caption", f"a.jpg{delimiter}x, y; z")
        rows = rows if delimiter == "\t" else (*rows[:2], f'a.jpg{delimiter}"x, y; z"')
        assert captions_in((end.join(rows) + end).encode(encoding)) == {"a.jpg": ("x, y; z",)}


def test_what_a_data_set_calls_no_caption_is_left_out_and_said() -> None:
    rows = [
        {"image": "a.jpg", "caption": "x", "is_rejected": False, "is_precanned": True},
        {"image": "a.jpg", "caption": "y", "is_rejected": False},
        {"image": "b.jpg", "caption": "z", "is_rejected": 1},
    ]
    coco = {
        "images": [{"id": "a", "file_name": "a.jpg"}, {"id": "b", "file_name": "b.jpg"}],
        "annotations": [{**row, "image_id": str(row["image"])[0]} for row in rows],
    }
    table = "image,caption,is_rejected\n" + "a.jpg,x,true\na.jpg,y,false\nb.jpg,z,1\n"
    for text, first in (
        (json.dumps(rows), "precanned"),
        (json.dumps(coco), "precanned"),
        (table, "rejected"),
    ):
        assert parse_captions(text.encode(), "f") == [
            CaptionedPicture("a.jpg", ("y",), None, (first,)),
            CaptionedPicture("b.jpg", (), None, ("rejected",)),
        ]


def test_coco_pictures_with_one_id_are_refused() -> None:
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}]
    content = {"images": images, "annotations": [{"image_id": 1, "caption": "x"}]}
    with pytest.raises(UserError, match="the id '1' twice, for a"):
        captions_in(json.dumps(content))


def test_a_row_with_several_pictures_has_one_caption() -> None:
    assert captions_in('[{"image": ["a.jpg", "b.jpg"], "caption": "x"}]') == {
        "a.jpg": ("x",),
        "b.jpg": ("x",),
    }
    with pytest.raises(UserError, match="entry 1 names 2 pictures and has 2 captions"):
        captions_in('[{"image": ["a.jpg", "b.jpg"], "caption": ["x", "y"]}]')


def test_lines_that_generate_prints_are_captions() -> None:
    line = {"image": "a.jpg", "captions": [{"text": "x", "log_probability": -1.5}]}
    assert captions_in(json.dumps(line)) == {"a.jpg": ("x",)}


@given(st.binary(max_size=300))
def test_any_bytes_give_captions_or_one_sentence(data: bytes) -> None:
    check_result(data)


@given(st.data())
def test_damaged_files_give_captions_or_one_sentence(data: st.DataObject) -> None:
    text = bytearray(FORMS[data.draw(st.sampled_from(sorted(FORMS)))].encode())
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    check_result(bytes(text[: data.draw(st.integers(0, len(text)))]))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["images", "annotations", "filename", "sentences", "raw", "id", "split"]
            )
            | st.sampled_from(["image", "caption", "captions", "file_name", "filepath", "image_id"])
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_values)
@example({"images": [3], "annotations": 3})
@example([{"filename": "a", "filepath": [], "captions": {"raw": {}}}])
def test_any_json_gives_captions_or_one_sentence(value: object) -> None:
    check_result(json.dumps(value).encode())


def check_result(data: bytes) -> None:
    try:
        pictures = parse_captions(data, "f")
    except UserError:
        return
    assert len({picture.file_name for picture in pictures}) == len(pictures)
    for picture in pictures:
        assert picture.file_name
        for text in (picture.file_name, *picture.captions):
            text.encode()
            assert len(text.splitlines()) <= 1


def test_real_files(real_data: Path) -> None:
    sample = read_captions(real_data / "flickr8k_sample" / "captions.txt")
    assert [len(sample), {len(picture.captions) for picture in sample}] == [800, {5}]
    whole = read_captions(real_data / "captions" / "flickr8k_captions.csv.gz")
    assert sum(len(picture.captions) for picture in whole) == 39_455
    for split in ("test", "validation"):
        assert len(read_captions(real_data / "captions" / f"flickr30k_{split}.json.gz")) == 1000
