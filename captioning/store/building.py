"""Fills a store: decodes each picture once, in worker processes, and encodes it meanwhile.

Reads pictures, writes the files that `files.py` describes. Batches are cut the same way
however often a build is interrupted and however many processes share it, so that the rows are the
same, byte for byte.

JPEG draft mode (decoding at 1/2, 1/4 or 1/8 of the size) is not used, for it gives other pixels
than the image processor does: on 24 photographs enlarged to about 600 pixels, reduced to 224, by
0.4 levels of 255 on average and 31 at most, which changed features (CLIP-B/32, random weights) by
1.1 %. At Flickr's usual size, 500 x 375, it does not even apply.
"""

import hashlib
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from captioning.store.files import RowWriter, StoreContent, StoreFiles, digest_pictures
from captioning.store.rows import FeatureStore, LivePictures
from captioning.system.errors import UserError
from captioning.system.progress import Progress
from captioning.system.runtime import Runtime
from captioning.system.stopping import set_up_worker
from captioning.vision.augmentation import Draws
from captioning.vision.tower import VisionTower

Contents = Literal["features", "pixels"]

PIECE_ROWS = 16
"""Pictures that a worker hands over at a time: a few MB of shared memory."""
WAITING_WRITES = 3
"""Batches that may wait to be written while others are encoded."""


class WritesBehind:
    """Writes in a thread of their own, in turn, while what comes next is made; few may wait."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> "WritesBehind":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def submit(self, write: Callable[[], None]) -> None:
        """Call `write` when its turn comes. Raises the error of an earlier one."""
        self._waiting.append(self._thread.submit(write))
        self.finish(WAITING_WRITES)

    def finish(self, most: int = 0) -> None:
        """Wait until at most so many are left. Raises their errors."""
        while len(self._waiting) > most:
            self._waiting.popleft().result()


class RowMaker:
    """Makes the rows of a store from pixels: features of a frozen encoder, or the pixels
    themselves, for an encoder that is trained."""

    def __init__(
        self,
        encoder: VisionTower,
        runtime: Runtime,
        *,
        contents: Contents = "features",
        dtype: torch.dtype = torch.float16,
    ) -> None:
        """`dtype` is that of stored features.

        Half precision is float16: it changes features (CLIP-B/32, random weights) by 0.02 %,
        bfloat16 by 0.17 %. What exceeds its largest number, 65,504, is refused.
        """
        self.runtime, self.contents = runtime, contents
        self.preprocessor = encoder.preprocessor
        self.dtype = dtype if contents == "features" else torch.uint8
        self._encoder = encoder

    @cached_property
    def source(self) -> str:
        """Fingerprint of what decides the rows besides the pictures."""
        if self.contents == "features":
            return self._encoder.fingerprint()
        return hashlib.sha256(self.preprocessor.behaviour()).hexdigest()

    @property
    def key(self) -> str:
        """Short for all that decides the rows besides the pictures."""
        parts = [self.contents, self.source, self._arithmetic, _dtype_name(self.dtype)]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    @property
    def name(self) -> str:
        """The encoder's name, for messages."""
        return self._encoder.name

    @property
    def _arithmetic(self) -> str:
        return _dtype_name(self.runtime.dtype if self.contents == "features" else torch.uint8)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """(P, F) of features, (3, H, W) of pixels."""
        if self.contents == "features":
            return (self._encoder.num_tokens, self._encoder.feature_dim)
        return (3, *self.preprocessor.size)

    def content(self, images: Sequence[Path], draws: Draws | None = None) -> StoreContent:
        """What a store of these pictures, altered as drawn, holds."""
        return StoreContent(
            contents=self.contents,
            source=self.source if draws is None else _with_draws(self.source, draws),
            arithmetic=self._arithmetic,
            dtype=_dtype_name(self.dtype),
            row_shape=self.row_shape,
            rows=len(images),
            chunk_digests=digest_pictures(images),
        )

    @torch.inference_mode()
    def rows(self, pieces: Sequence[Tensor]) -> Tensor:
        """Uint8 pixels (b, 3, H, W), piece after piece -> (B, P, F) or (B, 3, H, W) rows."""
        if self.contents == "pixels":
            return torch.cat(list(pieces))
        device = self.runtime.device
        pixels = torch.cat([piece.to(device, non_blocking=True) for piece in pieces])
        with self.runtime.autocast():
            features: Tensor = self._encoder(pixels)
        return features.to(self.dtype)

    def to_bytes(self, rows: Tensor, pictures: Sequence[Path | str]) -> bytes:
        """Rows as they are stored; `UserError` names the picture of one that is no numbers."""
        if rows.is_floating_point():
            is_good = rows.isfinite().flatten(1).all(1)
            if not is_good.all():
                picture = pictures[int(is_good.int().argmin())]
                raise UserError(
                    f"{self._encoder.name} gives features of {picture} that are no numbers, "
                    f"or larger than {_dtype_name(rows.dtype)} can hold. Try "
                    "--PRECISION fp32, or --FEATURE_CACHE off"
                )
        return rows.cpu().contiguous().view(torch.uint8).numpy().tobytes()


def build_features(
    images: Sequence[Path],
    maker: RowMaker,
    folder: Path,
    *,
    label: str,
    num_workers: int,
    batch_size: int,
    draws: Draws | None = None,
) -> FeatureStore:
    """The store of `images` in `folder`, of which all that is missing is made first.

    `draws` say how they are altered, if they are. Several processes share the work. Raises
    `UserError` for a picture that cannot be read; what is done by then is kept.
    """
    files, runtime = StoreFiles(folder, label), maker.runtime
    content = maker.content(images, draws)
    pictures = LivePictures(images, maker.preprocessor, draws.alter if draws else None)
    with ExitStack() as held:
        if runtime.is_main and not files.is_whole(content):
            held.enter_context(files.locked())
            if not files.is_whole(content):
                print(files.begin(content), file=sys.stderr)
        runtime.barrier()
        if not files.is_whole(content):
            _fill(
                files,
                content,
                images,
                pictures,
                maker,
                num_workers=num_workers,
                batch_size=batch_size,
            )
            runtime.barrier()
            if runtime.is_main:
                files.finish(content)
        runtime.barrier()
        return FeatureStore(files.rows, content, runtime.device)


def _fill(
    files: StoreFiles,
    content: StoreContent,
    images: Sequence[Path],
    pictures: LivePictures,
    maker: RowMaker,
    *,
    num_workers: int,
    batch_size: int,
) -> None:
    """Make this process's share of the chunks that are missing."""
    runtime = maker.runtime
    chunks = [content.chunk(number) for number in runtime.shared(files.missing_chunks(content))]
    runtime.barrier()  # nobody notes a chunk as done before all have read what is missing
    batches = [batch for chunk in chunks for batch in _cut(chunk, batch_size)]
    decoded = _decode(pictures, batches, num_workers, runtime)
    with (
        files.writing(content) as writer,
        WritesBehind() as writes,
        Progress(files.label, sum(map(len, chunks)), is_shown=runtime.is_main) as progress,
    ):
        for batch, pieces in zip(batches, decoded, strict=True):
            rows = maker.rows(pieces)
            writes.submit(partial(_write, writer, maker, images, batch.start, rows))
            progress.advance(len(batch))
        writes.finish()


def _write(
    writer: RowWriter, maker: RowMaker, images: Sequence[Path], first: int, rows: Tensor
) -> None:
    writer.write(first, maker.to_bytes(rows, images[first : first + len(rows)]))


class _Pieces(Dataset[Tensor | str]):
    """Pixels of ranges of pictures; for one that cannot be read, the reason."""

    def __init__(self, pictures: LivePictures, ranges: Sequence[range]) -> None:
        self._pictures, self._ranges = pictures, ranges

    def __len__(self) -> int:
        return len(self._ranges)

    def __getitem__(self, number: int) -> Tensor | str:
        try:
            return self._pictures.rows(torch.tensor(self._ranges[number]))
        except UserError as error:  # raised by a worker it would bring its traceback along
            return str(error)


def _decode(
    pictures: LivePictures, batches: Sequence[range], num_workers: int, runtime: Runtime
) -> Iterator[list[Tensor]]:
    """The pixels of each batch, in pieces, made ahead of time by `num_workers` processes."""
    pieces = [piece for batch in batches for piece in _cut(batch, PIECE_ROWS)]
    ahead = max((len(batch) for batch in batches), default=1) * 2
    loader = iter(
        DataLoader(
            _Pieces(pictures, pieces),
            batch_size=None,
            num_workers=num_workers,
            worker_init_fn=set_up_worker,
            prefetch_factor=max(2, -(-ahead // (PIECE_ROWS * num_workers)))
            if num_workers
            else None,
            pin_memory=runtime.device.type == "cuda",
            generator=torch.Generator(),  # the loader's own draw leaves the global state alone
        )
    )
    for batch in batches:
        found: list[Tensor] = []
        for _ in _cut(batch, PIECE_ROWS):
            piece = next(loader)
            if isinstance(piece, str):
                raise UserError(
                    f"{piece} Put a good copy there and give the same command again; it goes on "
                    "from here."
                )
            found.append(piece)
        yield found


def _cut(rows: range, size: int) -> list[range]:
    """Consecutive ranges of at most `size`."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _with_draws(source: str, draws: Draws) -> str:
    return hashlib.sha256(source.encode() + draws.to_bytes()).hexdigest()


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
