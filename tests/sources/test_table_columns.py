"""Columns are known by their values, captions by all of their columns, splits by known names."""

import json
from collections.abc import Callable

import pytest

from captioning.sources.caption_fields import captions_of, listed, split_name, splits_in
from captioning.sources.caption_files import parse_captions
from captioning.sources.picture_names import PictureNames
from captioning.sources.table_columns import TableReading
from captioning.system.errors import UserError

FILES = [f"{i}.jpg" for i in range(6)]
ORDER = [3, 5, 0, 1, 4, 2]
"""The picture of each row; rows are counted from 0, as a trap."""
RIGHT = {f"{i}.jpg": (f"Nr {i}",) for i in ORDER}


def read(
    text: str, image: str = "", caption: str = "", files: list[str] = FILES
) -> dict[str, tuple[str, ...]]:
    names = PictureNames(files)
    pictures = parse_captions(text.encode(), "c", TableReading(image, caption, names.find))
    return {(names.find(p.file_name) or [p.file_name])[0]: p.captions for p in pictures}


def table(header: str, row: Callable[[int, int], str]) -> str:
    return "\n".join([header, *(row(number, picture) for number, picture in enumerate(ORDER))])


@pytest.mark.parametrize(
    "text",
    [
        table("id,image_file_name,caption", lambda n, i: f"{n},{i}.jpg,Nr {i}"),
        table("image_id,Datei,caption", lambda n, i: f"{n},{i}.jpg,Nr {i}"),
        table(",image,caption", lambda n, i: f"{n},{i}.jpg,Nr {i}"),
        table("image,id,caption", lambda n, i: f"{i},{n},Nr {i}"),
        table("id|image|caption", lambda n, i: f"{n}|{i}.jpg|Nr {i}"),
        table("image_url,id,caption", lambda n, i: f"http://x.org/y/{i}.jpg?a=b,{n},Nr {i}"),
        table('"image","caption"', lambda n, i: f'"{n}","{i}.jpg","Nr {i}"'),
        json.dumps([{"id": n, "img": f"{i}.jpg", "text": f"Nr {i}"} for n, i in enumerate(ORDER)]),
        json.dumps(
            {n: {"image": f"{i}.jpg", "caption": f"Nr {i}"} for n, i in enumerate(ORDER)}
        ),
        json.dumps({n: {"fn": f"{i}.jpg", "caption": f"Nr {i}"} for n, i in enumerate(ORDER)}),
        json.dumps({f"{i}.jpg": {"id": n, "caption_1": f"Nr {i}"} for n, i in enumerate(ORDER)}),
        json.dumps(
            {"image": [f"{i}.jpg" for i in ORDER], "caption": [f"Nr {i}" for i in ORDER]}
        ),
        json.dumps(
            {
                "image": {n: f"{i}.jpg" for n, i in enumerate(ORDER)},
                "caption": {n: f"Nr {i}" for n, i in enumerate(ORDER)},
            }
        ),
        json.dumps(
            {"info": "x", "data": [{"image": f"{i}.jpg", "caption": f"Nr {i}"} for i in ORDER]}
        ),
    ],
)  # fmt: skip
def test_the_column_of_pictures_is_the_one_whose_values_are_files(text: str) -> None:
    assert read(text) == RIGHT


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (table("id,key,caption", lambda n, i: f"{n},{i},Nr {i}"), "--IMAGE_COLUMN NAME"),
        (table("id,caption", lambda n, i: f"{n + 1},Nr {n}"), "--IMAGE_COLUMN NAME"),
        (table("from,to,caption", lambda n, i: f"{n}.jpg,{i}.jpg,x"), "--IMAGE_COLUMN from"),
        (table("Nr;Bild;Text;Wort", lambda n, i: f"{n};{i}.jpg;Nr {i};x"), ""),
        (table("Nr;Bild;Worte", lambda n, i: f"{n};{i}.jpg;Nr {i}"), "--CAPTION_COLUMN NAME"),
        (table("image,caption,text", lambda n, i: f"{i}.jpg,a,b c"), "--CAPTION_COLUMN caption"),
        ("url,caption\nhttps://x.org/a1,a dog\n", "given by addresses are not fetched here"),
        ("0,0.jpg,a dog\n1,1.jpg,a cat\n", "put a line with the columns' names above it"),
    ],
)  # fmt: skip
def test_what_values_leave_open_is_refused_with_what_settles_it(text: str, words: str) -> None:
    if not words:
        assert read(text) == RIGHT
        return
    with pytest.raises(UserError) as caught:
        read(text)
    assert words in str(caught.value)


def test_columns_that_the_user_names() -> None:
    text = table("id;Bild;Worte;Mehr", lambda n, i: f"{i};{n}.jpg;Nr {i};und {i}")
    assert read(text, "ID", "worte") == RIGHT
    both = read(text, "id", "Worte,Mehr")
    assert both == {name: (*captions, f"und {name[0]}") for name, captions in RIGHT.items()}
    for other in ("0.jpg,a dog\n", "0.jpg#0\ta dog\n", '{"0.jpg": "a dog"}'):
        with pytest.raises(UserError, match="it has no columns or keys to choose from"):
            read(other, caption="caption")
    with pytest.raises(UserError, match=r"no column Foto \(IMAGE_COLUMN\); it has id, Bild, Worte"):
        read(text, "Foto", "Worte")


@pytest.mark.parametrize(
    "header",
    [
        "image,caption_0,caption_1", "image,caption,caption_2", "image,caption,caption",
        "image,caption,caption.1", "image,Sentence 1,Sentence 2", "image,caption_a,caption_b",
        "image,Caption (1),Caption (2)", "image,text1,text2", "image,captions[0],captions[1]",
    ],
)  # fmt: skip
def test_every_column_of_captions_counts(header: str) -> None:
    assert read(f"{header}\n0.jpg,a dog,a cat\n") == {"0.jpg": ("a dog", "a cat")}


def test_other_forms_of_the_captions_are_no_further_captions() -> None:
    row = {
        "image": "0.jpg",
        "raw": ["a dog"],
        "sentences": ["a dog"],
        "caption_id": "7",
        "text": "",
    }
    assert read(json.dumps([row])) == {"0.jpg": ("a dog",)}


@pytest.mark.parametrize(
    "cell",
    [
        '["a dog", "it\'s"]', "['a dog', \"it's\"]", "['a dog' \"it's\"]", "['a dog'\n \"it's\"]",
        "('a dog', \"it's\")", "array(['a dog', \"it's\"], dtype=object)", '{"a dog","it\'s"}',
        "['a dog', 'it\\'s',]", '[{"raw": "a dog"}, {"raw": "it\'s"}]',
        "[{'raw': 'a dog', 'tokens': ['a']}, {'raw': \"it's\", 'tokens': []}]",
    ],
)  # fmt: skip
def test_a_list_in_a_cell_is_a_list_in_any_notation(cell: str) -> None:
    quoted = cell.replace('"', '""')
    assert read(f'image,caption\n0.jpg,"{quoted}"\n') == {"0.jpg": ("a dog", "it's")}
    assert read(json.dumps({"0.jpg": cell})) == {"0.jpg": ("a dog", "it's")}


@pytest.mark.parametrize(
    "text", ['("STOP" sign)', '("STOP")', "[a dog]", "['", "{x}", '"a" [b]', "[]"]
)
def test_a_caption_with_brackets_is_no_list(text: str) -> None:
    assert captions_of(text) == [text]


def test_a_list_that_is_no_longer_whole_is_refused() -> None:
    assert listed("['a' 'b' ... 'z']") is False
    with pytest.raises(UserError, match="line 2: caption holds"):
        read("image,caption\n0.jpg,\"['it's', 'x']\"\n")


def test_a_split_that_is_not_known_is_refused_with_those_that_are() -> None:
    for text in (
        "image,split,caption\n0.jpg,fold1,x\n",
        '[{"image": "0.jpg", "split": "fold1", "caption": "x"}]',
        '{"0.jpg": {"split": "fold1", "caption": "x"}}',
        '{"images": [{"filename": "0.jpg", "split": "fold1", "sentences": [{"raw": "x"}]}]}',
    ):
        with pytest.raises(UserError, match=r"'fold1' is not known; train .*validation .*test"):
            read(text)


@pytest.mark.parametrize(
    "header", ["image,Split,caption", "image,subset,caption", "image, SPLIT ,caption"]
)
def test_splits_in_any_column_that_names_them(header: str) -> None:
    pictures = parse_captions(f"{header}\n0.jpg,VAL,x\n1.jpg,Training,y\n".encode(), "c")
    assert [picture.split for picture in pictures] == ["validation", "train"]


def test_splits_by_key() -> None:
    content = {"train": [{"id": 1, "image_path": ["0.jpg", "1.jpg"], "caption": "x"}],
               "val": [{"id": 2, "image_path": ["2.jpg"], "caption": "y"}]}  # fmt: skip
    pictures = parse_captions(
        json.dumps(content).encode(), "c", TableReading(find=PictureNames(FILES).find)
    )
    assert [(p.file_name, p.captions, p.split) for p in pictures] == [
        ("0.jpg", ("x",), "train"), ("1.jpg", ("x",), "train"), ("2.jpg", ("y",), "validation"),
    ]  # fmt: skip


def test_names_of_splits() -> None:
    assert [split_name(n) for n in ("train2014", "val_2017", " DEV ", "restval", "2014")] == [
        "train", "validation", "validation", "train", None,
    ]  # fmt: skip
    paths = ["a/captions_train2017.json", "Flickr_8k.devImages.txt", "x/val/metadata.jsonl"]
    assert [splits_in(path) for path in paths] == [{"train"}, {"validation"}, {"validation"}]
    assert [splits_in(path) for path in ("trainval.json", "test/a/b/c.csv")] == [set(), set()]
