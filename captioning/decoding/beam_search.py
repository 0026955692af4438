"""Beam search, in one group of beams or in several that avoid each other's words.

Touches no files. B pictures in the batch, G groups, S = B * G sets of beams, R beams of a group,
K candidates, T tokens, V vocabulary. Bookkeeping is tensors; a step waits once for the device.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from captioning.decoding.hypotheses import Captions, Hypothesis, NextToken, go_on
from captioning.decoding.options import SearchOptions
from captioning.decoding.token_rules import TokenRules


def beam_search(
    state: NextToken,
    batch_size: int,
    rules: TokenRules,
    options: SearchOptions,
    device: torch.device | str,
) -> list[list[Hypothesis]]:
    """Beam search as Hugging Face's `generate` does it, in one group of beams or several.

    A step weighs the 2R best continuations of the R beams of a group. Those of the first R that
    end are closed; the R best that do not end go on.
    """
    groups = options.groups if options.method == "diverse" else 1
    width = options.beam_size // groups
    closed = Captions.blank((batch_size * groups, width, rules.max_length), -math.inf, device)
    beams = Captions.blank((batch_size * groups, 1, rules.max_length), 0.0, device)
    pictures = torch.arange(batch_size, device=device)
    group = torch.arange(groups, device=device)
    is_open = torch.ones((batch_size, groups), dtype=torch.bool, device=device)
    newest = torch.full((batch_size, 1), rules.start_id, device=device)
    for position in range(rules.max_length):
        log_probabilities = state.step(newest).log_softmax(-1)
        if position == 0:
            log_probabilities = log_probabilities.repeat(1, groups, 1)
        parents, drafts = _drafts(log_probabilities, beams, position, is_open, rules, options)
        is_end = drafts.ids[..., position] == rules.end_id

        is_closing = is_end if position + 1 < rules.max_length else torch.ones_like(is_end)
        sets = (pictures[:, None] * groups + group).flatten()
        best_closed = _close(
            closed.sets(sets),
            drafts.first(width),
            is_closing[:, :width] & is_open.view(-1, 1),
            options.length_penalty,
        )
        closed.put(sets, best_closed)

        going_on = is_end.long().argsort(stable=True)[:, :width]
        drafts.scores.masked_fill_(is_end, -math.inf)
        sources = parents.gather(1, going_on).view(len(pictures), groups, -1)
        sources = sources + group[:, None] * beams.scores.shape[1] * (position > 0)
        beams, old_width = drafts.take(going_on), newest.shape[1]
        newest = beams.ids[..., position].reshape(len(pictures), -1)
        may_improve = _may_improve(beams.scores, best_closed.scores, position + 1, rules, options)
        is_open &= may_improve.view_as(is_open)
        stay = go_on(state, is_open.any(1), sources.flatten(1), old_width)
        pictures, is_open, newest = pictures[stay], is_open[stay], newest[stay]
        beams = beams.sets((stay[:, None] * groups + group).flatten())
        if not len(pictures):
            break
    return _merge_groups(closed.hypotheses(rules.end_id), groups, options.num_captions)


def _drafts(
    log_probabilities: Tensor,
    beams: Captions,
    position: int,
    is_open: Tensor,
    rules: TokenRules,
    options: SearchOptions,
) -> tuple[Tensor, Captions]:
    """The K best continuations of each group in order of preference, with their beams (S, K).

    `log_probabilities` (B, G * R, V) are the model's, `is_open` (B, G) tells the groups at work.
    """
    vocabulary, ids = log_probabilities.shape[-1], beams.ids[..., :position]
    log_probabilities = log_probabilities.reshape(*beams.scores.shape, vocabulary)
    scores = rules.apply(log_probabilities, ids)
    totals = (scores + beams.scores[..., None]).flatten(1)
    width = options.beam_size // is_open.shape[1]
    if is_open.shape[1] == 1:
        choices = _best(totals, ids, width, rules)
    else:
        by_group = totals.view(*is_open.shape, -1), ids.view(*is_open.shape, *ids.shape[1:])
        choices = _diverse(*by_group, is_open, width, rules, options.diversity_penalty)
    parents, tokens = choices // vocabulary, choices % vocabulary
    drafts = replace(beams.take(parents), scores=totals.gather(1, choices))
    drafts.ids[..., position] = tokens
    drafts.log_probabilities[..., position] = log_probabilities.flatten(1).gather(1, choices)
    drafts.lengths.fill_(position + 1)
    return parents, drafts


def _best(totals: Tensor, ids: Tensor, width: int, rules: TokenRules) -> Tensor:
    """Places (S, K) of the best continuations among totals (S, R * V), best first."""
    if rules.forced_words:
        return _best_of_banks(totals, ids, width, rules)
    return totals.topk(min(2 * width, totals.shape[1])).indices


def _best_of_banks(totals: Tensor, ids: Tensor, width: int, rules: TokenRules) -> Tensor:
    """Like `_best`, but beams with few and with many forced tokens live side by side.

    Otherwise a forced word would wait until it is the likeliest, or until the last moment. Each
    number of forced tokens placed is a bank; the best of each bank come first, then the second
    best of each (after Post & Vilar, 2018). All forced tokens are among the candidates.
    """
    rows, vocabulary = ids.shape[1], totals.shape[1] // ids.shape[1]
    tokens = torch.tensor(sorted(set(sum(rules.forced_words, ()))), device=ids.device)
    others = totals.view(-1, rows, vocabulary).index_fill(2, tokens, -math.inf).flatten(1)
    choices = others.topk(min(2 * width, rows * (vocabulary - len(tokens)))).indices
    forced = torch.arange(rows, device=ids.device)[:, None] * vocabulary + tokens
    choices = torch.cat((choices, forced.flatten().expand(len(totals), -1)), 1)
    scores, order = totals.gather(1, choices).sort(dim=1, descending=True)
    choices = choices.gather(1, order)

    history = ids.gather(1, (choices // vocabulary)[..., None].expand(-1, -1, ids.shape[-1]))
    extended = torch.cat((history, (choices % vocabulary)[..., None]), -1)
    bank = rules.forced_progress(extended).placed
    rank = (bank[:, :, None] == bank[:, None, :]).tril(-1).sum(-1)
    rank = rank.masked_fill(scores == -math.inf, choices.shape[1])
    return choices.gather(1, rank.argsort(dim=1, stable=True))


def _diverse(
    totals: Tensor, ids: Tensor, is_open: Tensor, width: int, rules: TokenRules, penalty: float
) -> Tensor:
    """Choices (S, K) of groups that avoid the tokens which earlier groups chose in this step.

    The Hamming diversity of Vijayakumar et al., 2018. The penalty decides what is chosen; it is
    not carried on in the scores, so that groups compare fairly. `totals` (B, G, R * V),
    `ids` (B, G, R, T).
    """
    choices, rows = [], ids.shape[2]
    by_row = totals.view(*is_open.shape, rows, -1)
    used = torch.zeros((len(totals), 0), dtype=torch.long, device=totals.device)
    costs = totals.new_zeros(used.shape)
    for group in range(is_open.shape[1]):
        tokens, taken_off = (x[:, None].expand(-1, rows, -1) for x in (used, costs))
        penalised = by_row[:, group].scatter_add(2, tokens, taken_off).flatten(1)
        choices.append(_best(penalised, ids[:, group], width, rules))
        chosen = choices[-1] % by_row.shape[-1]
        goes_on = chosen != rules.end_id
        goes_on &= (goes_on.cumsum(1) <= width) & is_open[:, group, None]
        used, costs = torch.cat((used, chosen), 1), torch.cat((costs, goes_on * -penalty), 1)
    return torch.stack(choices, 1).flatten(0, 1)


def _close(
    closed: Captions, drafts: Captions, is_closing: Tensor, length_penalty: float
) -> Captions:
    """The best of the closed captions (S, R) and those of the drafts that close now, in order."""
    ranks = drafts.scores / drafts.lengths**length_penalty
    joined = closed.concatenate(replace(drafts, scores=ranks.masked_fill(~is_closing, -math.inf)))
    return joined.take(joined.scores.topk(closed.scores.shape[1]).indices)


def _may_improve(
    open_scores: Tensor,
    closed_scores: Tensor,
    length: int,
    rules: TokenRules,
    options: SearchOptions,
) -> Tensor:
    """(S) whether an open beam of a group may still beat a closed caption that counts."""
    if options.early_stop == "first":
        return (closed_scores[:, -1] == -math.inf) & (length < rules.max_length)
    if options.early_stop == "exact":
        # Sums only fall; a positive penalty flatters them most at the greatest length.
        bound_length = rules.max_length if options.length_penalty > 0 else length
        last = min(options.num_captions, closed_scores.shape[1]) - 1
    else:
        bound_length, last = length, -1
    bound = open_scores.amax(1) / bound_length**options.length_penalty
    return (bound > closed_scores[:, last]) & (length < rules.max_length)


def _merge_groups(
    sets: list[list[Hypothesis]], groups: int, num_captions: int
) -> list[list[Hypothesis]]:
    """The best captions of each picture; what several groups found counts once."""
    merged = []
    for first in range(0, len(sets), groups):
        found = {h.ids: h for one_set in sets[first : first + groups] for h in one_set}
        merged.append(sorted(found.values(), key=lambda h: -h.score)[:num_captions])
    return merged
