"""Pictures with their captions as batches, in an order that is a function of seed and epoch.

`plan_epoch` decides which captions share a step; `CaptionDataset` holds their token ids;
`collate_fn` lays the tokens of a step side by side without padding; `PreparedSteps` gives the steps
of an epoch. Where the pictures' features come from is another module's matter: a `Batch` asks a
`PictureRows` for them.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from captioning.sources.records import Record
from captioning.store.rows import PictureRows
from captioning.store.views import TrainingPictures
from captioning.system.errors import UserError
from captioning.system.runtime import Runtime
from captioning.system.stopping import set_up_worker
from captioning.training.packing import Ints, Packing, pack_captions, ranges
from tokenizer import CaptionTokenizer

NO_TOKEN = -1
"""The target of a token that counts for nothing."""
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Batch:
    """B pictures and N tokens of their captions; `packing` tells which token is whose."""

    picture_rows: Tensor
    """(B,) row number of each picture in its split."""
    content: Tensor
    """(B, P, F) features, or (B, 3, H, W) uint8 pixels."""
    inputs: Tensor
    """(N,) the tokens that the decoder reads."""
    targets: Tensor
    """(N,) the tokens that follow them."""
    positions: Tensor
    """(N,) each token's place in its caption."""
    packing: Packing
    num_captions: int
    """Captions to compute: R of people, or as many as are sampled."""

    @property
    def num_tokens(self) -> int:
        """N, the tokens to predict."""
        return self.targets.numel()

    @property
    def shape(self) -> tuple[object, ...]:
        """What decides which kernels compute it."""
        packing = self.packing
        return self.content.shape, self.content.dtype, packing.rows, packing.length, self.num_tokens

    def rounded_up(self) -> "Batch":
        """The same batch in one of few shapes: with more pictures, tokens and room for them.

        What is added counts for nothing: pictures of zeros without a caption, and tokens without a
        target, each after the last of a caption, so that none of a caption sees it.
        """
        packing, pictures = self.packing, len(self.picture_rows)
        assert packing.slots is not None
        more = -pictures % 4
        rows = packing.rows // pictures * (pictures + more)
        length = packing.length + -packing.length % 8
        row = torch.div(packing.slots, packing.length, rounding_mode="floor")
        slots = packing.slots + row * (length - packing.length)
        is_free = torch.ones(rows * length, dtype=torch.bool)
        is_free[slots] = False
        unit = 2 ** max(self.num_tokens.bit_length() - 5, 0)  # a sixteenth at most
        free = is_free.nonzero()[: -self.num_tokens % unit, 0]
        added = (0, len(free))
        return Batch(
            picture_rows=F.pad(self.picture_rows, (0, more)),
            content=F.pad(self.content, (*(0, 0) * (self.content.dim() - 1), 0, more)),
            inputs=F.pad(self.inputs, added),
            targets=F.pad(self.targets, added, value=NO_TOKEN),
            positions=F.pad(self.positions, added),
            packing=Packing(rows, length, torch.cat([slots, free])),
            num_captions=self.num_captions,
        )

    def copy_(self, other: "Batch") -> None:
        """Take over the numbers of another batch of the same shape."""
        for mine, its in zip(self._tensors, other._tensors, strict=True):
            mine.copy_(its, non_blocking=True)

    @property
    def _tensors(self) -> tuple[Tensor, ...]:
        slots = self.packing.slots
        assert slots is not None
        tensors = (self.picture_rows, self.content, self.inputs, self.targets, self.positions)
        return (*tensors, slots)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`; the copy does not wait where memory is pinned."""
        if self.content.device == device and self.inputs.device == device:
            return self
        return Batch(
            picture_rows=self.picture_rows.to(device, non_blocking=True),
            content=self.content.to(device, non_blocking=True),
            inputs=self.inputs.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
            positions=self.positions.to(device, non_blocking=True),
            packing=self.packing.to(device),
            num_captions=self.num_captions,
        )


@dataclass(frozen=True)
class Step:
    """What this process computes of a step, and the size of the whole."""

    batches: list[Batch]
    """Batches whose gradients are added up; at least one."""
    num_tokens: int
    """Tokens to predict, over all processes."""
    num_captions: int
    """Captions, over all processes."""
    weight: float = 1.0
    """What the batches count: 0 where others have it all, and this is done to keep step."""


@dataclass(frozen=True)
class Plan:
    """Which captions of which pictures share a step. A group is captions of one picture."""

    pictures: Ints
    """(G,) the picture of each group."""
    captions: Ints
    """(C,) caption numbers, group after group."""
    group_starts: Ints
    """(G + 1,) where each group begins in `captions`."""
    step_starts: Ints
    """(S + 1,) where each step begins among the groups."""
    samples: int = 0
    """Captions that are sampled of each picture, which then are what a step computes (0 = none)."""

    def sizes(self, groups: slice | Ints) -> Ints:
        """Captions to compute of each of some groups."""
        sizes = self.group_starts[1:][groups] - self.group_starts[:-1][groups]
        return np.full_like(sizes, self.samples) if self.samples else sizes

    def __len__(self) -> int:
        return len(self.step_starts) - 1

    def groups(self, step: int) -> slice:
        """The groups of a step."""
        return slice(int(self.step_starts[step]), int(self.step_starts[step + 1]))


def plan_epoch(
    captions_per_picture: Sequence[int] | Ints,
    *,
    batch_size: int,
    captions_per_step: int = 0,
    samples: int = 0,
    seed: int | None = None,
    epoch: int = 0,
) -> Plan:
    """Deal out every caption exactly once, at most `batch_size` a step.

    A picture's captions stay together, at most `captions_per_step` of them (0 = all). With a `seed`
    the order is a function of (seed, epoch) alone; without one it is the order of the records.
    Where captions are sampled, so many of each picture count instead of its own.
    """
    counts = np.asarray(captions_per_picture, dtype=np.int64)
    together = min(captions_per_step or batch_size, batch_size)
    if samples:  # a picture's own captions are what its samples are compared with
        together = max(1, int(counts.max(initial=0)))
    picture_of_caption = np.repeat(np.arange(len(counts)), counts)
    captions = np.arange(len(picture_of_caption))
    generator = np.random.default_rng([seed, epoch]) if seed is not None else None
    if generator is not None:
        captions = np.lexsort((generator.random(len(captions)), picture_of_caption))
    first_caption = np.cumsum(counts) - counts
    place = np.arange(len(captions)) - first_caption[picture_of_caption]
    starts = np.flatnonzero(place % together == 0)
    sizes = np.diff(starts, append=len(captions))
    pictures = picture_of_caption[starts]
    if generator is not None:
        order = generator.permutation(len(starts))
        captions = captions[ranges(starts[order], sizes[order])]
        sizes, pictures = sizes[order], pictures[order]
    group_starts = np.concatenate([[0], np.cumsum(sizes)])
    computed = np.full_like(sizes, samples) if samples else sizes
    return Plan(pictures, captions, group_starts, _fill(computed, batch_size), samples)


def _fill(sizes: Ints, batch_size: int) -> Ints:
    """Where steps begin when groups are taken in order while they fit; one too large stands
    alone."""
    starts, filled = [0], 0
    for group, size in enumerate(sizes.tolist()):
        if filled and filled + size > batch_size:
            starts.append(group)
            filled = 0
        filled += size
    return np.array([*starts, len(sizes)] if len(sizes) else [0])


class CaptionDataset:
    """The captions of a split as token ids, in two flat arrays."""

    def __init__(
        self,
        records: Sequence[Record],
        tokenizer: CaptionTokenizer,
        max_length: int,
        *,
        mirrored: Sequence[Record] = (),
    ) -> None:
        """Encode every caption, cut to `max_length` ids.

        `mirrored` are the same records with the captions that their mirrored pictures have.
        """
        self.captions_per_picture = np.array([len(record.captions) for record in records], np.int64)
        texts = [caption for record in (*records, *mirrored) for caption in record.captions]
        encoded = tokenizer.encode_all(texts)
        self.longest = max(map(len, encoded), default=0)
        """Ids of the longest caption before any was cut."""
        self.num_cut = sum(len(ids) > max_length for ids in encoded[: self.num_captions])
        """Captions of which `max_length` ids are kept, and no <END>."""
        encoded = [ids[:max_length] for ids in encoded]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        flat = itertools.chain.from_iterable(encoded)
        self._ids = np.fromiter(flat, np.int32, int(lengths.sum()))
        self._starts = np.concatenate([[0], np.cumsum(lengths)])

    @property
    def num_captions(self) -> int:
        """Captions of the split."""
        return int(self.captions_per_picture.sum())

    def mirror(self, plan: Plan, flipped: Flags) -> Plan:
        """The same plan, in which pictures that are `flipped` (N,) have their mirrored captions."""
        is_flipped = np.repeat(flipped[plan.pictures], np.diff(plan.group_starts))
        return replace(plan, captions=plan.captions + self.num_captions * is_flipped)

    def plan(
        self,
        batch_size: int,
        *,
        captions_per_step: int = 0,
        samples: int = 0,
        seed: int | None = None,
        epoch: int = 0,
    ) -> Plan:
        """`plan_epoch` over this split's captions."""
        return plan_epoch(
            self.captions_per_picture,
            batch_size=batch_size,
            captions_per_step=captions_per_step,
            samples=samples,
            seed=seed,
            epoch=epoch,
        )

    def tokens(self, plan: Plan, groups: slice) -> Ints:
        """Tokens to predict of each group."""
        bounds = plan.group_starts[groups.start : groups.stop + 1]
        captions = plan.captions[bounds[0] : bounds[-1]]
        lengths = self._starts[captions + 1] - self._starts[captions] - 1
        return np.add.reduceat(lengths, bounds[:-1] - bounds[0])

    def collate_fn(self, plan: Plan, groups: slice | Ints, pictures: PictureRows) -> Batch:
        """The groups of a plan, a range or single ones, as one `Batch`."""
        rows = torch.from_numpy(plan.pictures[groups].astype(np.int64))
        starts, stops = plan.group_starts[:-1][groups], plan.group_starts[1:][groups]
        sizes = stops - starts
        captions = plan.captions[ranges(starts, sizes)]
        lengths = self._starts[captions + 1] - self._starts[captions] - 1
        tokens = ranges(self._starts[captions], lengths)
        positions = ranges(np.zeros(len(captions), np.int64), lengths)
        return Batch(
            picture_rows=rows,
            content=pictures.rows(rows),
            inputs=torch.from_numpy(self._ids[tokens].astype(np.int64)),
            targets=torch.from_numpy(self._ids[tokens + 1].astype(np.int64)),
            positions=torch.from_numpy(positions),
            packing=pack_captions(sizes, lengths),
            num_captions=int(plan.sizes(groups).sum()),
        )


class StepDataset(Dataset[Step | UserError]):
    """Item s is step s of a plan, or this process's share of it.

    For pictures that cannot be read it is the error; raised by a worker process it would arrive
    wrapped in that worker's traceback.
    """

    def __init__(
        self,
        captions: CaptionDataset,
        plan: Plan,
        pictures: PictureRows,
        micro_batch_size: int = 0,
        share: Callable[[Ints], Sequence[int]] | None = None,
    ) -> None:
        """`micro_batch_size` is the captions of a batch at most (0 = all of a step in one); `share`
        gives, of the tokens of a step's groups, the numbers of this process's (None = all)."""
        self._captions, self._plan, self._pictures = captions, plan, pictures
        self._micro_batch_size, self._share = micro_batch_size, share

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, number: int) -> Step | UserError:
        try:
            return self._step(number)
        except UserError as error:
            return error

    def _step(self, number: int) -> Step:
        groups = self._plan.groups(number)
        tokens = self._captions.tokens(self._plan, groups)
        sizes = self._plan.sizes(groups)
        share = list(self._share(tokens) if self._share else range(len(tokens)))
        chosen = np.array(share or [int(tokens.argmin())])
        bounds = _fill(sizes[chosen], self._micro_batch_size or int(sizes.sum()))
        batches = [
            self._captions.collate_fn(self._plan, groups.start + chosen[start:stop], self._pictures)
            for start, stop in itertools.pairwise(bounds)
        ]
        return Step(batches, int(tokens.sum()), int(sizes.sum()), weight=1.0 if share else 0.0)


def iterate_steps(steps: StepDataset, *, first: int = 0, num_workers: int = 0) -> Iterator[Step]:
    """Steps `first`, `first + 1`, ... of a plan, made ahead of time by `num_workers` processes.

    Raises `UserError` for a picture that cannot be read.
    """
    loader = DataLoader(
        steps,
        sampler=range(first, len(steps)),
        batch_size=None,
        num_workers=num_workers,
        worker_init_fn=set_up_worker,
        generator=torch.Generator(),  # the loader's own draw leaves the global state alone
    )
    for step in loader:
        if isinstance(step, UserError):
            raise step
        yield step


@dataclass(frozen=True)
class Split:
    """A split, ready to be measured with."""

    records: Sequence[Record]
    captions: CaptionDataset
    pictures: PictureRows


@dataclass
class PreparedSteps:
    """The steps of a prepared split: each caption once an epoch, in an order of (seed, epoch)."""

    records: Sequence[Record]
    captions: CaptionDataset
    pictures: TrainingPictures
    runtime: Runtime
    batch_size: int
    seed: int
    captions_per_step: int = 0
    samples: int = 0
    """Captions that are sampled of each picture (0 = its own are trained on)."""
    num_workers: int = 0
    """Processes that read pictures ahead of time, where that takes time."""
    _newest: tuple[int, Plan] | None = field(default=None, init=False)

    def sampling(self, samples: int) -> "PreparedSteps":
        """The same pictures, so many captions of each to be sampled."""
        return replace(self, samples=samples)

    def length(self, epoch: int) -> int:
        """Steps of epoch 0, 1, ..."""
        return len(self._plan(epoch))

    def iterate(self, epoch: int, first: int = 0, *, micro_batch_size: int = 0) -> Iterator[Step]:
        """The steps of an epoch from `first` on, or this process's share of them.

        `micro_batch_size` is the captions of a batch at most (0 = all of a step in one). Raises
        `UserError` for an unreadable picture.
        """
        plan, seen = self._plan(epoch), self.pictures.in_epoch(epoch)
        if seen.flipped is not None and seen.flipped.any():
            plan = self.captions.mirror(plan, seen.flipped)
        steps = StepDataset(
            self.captions, plan, seen.rows, micro_batch_size, self.runtime.fair_share
        )
        workers = self.num_workers if seen.takes_time else 0
        return iterate_steps(steps, first=first, num_workers=workers)

    def names(self, epoch: int, step: int) -> list[str]:
        """File names of a step's pictures, for a message."""
        plan = self._plan(epoch)
        pictures = plan.pictures[plan.groups(step)]
        return [self.records[picture].image.name for picture in pictures]

    def position(self) -> str:
        """What a checkpoint keeps besides epoch and step: nothing, a plan is a function of both."""
        return ""

    def _plan(self, epoch: int) -> Plan:
        """The plan of an epoch, made once however often it is asked for."""
        if self._newest is None or self._newest[0] != epoch:
            plan = self.captions.plan(
                self.batch_size,
                captions_per_step=self.captions_per_step,
                samples=self.samples,
                seed=self.seed,
                epoch=epoch,
            )
            self._newest = (epoch, plan)
        return self._newest[1]


@dataclass(frozen=True)
class _Held:
    """Contents in memory."""

    content: Tensor

    def rows(self, indices: Tensor) -> Tensor:
        return self.content[indices]


def step_of(
    records: Sequence[Record],
    content: Tensor,
    batch_size: int,
    micro_batch_size: int = 0,
    samples: int = 0,
    *,
    tokenizer: CaptionTokenizer,
    max_length: int,
    runtime: Runtime,
) -> Step:
    """One step of pictures that pass in a stream, `batch_size` captions at most in this process,
    or `samples` of each picture.

    `content` is (B, 3, H, W) uint8 pixels or (B, P, F) features. The other processes make their
    parts of the same step at the same time.
    """
    captions = CaptionDataset(records, tokenizer, max_length)
    plan = captions.plan(max(batch_size, samples * len(records)), samples=samples)
    step = StepDataset(captions, plan, _Held(content), micro_batch_size)[0]
    assert isinstance(step, Step)
    totals = torch.tensor([step.num_tokens, step.num_captions])
    num_tokens, num_captions = runtime.sum_over_processes(totals).tolist()
    return replace(step, num_tokens=num_tokens, num_captions=num_captions)
