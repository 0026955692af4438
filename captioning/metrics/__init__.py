"""How good captions are: coco-caption's scores and others, of plain text, by whomever written.

Useful alone, and without torch or Java; equal to pycocoevalcap 1.2 with its Java tokenizer:

    from captioning.metrics import score_captions, tokenize_captions

    scores = score_captions({"a.jpg": "a dog runs"}, {"a.jpg": ["A dog is running .", "..."]})
    scores.corpus["CIDEr"]

Open first `coco`: the four scores that everyone gives, from tokens that fit the captions' script
(`tokenizers`; those of coco-caption are `ptb_tokenizer`, whose rules are data, in `ptb_rules`),
`ngrams` (counted once for all captions), `bleu`, `rouge` and `cider`. `intervals`
says how sure they are and how varied the captions. `scoring` adds what may be missing: METEOR and
SPICE of their own programs (`java`), CLIPScore (`clip_score`, which alone needs torch and
pictures). `score_files` reads captions of files.

May know `system` and `sources`; knows no model, no data set and no settings.
"""

from captioning.metrics.coco import Scores, score_captions
from captioning.metrics.intervals import (
    Diversity,
    Interval,
    bootstrap_intervals,
    describe_captions,
)
from captioning.metrics.ptb_tokenizer import tokenize_captions

__all__ = [
    "Diversity",
    "Interval",
    "Scores",
    "bootstrap_intervals",
    "describe_captions",
    "score_captions",
    "tokenize_captions",
]
