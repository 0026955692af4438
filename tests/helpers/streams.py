"""Shards made on the spot: small pictures, each of its own colours, in tars and Parquet files."""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor


def picture(number: int, size: int = 24) -> bytes:
    """A PNG that no other number has."""
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pixels(image: Image.Image) -> Tensor:
    """A picture's content (3, 24, 24); a crop is made as large as the others."""
    image = image if image.size == (24, 24) else image.resize((24, 24))
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def captions(number: int, count: int = 2) -> list[str]:
    """Captions that say their number."""
    return [f"picture {number} as person {person} sees it" for person in range(count)]


def write_tar(path: Path, members: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> Path:
    """A tar of named contents."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pairs = members.items() if isinstance(members, Mapping) else members
    with tarfile.open(path, "w") as archive:
        for name, content in pairs:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_webdataset(path: Path, numbers: Iterable[int], *, as_json: bool = False) -> Path:
    """A WebDataset shard: `key.png` with `key.txt`, a caption a line, or with `key.json`."""
    members: dict[str, bytes] = {}
    for number in numbers:
        members[f"{number:06d}.png"] = picture(number)
        if as_json:
            members[f"{number:06d}.json"] = json.dumps({"captions": captions(number)}).encode()
        else:
            members[f"{number:06d}.txt"] = "\n".join(captions(number)).encode()
    return write_tar(path, members)


def write_parquet(path: Path, numbers: Iterable[int], group: int = 7) -> Path:
    """A Parquet shard as the Hub has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"image": {"bytes": picture(n), "path": f"{n}.png"}, "captions": captions(n)}
        for n in numbers
    ]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return path


def write_shards(folder: Path, shards: int = 6, each: int = 10, first: int = 0) -> str:
    """Some tars under `folder`; returns the pattern that finds them."""
    for shard in range(shards):
        start = first + shard * each
        write_webdataset(folder / f"{shard:04d}.tar", range(start, start + each))
    return str(folder / "*.tar")
