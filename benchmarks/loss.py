"""The loss three ways: all logits at once, torch's linear_cross_entropy, chunks computed twice.

    python benchmarks/loss.py --json benchmark.json

Hidden states of a step (N tokens, D wide) meet the tied embedding (V, D); forward and backward are
timed, the ways take turns in one run, and medians are reported. Also says whether
`torch.nn.attention.varlen` runs on this device. Writes nothing but the JSON file asked for.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from captioning.system.errors import run_command
from captioning.system.options import parse_options
from captioning.system.runtime import Runtime

SMOOTHING = 0.1
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    tokens: int = 3300
    """N: tokens to predict in a step; 256 captions of Flickr8k have about as many."""
    dim: int = 512
    """D: width of the decoder."""
    vocabulary: int = 10_000
    """V: entries of the vocabulary."""
    chunk: int = 512
    """Tokens whose logits exist at a time in the recomputed way."""
    rounds: int = 9
    """Rounds; the ways take turns."""
    device: str = "auto"
    """Where to compute."""
    json: str = ""
    """File for the numbers as JSON."""


def all_logits(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """As `optimization.caption_loss` does it."""
    logits = F.linear(x, weight).float()
    return F.cross_entropy(logits, targets, label_smoothing=SMOOTHING, reduction="sum")


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """torch's own, in chunks that it chooses, which know no label smoothing.

    With smoothing e the loss is the plain one plus e times the target's logit less the mean logit,
    and these two need no other logits.
    """
    plain = F.linear_cross_entropy(
        x, weight, targets, reduction="sum", options=torch.nn.LinearCrossEntropyOptions()
    )
    return plain + SMOOTHING * (x * (weight[targets] - weight.mean(0))).sum()


def recomputed(chunk: int) -> Loss:
    """Chunks whose logits are computed again in the backward pass."""

    def loss(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        parts = [
            checkpoint(all_logits, some, weight, wanted, use_reentrant=False)
            for some, wanted in zip(torch.split(x, chunk), torch.split(targets, chunk), strict=True)
        ]
        return torch.stack(parts).sum()

    return loss


def time_once(loss: Loss, inputs: tuple[Tensor, Tensor, Tensor], runtime: Runtime) -> float:
    """Seconds of a forward and a backward pass."""
    x, weight, _ = inputs
    x.grad = weight.grad = None
    synchronize(runtime)
    began = time.perf_counter()
    with runtime.autocast():
        value = loss(*inputs)
    value.backward()  # type: ignore[no-untyped-call]
    synchronize(runtime)
    return time.perf_counter() - began


def synchronize(runtime: Runtime) -> None:
    """Wait for the device."""
    if runtime.device.type == "cuda":
        torch.cuda.synchronize()


def has_varlen(runtime: Runtime) -> bool:
    """Whether attention over captions without padding runs on the device."""
    from torch.nn.attention.varlen import varlen_attn

    q = torch.zeros(4, 2, 64, device=runtime.device, dtype=torch.bfloat16)
    bounds = torch.tensor([0, 1, 4], device=runtime.device, dtype=torch.int32)
    try:
        varlen_attn(q, q, q, bounds, bounds, 3, 3, window_size=(-1, 0))
    except (NotImplementedError, RuntimeError):
        return False
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, write the JSON file."""
    options = parse_options(Options, sys.argv[1:] if argv is None else argv, description=__doc__)
    runtime = Runtime.create(options.device)
    torch.manual_seed(0)
    shape = (options.tokens, options.dim)
    x = torch.randn(shape, device=runtime.device, requires_grad=True)
    weight = torch.randn(options.vocabulary, options.dim, device=runtime.device) * 0.04
    weight.requires_grad_()
    targets = torch.randint(options.vocabulary, (options.tokens,), device=runtime.device)
    inputs = (x, weight, targets)
    ways: dict[str, Loss] = {
        "all logits": all_logits,
        "linear_cross_entropy": linear_cross_entropy,
        "recomputed": recomputed(options.chunk),
    }
    values = {way: loss(*inputs).item() for way, loss in ways.items()}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(options.rounds):
        for way, loss in ways.items():
            seconds[way].append(time_once(loss, inputs, runtime))
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    results = {
        "seconds": medians,
        "ratio_to_all_logits": {
            way: statistics.median(a / b for a, b in zip(times, seconds["all logits"], strict=True))
            for way, times in seconds.items()
        },
        "loss": values,
        "has_varlen": has_varlen(runtime),
        "shape": [options.tokens, options.dim, options.vocabulary],
        "device": runtime.description,
    }
    print(f"{'':24}{'ms':>10}{'time, of all logits':>22}{'loss a token':>16}")
    for way, value in medians.items():
        ratio = results["ratio_to_all_logits"][way]  # type: ignore[index]
        loss_a_token = values[way] / options.tokens
        print(f"{way:24}{value * 1e3:10.1f}{ratio:22.2f}{loss_a_token:16.6f}")
    print(f"varlen attention runs on {runtime.description}: {results['has_varlen']}")
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    run_command(main)
