"""Captions a second: our search, the old way, and Hugging Face `generate`, in one run.

Writes nothing but the JSON file asked for.

    python benchmarks/generation.py --json benchmark.json

Features are given; weights are random, of the default decoder's size. The model is made to end each
picture's caption at a length drawn with the mean and spread of Flickr8k's captions, the same on all
sides, so that pictures are done at different times as real ones are. The old way has no cache: it
computes the whole prefix and the picture's keys and values again for each token, one picture at a
time. Hugging Face's side is a GPT-2 with cross-attention of the same width, depth and vocabulary,
with its cache. Batch 1 is also the latency of one picture. The JSON file holds the counted work of
both, which bounds what one can be faster than the other.
"""

import copy
import itertools
import json
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from captioning.decoding import SearchOptions, TokenRules, search
from captioning.system.errors import run_command
from captioning.system.options import parse_options
from captioning.training.packing import Packing
from model import CaptionModel, DecoderState, Projection, TransformerDecoder

VOCABULARY, PATCHES, FEATURES, DIM, LAYERS, HEADS, FF_DIM = 10_000, 50, 768, 512, 6, 8, 2048
START, END = 1, 2
CERTAIN = 1e4
MOST_TOKENS = 40


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    mean_tokens: float = 12.9
    """Tokens of a caption on average, <END> counted; 12.9 as in Flickr8k."""
    spread_tokens: float = 3.9
    """Standard deviation of the tokens of a caption."""
    batches: tuple[int, ...] = (1, 32)
    """Pictures that are searched together."""
    int8: bool = False
    """Measure ours with 8-bit integers too, as `--precision int8` has it."""
    old: bool = True
    """Measure the old way too."""
    repeats: int = 5
    """How often to measure each side; medians are reported."""
    device: str = "cpu"
    """Where to compute."""
    json: str = ""
    """File for the numbers as JSON."""


class UncachedState:
    """The old way: every token computes all before it again, and the picture's keys and values."""

    def __init__(self, model: CaptionModel, features: Tensor) -> None:
        self._model, self._features = model, features
        self._tokens = torch.empty(len(features), 1, 0, dtype=torch.long, device=features.device)

    def step(self, tokens: Tensor) -> Tensor:
        """(B, W) newest tokens -> (B, W, V) logits."""
        self._tokens = torch.cat([self._tokens, tokens[..., None]], dim=-1)
        pictures, width, length = self._tokens.shape
        positions = torch.arange(length, device=tokens.device).repeat(pictures * width)
        packing = Packing(pictures * width, length)
        keys_values = self._model.encode_memory(self._features)
        hidden = self._model.decoder(self._tokens.flatten(), positions, packing, keys_values)
        # The first scripts computed the logits of every position and kept the last.
        return self._model.decoder.logits(hidden).view(pictures, width, length, -1)[:, :, -1]

    def reorder(self, pictures: Tensor, rows: Tensor) -> None:
        """As `decoding.NextToken` says."""
        self._features = self._features[pictures]
        self._tokens = self._tokens[pictures[:, None], rows]


def make_ours() -> CaptionModel:
    """The default decoder with random weights."""
    decoder = TransformerDecoder(
        vocab_size=VOCABULARY,
        dim=DIM,
        layers=LAYERS,
        heads=HEADS,
        ff_dim=FF_DIM,
        memory_dim=DIM,
        max_length=64,
    )
    return CaptionModel(Projection(PATCHES, FEATURES, DIM), decoder)


def make_theirs() -> Any:
    """A Hugging Face encoder-decoder whose GPT-2 has the same size; its encoder is not run."""
    import transformers as hf

    text = hf.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=64,
        n_embd=DIM,
        n_layer=LAYERS,
        n_head=HEADS,
        n_inner=FF_DIM,
        add_cross_attention=True,
        is_decoder=True,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=0,
    )
    picture = hf.ViTConfig(
        hidden_size=DIM, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    model = hf.VisionEncoderDecoderModel(
        encoder=hf.ViTModel(picture), decoder=hf.GPT2LMHeadModel(text)
    )
    model.generation_config.decoder_start_token_id = START
    model.generation_config.bos_token_id = START
    model.generation_config.eos_token_id = END
    model.generation_config.pad_token_id = 0
    return model.eval()


class EndingState:
    """A state whose pictures end at given lengths: then <END> is certain, before impossible."""

    def __init__(self, state: Any, lengths: Tensor) -> None:
        self._state, self._lengths, self._written = state, lengths, 0

    def step(self, tokens: Tensor) -> Tensor:
        """(B, W) newest tokens -> (B, W, V) logits."""
        self._written += 1
        logits: Tensor = self._state.step(tokens)
        logits[..., END] = end_logit(self._lengths == self._written)[:, None]
        return logits

    def reorder(self, pictures: Tensor, rows: Tensor) -> None:
        """As `decoding.NextToken` says."""
        self._lengths = self._lengths[pictures]
        self._state.reorder(pictures, rows)


def end_logit(is_due: Tensor) -> Tensor:
    """What makes <END> certain or impossible."""
    return torch.where(is_due, CERTAIN, -CERTAIN)


def ours(model: CaptionModel, features: Tensor, beam_size: int, lengths: Tensor) -> int:
    """Caption all pictures at once with the cache; returns how many tokens were written."""
    return written(
        DecoderState(model.decoder, model.encode_memory(features)), features, beam_size, lengths
    )


def old(model: CaptionModel, features: Tensor, beam_size: int, lengths: Tensor) -> int:
    """Caption one picture after the other without a cache."""
    return sum(
        written(UncachedState(model, one[None]), one[None], beam_size, length[None])
        for one, length in zip(features, lengths, strict=True)
    )


def written(state: Any, features: Tensor, beam_size: int, lengths: Tensor) -> int:
    """Search for captions that end at `lengths`; returns their tokens, <END> counted."""
    rules = TokenRules(start_id=START, end_id=END, max_length=MOST_TOKENS, forbidden_ids=(0, START))
    method = "beam" if beam_size > 1 else "greedy"
    options = SearchOptions(method=method, beam_size=beam_size)  # type: ignore[arg-type]
    found = search(
        EndingState(state, lengths),
        batch_size=len(features),
        rules=rules,
        options=options,
        device=features.device,
    )
    return sum(len(captions[0].ids) + 1 for captions in found)


def theirs(model: Any, memory: Tensor, beam_size: int, lengths: Tensor) -> int:
    """Caption all pictures at once with Hugging Face `generate` and its cache."""
    from transformers.modeling_outputs import BaseModelOutput

    due = lengths.repeat_interleave(beam_size)

    def end(ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, END] = end_logit(due == ids.shape[1])
        return scores

    with torch.inference_mode():
        ids = model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=memory),
            num_beams=beam_size,
            do_sample=False,
            max_new_tokens=MOST_TOKENS,
            logits_processor=[end],
            use_cache=True,
        )
    has_ended = (ids[:, 1:] == END).cumsum(1) > 0
    return int((~has_ended).sum()) + len(ids)


def gflop_of(work: Callable[[], int]) -> float:
    """Work of a call's matrix products in 10^9 operations; attention's own are not counted."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def timed(work: Callable[[], int], expected: int, device: torch.device) -> float:
    """Seconds of one call, which must write `expected` tokens."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    count = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    if count != expected:
        raise AssertionError(f"{count} tokens were written, expected {expected}")
    return seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, write the JSON file."""
    options = parse_options(Options, sys.argv[1:] if argv is None else argv, description=__doc__)
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    device = torch.device(options.device)
    model, their_model = make_ours().to(device).eval(), make_theirs().to(device)
    models = {"ours": model}
    if options.int8:
        models["int8"] = copy.deepcopy(model)
        models["int8"].decoder.multiply_in_integers()
    results: dict[str, dict[str, float]] = {}
    generator = np.random.default_rng(0)
    kinds = ((("greedy", 1), ("beam5", 5)), options.batches)
    for (method, beam_size), batch in itertools.product(*kinds):
        name = f"{method}_batch{batch}"
        features = torch.randn(batch, PATCHES, FEATURES, device=device)
        memory = torch.randn(batch, PATCHES, DIM, device=device)
        drawn = generator.normal(options.mean_tokens, options.spread_tokens, batch).round()
        lengths = torch.tensor(drawn.clip(5, MOST_TOKENS - 1).astype(int), device=device)
        if batch == 1:
            lengths[:] = round(options.mean_tokens)
        expected = int(lengths.sum())
        sides: dict[str, Callable[[], int]] = {
            side: partial(ours, of_ours, features, beam_size, lengths)
            for side, of_ours in models.items()
        }
        sides["transformers"] = partial(theirs, their_model, memory, beam_size, lengths)
        if options.old:
            sides["old"] = partial(old, model, features, beam_size, lengths)
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for repeat in range(options.repeats + 1):
            for side, work in sides.items():
                elapsed = timed(work, expected, device)
                if repeat:  # the first time warms up
                    seconds[side].append(elapsed)
        median = {side: statistics.median(values) for side, values in seconds.items()}
        results[name] = {
            "captions_per_second": batch / median["ours"],
            "ratio_to_old": median["old"] / median["ours"] if options.old else math.nan,
            "ratio_to_transformers": median["transformers"] / median["ours"],
            "seconds": median["ours"],
        }
        if options.int8:
            results[name]["int8_captions_per_second"] = batch / median["int8"]
            results[name]["int8_ratio_to_transformers"] = median["transformers"] / median["int8"]
        rates = ", ".join(f"{side} {batch / median[side]:.2f}" for side in sides)
        print(f"{name}: {rates} captions/s")
        print("  " + ", ".join(f"{key} {value:.2f}" for key, value in results[name].items()))
        if device.type == "cpu":  # on a GPU work is not what takes the time
            results[name]["gflop"] = gflop_of(sides["ours"])
            results[name]["gflop_transformers"] = gflop_of(sides["transformers"])
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    run_command(main)
