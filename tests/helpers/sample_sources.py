"""Small sources to prepare, and what came of them."""

import hashlib
import io
import random
import zipfile
from pathlib import Path

from PIL import Image

from captioning.sources.records import SPLITS, read_records
from config import Config


def picture_bytes(seed: int, form: str = "JPEG", size: tuple[int, int] = (24, 16)) -> bytes:
    noise = random.Random(seed).randbytes(3 * size[0] * size[1])
    buffer = io.BytesIO()
    Image.frombytes("RGB", size, noise).save(buffer, form)
    return buffer.getvalue()


def make_source(folder: Path, count: int = 20, captions: int = 2) -> Path:
    """`folder`/images with pictures and `folder`/captions.csv."""
    (folder / "images").mkdir(parents=True)
    for i in range(count):
        (folder / "images" / f"{i:03d}.jpg").write_bytes(picture_bytes(i))
    rows = [f"{i:03d}.jpg,Caption {j} of {i}." for i in range(count) for j in range(captions)]
    (folder / "captions.csv").write_text("image,caption\n" + "\n".join(rows) + "\n")
    return folder


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def config_for(folder: Path, **settings: object) -> Config:
    """Own pictures in `folder`, prepared beneath it."""
    given = {
        "DATASET": "mine",
        "DATA_DIR": str(folder / "data"),
        "IMAGE_DIR": str(folder / "images"),
        "CAPTIONS_FILE": str(folder / "captions.csv"),
        "NUM_WORKERS": 2,
    }
    return Config(**{**given, **settings})


def hub_config(folder: Path, source: Path, **settings: object) -> Config:
    given = {
        "DATASET": "flickr30k",
        "DATASET_SOURCE": str(source),
        "DATA_DIR": str(folder / "data"),
    }
    return Config(**{**given, **settings})


def splits_of(config: Config) -> dict[str, dict[str, tuple[str, ...]]]:
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for split in SPLITS:
        if (config.dataset_dir / split).exists():
            records = read_records(config.dataset_dir / split)
            assert all(record.image.is_file() for record in records)
            found[split] = {record.image.name: record.captions for record in records}
    return found


def problems_of(folder: Path) -> list[list[str]]:
    lines = (folder / "problems.tsv").read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines[1:]]


def assert_no_picture_in_two_splits(folder: Path) -> None:
    home: dict[str, str] = {}
    for split in SPLITS:
        for path in (folder / split).glob("*"):
            if path.name != "metadata.jsonl":
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                assert home.setdefault(digest, split) == split
