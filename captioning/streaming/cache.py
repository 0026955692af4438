"""Features of what passes in a stream, kept on disk block by block.

    <folder>/<shard>/<first>.block    features of a block's good pictures, one after another, raw;
                                      its samples as JSON; the length of that, 8 bytes

A kept block is neither fetched, decoded nor encoded again. Every block is encoded in the order in
which it lies in its shard, the same pictures together, whether there is room to keep it or not: in
each pass, and whatever was kept before, a picture's features are the same bits.
"""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
import struct
import sys
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile, _TemporaryFileWrapper
from typing import IO

import numpy as np
import torch
from torch import Tensor

from captioning.store.building import RowMaker, WritesBehind
from captioning.streaming.lanes import BLOCK_BYTES, BLOCK_SAMPLES, Block, read_blocks
from captioning.streaming.prepared_parts import file_of
from captioning.streaming.shards import REMOTE, StreamedSample
from captioning.system.errors import UserError
from captioning.system.files import own_file, refuse_links

ENCODED_TOGETHER = 64
"""Pictures of a block; the same on every device."""
PART_SUFFIX = ".part"
LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class KeptBlocks:
    """The blocks in a folder, as the processes that read shards see them."""

    folder: Path
    row_bytes: int

    def read(self, shard: str, first: int) -> Iterator[Block]:
        """The blocks of a shard from sample `first` on; kept ones come without their pictures."""
        shard_blocks: Iterator[Block] = iter(())
        is_reading = False
        while True:
            block = self._kept(shard, first)
            if block is not None:
                is_reading = False
            else:
                if not is_reading:
                    shard_blocks, is_reading = read_blocks(shard, first), True
                block = next(shard_blocks, None)
            if block is None:
                return
            yield block
            if block.ends_shard:
                return
            first += len(block.samples)

    def path(self, shard: str, first: int) -> Path:
        """The file of a block."""
        marks = [shard, BLOCK_SAMPLES, BLOCK_BYTES, ENCODED_TOGETHER]
        if REMOTE not in shard:
            try:
                status = os.stat(file_of(shard))
            except OSError as error:
                raise UserError(f"{shard} cannot be read: {error.strerror}.") from None
            marks += [status.st_size, status.st_mtime_ns]
        name = hashlib.sha256(json.dumps(marks).encode()).hexdigest()[:24]
        return self.folder / name / f"{first:08d}.block"

    def _kept(self, shard: str, first: int) -> Block | None:
        path = self.path(shard, first)
        samples: list[StreamedSample] = []
        try:
            with open(path, "rb", opener=own_file) as file:
                samples, ends_shard, rows_bytes = _read_end(file)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, struct.error):
            rows_bytes, ends_shard = -1, False
        if rows_bytes != self.row_bytes * sum(not sample.problem for sample in samples):
            raise UserError(f"{path} is damaged. Remove it, and it will be made again.")
        return Block(shard, first, samples, ends_shard, is_kept=True)


class StreamFeatures:
    """Makes blocks of features, and opens them, in a process that trains."""

    def __init__(self, folder: Path, maker: RowMaker, limit_bytes: int) -> None:
        """What is in `folder` may grow to `limit_bytes`, over all processes."""
        runtime = maker.runtime
        self._maker = maker
        self.kept = KeptBlocks(folder, math.prod(maker.row_shape) * maker.dtype.itemsize)
        room = runtime.on_main(lambda: _room_in(folder, limit_bytes))
        self._room = max(0, room // runtime.world_size)
        self._is_full = False
        self._writes = WritesBehind()

    def writer(self, shard: str, first: int) -> "BlockWriter":
        """What encodes a block, of which the pictures arrive little by little."""
        return BlockWriter(self, shard, first)

    def open(self, block: Block) -> Tensor:
        """The features (n, P, F) of a kept block's good pictures, on disk until they are used."""
        with open(self.kept.path(block.shard, block.first), "rb", opener=own_file) as file:
            return self.rows_in(file, sum(not sample.problem for sample in block.samples))

    def rows_in(self, file: IO[bytes], count: int) -> Tensor:
        """The first rows of an open file, which may be closed and removed meanwhile."""
        shape, dtype = (count, *self._maker.row_shape), self._maker.dtype
        if not count:  # nothing cannot be mapped
            return torch.empty(shape, dtype=dtype)
        # "c" is for copy-on-write: nobody writes, but torch wants that one could.
        raw = np.memmap(file, np.uint8, "c", shape=(count * self.kept.row_bytes,))
        return torch.from_numpy(raw).view(dtype).view(shape)

    def encode(self, pixels: Sequence[Tensor], names: Sequence[str]) -> bytes:
        """The features of a block's next pictures, as they are stored."""
        return self._maker.to_bytes(self._maker.rows([torch.stack(list(pixels))]), names)

    def keep(self, block: "BlockWriter", nbytes: int) -> None:
        """Let a whole block get its name once it has reached the disk, if there is room for it."""
        if block.path.exists():  # two passes of a short stream may make the same
            return
        if nbytes <= self._room:
            self._room -= nbytes
            self._writes.submit(block.publish)
            return
        if not self._is_full:
            self._is_full = True
            print(
                f"FEATURE_CACHE is used up by {self.kept.folder}; what is not in there is "
                "encoded each time it passes.",
                file=sys.stderr,
            )


class BlockWriter:
    """Encodes a block into a file, which gets its name when it is whole."""

    def __init__(self, features: StreamFeatures, shard: str, first: int) -> None:
        self._features = features
        self.path = features.kept.path(shard, first)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = NamedTemporaryFile(  # noqa: SIM115 - `_let_go` closes it
            dir=self.path.parent, suffix=PART_SUFFIX, delete=False
        )
        # A part that nobody holds any more, for its run was killed, is removed by the next.
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        weakref.finalize(self, _let_go, self._file)
        self._waiting: list[tuple[Tensor, str]] = []
        self._count = 0

    def add(self, pixels: Tensor, names: Sequence[str]) -> None:
        """The next good pictures of the block: uint8 (n, 3, H, W)."""
        self._waiting += zip(pixels, names, strict=True)
        while len(self._waiting) >= ENCODED_TOGETHER:
            self._encode()

    def finish(self, block: Block) -> Tensor:
        """The features (n, P, F) of the whole block, which is kept if there is room for it."""
        if self._waiting:
            self._encode()
        samples = [
            [sample.name, sample.captions, sample.digest.hex(), sample.problem]
            for sample in block.samples
        ]
        end = json.dumps({"samples": samples, "ends_shard": block.ends_shard}).encode()
        self._file.write(end + LENGTH.pack(len(end)))
        self._file.flush()
        rows = self._features.rows_in(self._file.file, self._count)
        self._features.keep(self, rows.nbytes + len(end))
        return rows

    def publish(self) -> None:
        """Give the file its name."""
        os.fsync(self._file.fileno())
        os.replace(self._file.name, self.path)

    def _encode(self) -> None:
        pixels, names = zip(*self._waiting[:ENCODED_TOGETHER], strict=True)
        del self._waiting[:ENCODED_TOGETHER]
        self._file.write(self._features.encode(pixels, names))
        self._count += len(names)


def _let_go(file: "_TemporaryFileWrapper[bytes]") -> None:
    """Close the file of a block, and remove it unless it got its name."""
    file.close()
    Path(file.name).unlink(missing_ok=True)


def _read_end(file: IO[bytes]) -> tuple[list[StreamedSample], bool, int]:
    """What stands behind the rows of a block, and how many bytes stand before it."""
    end = file.seek(-LENGTH.size, os.SEEK_END)
    (length,) = LENGTH.unpack(file.read())
    if length > end:
        raise ValueError("longer than its file")
    rows_bytes = file.seek(end - length)
    found = json.loads(file.read(length))
    samples = [
        StreamedSample(name, b"", tuple(captions), bytes.fromhex(digest), problem)
        for name, captions, digest, problem in found["samples"]
    ]
    return samples, bool(found["ends_shard"]), rows_bytes


def _room_in(folder: Path, limit_bytes: int) -> int:
    """How much may still be kept; removes what runs that were killed have begun."""
    folder.mkdir(parents=True, exist_ok=True)
    refuse_links(folder)
    for part in folder.glob(f"*/*{PART_SUFFIX}"):
        with (
            contextlib.suppress(FileNotFoundError, BlockingIOError),
            open(part, "r+b", opener=own_file) as file,
        ):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()
    room = limit_bytes - sum(path.stat().st_size for path in folder.glob("*/*.block"))
    free = shutil.disk_usage(folder).free
    if room > free:
        raise UserError(
            f"FEATURE_CACHE is {limit_bytes / 1e9:g}GB, of which {room / 1e9:.1f} GB are left to "
            f"fill, but {folder} has {free / 1e9:.1f} GB free. Lower it, or choose another "
            "--DATA_DIR."
        )
    return room
