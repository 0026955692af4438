"""How a ViT-GPT2 captions by itself: the settings that transformers' `generate` would take.

They stand in generation_config.json, or in an older model's config.json. Most have their like here;
of what has none, and would change captions, a list is kept to be told.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from captioning.decoding.options import EarlyStop, Usual
from captioning.system.errors import UserError
from captioning.system.files import read_json
from captioning.system.rules import LONGEST_CAPTION, MOST_BEAMS

USUAL_NEW_TOKENS = 20
"""Tokens that transformers writes at most where nobody says how many, the end counted."""
EARLY_STOPS: Mapping[object, EarlyStop] = MappingProxyType(
    {False: "heuristic", True: "first", "never": "exact"}
)
NOT_FOLLOWED: Mapping[str, tuple[object, ...]] = MappingProxyType(
    {
        "do_sample": (False,),
        "repetition_penalty": (1, 1.0),
        "bad_words_ids": (),
        "suppress_tokens": (),
        "begin_suppress_tokens": (),
        "forced_bos_token_id": (),
        "sequence_bias": (),
        "exponential_decay_length_penalty": (),
        "guidance_scale": (1, 1.0),
        "renormalize_logits": (False,),
        "num_beam_groups": (1,),
        "penalty_alpha": (),
        "dola_layers": (),
        "constraints": (),
        "force_words_ids": (),
        "stop_strings": (),
        "watermarking_config": (),
    }
)
"""Settings that are not followed, and the values besides null with which they do nothing.
(repetition_penalty weighs logits there and log-probabilities here, the start token included.)"""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How a captioner captions where nobody says otherwise."""

    start_id: int
    end_id: int
    max_length: int
    """Ids of a caption at most, start and end counted."""
    beam_size: int = 1
    length_penalty: float = 1.0
    usual: Usual = field(default_factory=Usual)
    not_followed: tuple[str, ...] = ()
    """Settings that have no like here, with their values."""


def read_generation(folder: Path, name: str, *, positions: int) -> Generation:
    """The settings of the captioner `name` in a folder, for a decoder of so many positions.

    Raises `UserError` where a value is none.
    """
    values, longest = _values(folder), min(positions, LONGEST_CAPTION)
    problems: list[str] = []

    def number(key: str, usual: int, low: int, high: int) -> int:
        value = values.get(key)
        if value is None:
            return usual
        if type(value) is not int or not low <= value <= high:
            problems.append(f"the {key} {value!r:.40}; it must be from {low:,} to {high:,}.")
            return usual
        return value

    end = values.get("eos_token_id")
    if isinstance(end, list) and len(end) == 1:
        values["eos_token_id"] = end[0]
    start_key = "decoder_start_token_id"
    if values.get(start_key) is None:
        start_key = "bos_token_id"
    for key in (start_key, "eos_token_id"):
        if values.get(key) is None:
            problems.append(f"no {key}, without which no caption begins and ends.")
    max_length = number("max_length", USUAL_NEW_TOKENS + 1, 3, 2**31)
    max_length = number("max_new_tokens", max_length - 1, 2, 2**31) + 1
    shortest = number("min_length", 0, 0, positions)
    penalty = values.get("length_penalty")
    if penalty is None:
        penalty = 1.0
    if type(penalty) not in (int, float) or not math.isfinite(penalty):
        problems.append(f"the length_penalty {penalty!r:.40}; it must be a number.")
    early = values.get("early_stopping") or False
    if not isinstance(early, bool | str) or early not in EARLY_STOPS:
        problems.append(f"the early_stopping {early!r:.40}; it must be true, false or never.")
    # The start token is counted there.
    shortest = number("min_new_tokens", max(shortest - 1, 0), 0, positions)
    repeats = number("no_repeat_ngram_size", 0, 0, positions)
    beams = number("num_beams", 1, 1, MOST_BEAMS)
    start_id, end_id = (number(key, 0, 0, 2**31) for key in (start_key, "eos_token_id"))
    if problems:
        raise UserError(*(f"{name}: its generation settings have {one}" for one in problems))
    stop = EARLY_STOPS[early]
    return Generation(
        start_id=start_id,
        end_id=end_id,
        max_length=min(max_length, longest),
        beam_size=beams,
        length_penalty=float(penalty),
        usual=Usual(min_length=shortest, no_repeat_ngram=repeats, early_stop=stop),
        not_followed=tuple(_not_followed(values, max_length, longest)),
    )


def _values(folder: Path) -> dict[str, Any]:
    """The settings by transformers' names: generation_config.json, or what a config.json has of
    them, for both parts or for the decoder."""
    path = folder / "generation_config.json"
    if path.is_file():
        return read_json(path)
    config = read_json(folder / "config.json")
    decoder = config.get("decoder")
    of_decoder = decoder if isinstance(decoder, dict) else {}
    return {**of_decoder, **{key: one for key, one in config.items() if one is not None}}


def _not_followed(values: Mapping[str, Any], max_length: int, longest: int) -> Iterator[str]:
    for key, without_effect in NOT_FOLLOWED.items():
        value = values.get(key)
        if value is not None and value not in without_effect:
            yield f"{key} {value!r:.40}"
    if max_length > longest:
        yield f"max_length {max_length:,}, of which {longest:,} have a place"
