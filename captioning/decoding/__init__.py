"""Search for the best captions over any model of the next token.

Knows nothing of pictures or text and touches no files: a `NextToken` state gives logits, a search
gives `Hypothesis` objects, best first.

    rules = TokenRules(start_id=1, end_id=2, max_length=30, forbidden_ids=(0, 1))
    captions = search(state, batch_size=32, rules=rules, options=SearchOptions(method="beam"))

Open this file first: `search` chooses the way, and greedy search and sampling stand below it whole.
Then `options` (how to search), `hypotheses` (what a search works on: the state, open captions as
tensors, found captions), `token_rules` (what a caption may say), the longest, `beam_search`, and
`placing`: words put into captions that were found without them. `neighbours` stands beside them: it
chooses among captions that were found, by their words. `attention` and `integers` are what a
decoder of ours computes a step of a search with.

A model takes part by two methods, `step` and `reorder` of `NextToken`: `model.DecoderState` has
them, and so has the toy table against which the tests try every caption there is. The room knows
`captioning.system` and, to choose, `captioning.metrics`; ids become words in
`pipeline.CaptionPipeline`.

B pictures in the batch, W rows (open captions) of a picture, T tokens at most, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from captioning.decoding.beam_search import beam_search
from captioning.decoding.hypotheses import Captions, Hypothesis, NextToken, go_on
from captioning.decoding.options import SearchOptions, Usual, Warp
from captioning.decoding.token_rules import TokenRules

FREE, NEW_WORD = -1, -2
"""What stands in the place of a given token: any that the rules allow, and of these any that does
not go on with the word before it."""

__all__ = ["Hypothesis", "NextToken", "SearchOptions", "TokenRules", "Usual", "Warp", "search"]


@torch.inference_mode()
def search(
    state: NextToken,
    *,
    batch_size: int,
    rules: TokenRules,
    options: SearchOptions,
    picture_numbers: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
) -> list[list[Hypothesis]]:
    """The captions of each of `batch_size` pictures, best first.

    `picture_numbers` (0, 1, ... by default) count pictures over all batches: a sample is a
    function of the seed and its picture's number. `device` is the state's.
    """
    if options.method in ("beam", "diverse"):
        return beam_search(state, batch_size, rules, options, device)
    uniforms = None
    if options.method == "sample":
        numbers = range(batch_size) if picture_numbers is None else picture_numbers
        shape = (options.num_captions, rules.max_length)
        uniforms = uniform_numbers(options.seed, numbers, shape).to(device)
    shape = (batch_size, options.num_captions)
    captions = search_rows(state, shape, rules, device, warp=options.warp, uniforms=uniforms)
    ranks = captions.scores / captions.lengths**options.length_penalty
    return replace(captions, scores=ranks).hypotheses(rules.end_id)


@torch.inference_mode()
def search_rows(
    state: NextToken,
    shape: tuple[int, int],
    rules: TokenRules,
    device: torch.device | str,
    *,
    warp: Warp | None = None,
    uniforms: Tensor | None = None,
    given: Tensor | None = None,
) -> Captions:
    """Captions of `shape` (B, W), in no order: sampled with `uniforms` (B, W, T), else greedy.

    `given` (B, W, T) are tokens that rows have to write, whatever the rules say, or `FREE` or
    `NEW_WORD`.
    """
    (batch_size, width), warp = shape, warp or Warp()
    captions = Captions.blank((*shape, rules.max_length), 0.0, device)
    pictures = torch.arange(batch_size, device=device)
    is_open = torch.ones(shape, dtype=torch.bool, device=device)
    newest = torch.full((batch_size, 1), rules.start_id, device=device)
    for position in range(rules.max_length):
        log_probabilities = state.step(newest).log_softmax(-1)
        old_width, rows = newest.shape[1], captions.sets(pictures)
        scores = log_probabilities
        if given is not None:  # the rules write into what they are given
            scores = scores.expand(-1, width, -1).clone()
        scores = rules.apply(scores, rows.ids[:, : scores.shape[1], :position])
        if given is not None:
            asked = given[pictures, :, position]
            _begin_words(scores, asked == NEW_WORD, rules)
        if uniforms is None:
            newest = scores.argmax(-1)
        else:
            newest = _draw(warp.apply(scores), uniforms[pictures, :, position])
        if given is not None:
            newest = torch.where(asked >= 0, asked, newest)
            scores.scatter_(-1, newest[..., None], _of_tokens(log_probabilities, newest)[..., None])
        # What a row writes after its end counts for nothing.
        rows.ids[..., position] = newest = newest.masked_fill(~is_open, rules.end_id)
        rows.log_probabilities[..., position] = _of_tokens(log_probabilities, newest)
        rows.scores.add_(_of_tokens(scores, newest).masked_fill(~is_open, 0))
        rows.lengths.add_(is_open)
        captions.put(pictures, rows)
        is_open &= newest != rules.end_id
        sources = torch.arange(width, device=device).expand_as(newest) * (position > 0)
        stay = go_on(state, is_open.any(1), sources, old_width)
        pictures, is_open, newest = pictures[stay], is_open[stay], newest[stay]
        if not len(pictures):
            break
    return captions


def _begin_words(scores: Tensor, is_new: Tensor, rules: TokenRules) -> None:
    """Forbid, in place, what goes on with a word in rows (B, W) that are to begin a new one."""
    if rules.continuing_ids:
        continuing = torch.zeros(scores.shape[-1], dtype=torch.bool, device=scores.device)
        continuing[list(rules.continuing_ids)] = True
        scores.masked_fill_(is_new[..., None] & continuing, -torch.inf)


def _of_tokens(values: Tensor, tokens: Tensor) -> Tensor:
    """The values (B, W or 1, V) of tokens (B, W)."""
    return values.expand(-1, tokens.shape[1], -1).gather(-1, tokens[..., None])[..., 0]


def uniform_numbers(seed: int, numbers: Sequence[int], shape: tuple[int, int]) -> Tensor:
    """Random numbers (B, W, T) in [0, 1): a function of the seed and each picture's number.

    Of 23 bits, so that their product with a sum is below the sum after rounding, too.
    """
    draws = [np.random.default_rng((seed, n)).integers(2**23, size=shape) for n in numbers]
    return torch.from_numpy(np.stack(draws)).float() / 2**23


def _draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Tokens (B, W) from probabilities (B, W or 1, V), by inverting their distribution.

    It is summed in the vocabulary's order, not the probabilities', so that a last-bit change of a
    logit hardly ever changes a token.
    """
    summed = probabilities.cumsum(-1).expand(-1, uniforms.shape[1], -1).contiguous()
    reached = uniforms[..., None] * summed[..., -1:]
    return torch.searchsorted(summed, reached, right=True)[..., 0]
