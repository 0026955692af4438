"""How weights change: schedule, optimizer, objective, gradient, update.

Schedules are functions of the step alone. The gradient of a step is that of its loss per true
token, over all micro-batches and all processes: each process adds up the gradients of its own
batches, then `DistributedDataParallel` averages over the processes (FSDP does it for an encoder in
parts). The loss is divided by the tokens of the whole step (in self-critical training by its
samples), which every process knows from the plan, so that neither the number of processes nor how
a step is cut changes the gradient. A process that runs out of memory says so before the others wait
for its gradient; all then give the step up, with nothing changed. Nothing here but sampling waits
for the device: losses stay tensors.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from captioning import decoding
from captioning.decoding import Hypothesis, SearchOptions, TokenRules
from captioning.decoding.attention import KeysValues
from captioning.system.runtime import Runtime
from captioning.training.averaging import ProcessAverage
from captioning.training.packing import Packing
from captioning.training.recording import RecordedPasses
from captioning.training.reward import Written
from captioning.training.sharding import clip_gradients, is_sharded
from captioning.training.weight_average import WeightAverage
from captioning.vision.blocks import depths
from dataset import NO_TOKEN, Batch, Step
from encoder import VisionEncoder, encode
from model import CaptionModel, DecoderState
from tokenizer import CaptionTokenizer

Reward = Callable[[Sequence[Written], Sequence[Sequence[Written]]], NDArray[np.float64]]
"""The reward of each of N captions against the references of its picture; [N]."""


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to 1, then half a cosine to 0 (Loshchilov & Hutter, 2017)."""

    total_steps: int
    warmup_steps: int
    start_step: int = 0
    """Before it the factor is 0."""

    def factor(self, step: int) -> float:
        """What the peak learning rate is multiplied by in step 0, 1, ..."""
        if step < self.start_step:
            return 0.0
        total, step = self.total_steps - self.start_step, step - self.start_step
        warmup = min(self.warmup_steps, total // 10)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        share = (step - warmup) / max(total - warmup, 1)
        return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def build_optimizer(
    model: CaptionModel,
    encoder: VisionEncoder,
    *,
    learning_rate: float,
    encoder_learning_rate: float,
    encoder_layer_decay: float = 1.0,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
) -> torch.optim.AdamW:
    """AdamW; what `is_matrix` decays, nothing else does; the encoder has its own rate.

    Each block of the encoder has `encoder_layer_decay` times the rate of the one after it. Each
    group keeps its peak rate as `peak_lr`; `set_learning_rate` scales it.
    """
    groups = []
    for is_encoder, rate, named in (
        (False, learning_rate, dict(model.named_parameters())),
        *_encoder_parts(encoder, encoder_learning_rate, encoder_layer_decay),
    ):
        trained = [(name, p) for name, p in named.items() if p.requires_grad]
        decays = [p for name, p in trained if is_matrix(name, p)]
        others = [p for name, p in trained if not is_matrix(name, p)]
        for parameters, decay in ((decays, weight_decay), (others, 0.0)):
            if parameters:
                groups.append(
                    {
                        "params": parameters,
                        "lr": rate,
                        "peak_lr": rate,
                        "weight_decay": decay,
                        "is_encoder": is_encoder,
                    }
                )
    return torch.optim.AdamW(groups, betas=betas, eps=eps, fused=True)


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is the weight of a linear map, a convolution or a vocabulary.

    Vectors are not, nor are tables that are added to tokens: positions, a class token, a bias for
    each distance.
    """
    is_weight = name == "weight" or name.endswith(".weight")
    return is_weight and parameter.dim() >= 2 and "position_embedding" not in name


def _encoder_parts(
    encoder: VisionEncoder, rate: float, layer_decay: float
) -> list[tuple[bool, float, dict[str, nn.Parameter]]]:
    """The encoder's parameters by their peak rate, the last blocks first."""
    block_depths = depths(encoder.tower) if layer_decay != 1 else {}
    parts: dict[int, dict[str, nn.Parameter]] = {}
    for name, parameter in encoder.named_parameters():
        parts.setdefault(block_depths.get(parameter, 0), {})[name] = parameter
    return [(True, rate * layer_decay**depth, parts[depth]) for depth in sorted(parts)]


def set_learning_rate(
    optimizer: torch.optim.Optimizer, factor: float, encoder_factor: float | None = None
) -> float:
    """Set each group to `factor` of its peak, those of the encoder to `encoder_factor` (the same
    by default); returns the first group's rate."""
    for group in optimizer.param_groups:
        is_other = group["is_encoder"] and encoder_factor is not None
        group["lr"] = group["peak_lr"] * (encoder_factor if is_other else factor)
    return float(optimizer.param_groups[0]["lr"])


class BatchTooLargeError(Exception):
    """A batch did not fit into the memory of one of the processes; raised in all of them."""

    def __init__(self, num_captions: int) -> None:
        super().__init__(num_captions)
        self.num_captions = num_captions
        """Captions of that batch."""


def caption_loss(
    model: CaptionModel, features: Tensor, batch: Batch, label_smoothing: float
) -> Tensor:
    """Cross-entropy summed over the true tokens of a batch (Szegedy et al., 2016, smoothed)."""
    logits = model(features, batch.inputs, batch.positions, batch.packing)  # (N, V)
    return F.cross_entropy(
        logits.float(),
        batch.targets,
        ignore_index=NO_TOKEN,
        label_smoothing=label_smoothing,
        reduction="sum",
    )


class Losses(NamedTuple):
    """What an objective makes of a batch."""

    share: Tensor
    """The batch's share of the step's loss, to be differentiated."""
    total: Tensor
    """The sum that is logged, divided by the `count` of the steps."""


class Objective(Protocol):
    """What training lowers: a loss that is a mean over a step."""

    logged_as: str
    """What the log calls its mean."""

    def count(self, step: Step) -> int:
        """What the mean is over: tokens, or captions, of all processes."""

    def __call__(self, model: CaptionModel, features: Tensor, batch: Batch, step: Step) -> Losses:
        """The losses of one of a step's batches."""


@dataclass(frozen=True)
class CrossEntropy:
    """That the captions of people become likely, token by token."""

    label_smoothing: float
    logged_as = "loss"

    def count(self, step: Step) -> int:
        """Tokens."""
        return step.num_tokens

    def __call__(self, model: CaptionModel, features: Tensor, batch: Batch, step: Step) -> Losses:
        """The mean over the step's tokens."""
        total = caption_loss(model, features, batch, self.label_smoothing)
        return Losses(total / step.num_tokens, total.detach())


@dataclass(frozen=True)
class SelfCritical:
    """That captions the model samples earn a high reward (Rennie et al., 2017).

    The gradient of the expected reward is that of each sample's log-probability times what its
    reward is above the mean of the picture's other samples (Luo, 2020, "A better variant of
    self-critical sequence training"), a baseline that no sample has part in: the estimate is
    unbiased. Samples are drawn, and scored, without dropout. Which are drawn is a function of the
    random seed of the step and each picture's row. With `search` "beam" the captions are those of
    a beam search instead (Cornia et al., 2020, "Meshed-memory transformer for image captioning"),
    the likely ones among which a search must choose, and the estimate is biased towards them.
    """

    reward: Reward
    tokenizer: CaptionTokenizer
    rules: TokenRules
    samples: int
    """Captions sampled of each picture, at least 2."""
    cross_entropy: float = 0.0
    """Weight of the cross-entropy of people's captions beside it."""
    search: Literal["sample", "beam"] = "sample"
    logged_as = "reward"

    def count(self, step: Step) -> int:
        """Sampled captions."""
        return step.num_captions

    def __call__(self, model: CaptionModel, features: Tensor, batch: Batch, step: Step) -> Losses:
        """Minus the mean reward over the step's samples, as far as its gradient goes."""
        share = torch.zeros((), device=features.device)
        if self.cross_entropy:
            loss = caption_loss(model, features, batch, label_smoothing=0.0)
            share = self.cross_entropy * loss / step.num_tokens
        was_training = model.training
        model.eval()
        try:
            memory = model.encode_memory(features)
            found = self._sample(model, memory, batch.picture_rows)
            if any(len(one) != self.samples for one in found):  # the weights are broken
                share = memory[0].keys.sum() * math.nan
                return Losses(share, share.detach())
            likely = self._log_probabilities(model, memory, found)  # (B, K)
        finally:
            model.train(was_training)
        rewards = self._rewards(found, batch)  # (B, K)
        others = (rewards.sum(1, keepdim=True) - rewards) / (self.samples - 1)
        share = share - ((rewards - others) * likely).sum() / step.num_captions
        return Losses(share, rewards.sum())

    def _sample(
        self, model: CaptionModel, memory: Sequence[KeysValues], rows: Tensor
    ) -> list[list[Hypothesis]]:
        fixed = [KeysValues(*(part.detach() for part in layer)) for layer in memory]
        return decoding.search(
            DecoderState(model.decoder, fixed),
            batch_size=len(rows),
            rules=self.rules,
            options=SearchOptions(
                method=self.search,
                num_captions=self.samples,
                beam_size=self.samples,
                seed=torch.initial_seed() % 2**63,
            ),
            picture_numbers=rows.tolist(),
            device=rows.device,
        )

    def _rewards(self, found: list[list[Hypothesis]], batch: Batch) -> Tensor:
        """(B, K)."""
        references = self._references(batch)
        rewards = self.reward(
            [Written(self.tokenizer.decode(h.ids).strip(), h.ended) for one in found for h in one],
            [texts for texts in references for _ in range(self.samples)],
        )
        return torch.from_numpy(rewards).float().view(-1, self.samples).to(batch.inputs.device)

    def _references(self, batch: Batch) -> list[list[Written]]:
        """The captions of people in a batch, read back from its tokens."""
        slots, per_picture = batch.packing.slots, batch.packing.rows // len(batch.picture_rows)
        assert slots is not None
        rows = torch.div(slots, batch.packing.length, rounding_mode="floor").tolist()
        tokens: dict[int, list[int]] = {}
        for row, token in zip(rows, batch.targets.tolist(), strict=True):
            tokens.setdefault(row, []).append(token)
        found: list[list[Written]] = [[] for _ in batch.picture_rows]
        for row, ids in tokens.items():
            text = self.tokenizer.decode(ids).strip()
            found[row // per_picture].append(Written(text, ids[-1] == self.tokenizer.end_id))
        return found

    def _log_probabilities(
        self, model: CaptionModel, memory: Sequence[KeysValues], found: list[list[Hypothesis]]
    ) -> Tensor:
        """(B, K) of each sample, with a gradient, under the rules by which it was sampled."""
        end, device = [self.tokenizer.end_id], memory[0].keys.device
        rows = [[*h.ids, *(end if h.ended else [])] for one in found for h in one]
        longest = max(map(len, rows))
        slots = [longest * r + i for r, row in enumerate(rows) for i in range(len(row))]
        inputs = [token for row in rows for token in (self.tokenizer.start_id, *row[:-1])]
        targets = torch.tensor([token for row in rows for token in row], device=device)
        places = torch.tensor(slots, device=device)
        hidden = model.decoder(
            torch.tensor(inputs, device=device),
            places % longest,
            Packing(len(rows), longest, places),
            memory,
        )
        logits = model.decoder.exact_logits(hidden)  # (N, V)
        never = torch.tensor(self.rules.forbidden_ids, dtype=torch.long, device=device)
        logits = logits.index_fill(1, never, -math.inf)
        likely = -F.cross_entropy(logits, targets, reduction="none")
        total = likely.new_zeros(len(rows)).index_add(0, places // longest, likely)
        return total.view(len(found), self.samples)


class Gradients:
    """Makes the gradients of steps."""

    def __init__(
        self,
        model: CaptionModel,
        encoder: VisionEncoder,
        runtime: Runtime,
        objective: Objective,
        *,
        records: bool = False,
    ) -> None:
        """For what `model` and `encoder` train at present.

        With `records` a GPU repeats passes of cross-entropy over given features as it has recorded
        them, and gradients stay at one address.
        """
        self.objective = objective
        self._model, self._encoder, self._runtime = model, encoder, runtime
        self._is_sharded = is_sharded(encoder)
        self._average = ProcessAverage((model, encoder), runtime)
        self._recorded: RecordedPasses[Batch] | None = None
        if records and isinstance(objective, CrossEntropy):
            run = partial(self._add_by_factor, objective)
            self._recorded = RecordedPasses(run, self._average.parameters, runtime.device)
        self.drop()

    @property
    def recorded_shapes(self) -> int:
        """How many shapes of batches are replayed."""
        return len(self._recorded.recordings) if self._recorded else 0

    def add(self, step: Step) -> Tensor:
        """Leave the gradients of a step in the parameters; returns this process's logged sum.

        Raises `BatchTooLargeError` in all processes, the gradients dropped, if memory ran out.
        """
        before = [statistic.clone() for statistic in self._average.statistics]
        loss_sum = torch.zeros((), device=self._runtime.device)
        failed = 0
        for batch, weight in self._passes(step):
            factor = weight * self._runtime.world_size  # the average divides by it
            try:
                if self._recorded is not None and batch.content.is_floating_point():
                    part = factor / step.num_tokens
                    loss_sum += self._recorded(batch.rounded_up(), part) * weight
                    continue
                batch = batch.to(self._runtime.device)
                with self._runtime.autocast():
                    features = encode(batch.content, self._encoder)
                    losses = self.objective(self._model, features, batch, step)
                torch.autograd.backward(losses.share * factor)
                loss_sum += losses.total * weight
            except torch.OutOfMemoryError:
                if self._is_sharded:  # the others are amid the same pass
                    raise
                if self._recorded is not None:
                    self._recorded.stop()
                failed = batch.num_captions
                break
        if failed := self._runtime.max_over_processes(failed):
            self.drop()
            for statistic, old in zip(self._average.statistics, before, strict=True):
                statistic.copy_(old)
            torch.cuda.empty_cache()
            raise BatchTooLargeError(failed)
        self._average.take()
        return loss_sum

    def _add_by_factor(self, objective: CrossEntropy, batch: Batch, factor: Tensor) -> Tensor:
        """Add the gradients of a batch's loss times a factor; returns the loss."""
        with self._runtime.autocast():
            features = encode(batch.content, self._encoder)
            loss = caption_loss(self._model, features, batch, objective.label_smoothing)
        torch.autograd.backward(loss, factor)
        return loss.detach()

    def drop(self) -> None:
        """Forget the gradients."""
        for module in (self._model, self._encoder):
            module.zero_grad(set_to_none=True)

    def _passes(self, step: Step) -> list[tuple[Batch, float]]:
        """The batches and what each counts; of a sharded encoder, each pass is one of all."""
        passes = [(batch, step.weight) for batch in step.batches]
        if self._is_sharded:
            missing = self._runtime.max_over_processes(len(passes)) - len(passes)
            passes += [(step.batches[0], 0.0)] * missing
        return passes


@dataclass(frozen=True)
class StepResult:
    """What a step leaves to be logged, still on the device."""

    loss_sum: Tensor
    """What the objective logs, summed over this process's share."""
    gradient_norm: Tensor
    """Norm of the gradient of the mean loss, before clipping."""
    count: int
    """What the sum is divided by, over all processes."""
    num_captions: int
    """Captions of all processes."""


@dataclass(frozen=True)
class Optimization:
    """What changes the weights of a run."""

    optimizer: torch.optim.Optimizer
    gradients: Gradients
    schedule: Schedule
    encoder_schedule: Schedule
    average: WeightAverage | None = None
    """Moves after the weights; it is what is validated and kept as `best`."""

    def set_rates(self, step: int) -> float:
        """Give each group of the optimizer its learning rate of a step; returns the first's."""
        factors = self.schedule.factor(step), self.encoder_schedule.factor(step)
        return set_learning_rate(self.optimizer, *factors)


def train_step(
    gradients: Gradients, optimizer: torch.optim.Optimizer, step: Step, *, clip_norm: float
) -> StepResult:
    """The gradient of a step, clipped, and one update. Raises `BatchTooLargeError`."""
    loss_sum = gradients.add(step)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradient_norm = clip_gradients(parameters, clip_norm or math.inf)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    count = gradients.objective.count(step)
    return StepResult(loss_sum, gradient_norm, count, step.num_captions)
