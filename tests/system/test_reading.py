"""What is read of others is a file, and no larger than it may be."""

import os
import socket
from pathlib import Path

import pytest

from captioning.sources.caption_files import read_captions
from captioning.sources.images import load_image
from captioning.sources.origins import list_files
from captioning.sources.records import read_records
from captioning.streaming.shards import read_samples
from captioning.system.errors import UserError
from captioning.system.files import read_json, remove_leftovers, write_text
from captioning.system.reading import open_regular, read_regular
from captioning.vision.loading import load_config
from config import parse_config
from tokenizer import CaptionTokenizer

READERS = {
    "picture.png": load_image,
    "captions.json": read_captions,
    "pictures.zip": lambda path: list(list_files(str(path))),
    "shard.tar": lambda path: list(read_samples(str(path))),
    "shard.parquet": lambda path: list(read_samples(str(path))),
    "metadata.jsonl": lambda path: read_records(path.parent),
    "metrics.json": read_json,
    "tokenizer.json": CaptionTokenizer.load,
    "settings.toml": lambda path: parse_config(["--config", str(path)]),
    "config.json": lambda path: load_config(str(path.parent)),
}


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_is_refused_and_not_waited_for(
    tmp_path: Path, name: str, kind: str
) -> None:
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"it is a|is missing|no folder with a config\.json"):
        READERS[name](path)


def test_every_kind_has_its_name(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "socket"))
    os.mkfifo(tmp_path / "pipe")
    kinds = {
        "pipe": "a named pipe",
        "socket": "a socket",
        ".": "a folder",
        "/dev/null": "a device",
    }
    for name, kind in kinds.items():
        with pytest.raises(OSError, match=f"it is {kind}, no file"):
            open_regular(tmp_path / name)
    with pytest.raises(OSError, match="its name is none"):
        open_regular("a\0b")
    (tmp_path / "file").write_bytes(b"12345")
    assert read_regular(tmp_path / "file", most_bytes=5) == b"12345"
    with pytest.raises(OSError, match="it has 5 bytes, and 4 are the most"):
        read_regular(tmp_path / "file", most_bytes=4)


def test_leftovers_of_killed_writers_go_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "kept.json", "{}")
    (tmp_path / f".{'0a' * 8}.tmp").write_text("half")
    (tmp_path / ".mine.tmp").write_text("kept")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.tmp", "kept.json"]
