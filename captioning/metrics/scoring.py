"""Every score of a set of captions, with its interval, or the reason why it is missing.

Knows captions, references and pictures' files, no model of ours: it scores any model's captions.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from captioning.metrics.coco import Scores, score_captions
from captioning.metrics.intervals import Diversity, Interval, bootstrap_intervals, describe_captions
from captioning.metrics.java import JavaScores, meteor, spice
from captioning.metrics.ngrams import FloatArray
from captioning.metrics.tokenizers import TOKENIZERS, TokenizerName
from captioning.system.errors import UserError

FOR_ENGLISH = "its program reads English alone, and the tokens here are not those of English"


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """How to score."""

    tokenizer: TokenizerName = "auto"
    """A name of `tokenizers`."""
    java: bool = True
    """Compute METEOR and SPICE where Java and their files are there."""
    clip_model: str = ""
    """The CLIP that judges captions beside pictures; "" for none."""
    seed: int = 0
    """Of the bootstrap."""


@dataclass(frozen=True)
class ScoreSheet:
    """All that was measured of P captions."""

    base: Scores
    """BLEU, ROUGE-L and CIDEr."""
    corpus: dict[str, float | None]
    """Each metric by name; None where it could not be computed."""
    per_image: dict[str, FloatArray]
    """Each metric that was computed, for each picture; [P]."""
    intervals: dict[str, Interval]
    """95 % bootstrap intervals over pictures. METEOR has none, nor has a single picture."""
    skipped: dict[str, str]
    """Why a metric is None, in one line."""
    diversity: Diversity

    @property
    def tokenizer(self) -> str:
        """Which tokens were counted, in words for a protocol."""
        return TOKENIZERS[self.base.tokenizer].description

    def of(self, index: int) -> dict[str, float]:
        """Every metric of one picture."""
        return {name: float(values[index]) for name, values in self.per_image.items()}

    def to_json(self) -> dict[str, Any]:
        """What `metrics.json` holds of it."""
        return {
            **self.corpus,
            "num_images": len(self.base.ids),
            "tokenizer": self.base.tokenizer,
            "skipped": self.skipped,
            "intervals_95": {
                name: [interval.low, interval.high] for name, interval in self.intervals.items()
            },
            "diversity": asdict(self.diversity),
            "warning": self.diversity.warning,
        }


def score_everything(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    options: ScoringOptions | None = None,
    *,
    images: Sequence[Path] | None = None,
    training_captions: Collection[str] | None = None,
    device: str = "cpu",
) -> ScoreSheet:
    """Score captions by every metric that can run here.

    `images` are the pictures in the order of the candidates, for CLIPScore; `training_captions`
    are as people wrote them. Raises `UserError` where candidates and references do not fit.
    """
    options = options or ScoringOptions()
    base = score_captions(candidates, references, tokenizer=options.tokenizer)
    tokenize = TOKENIZERS[base.tokenizer]
    more: dict[str, FloatArray] = {}
    corpus: dict[str, float | None] = dict(base.corpus)
    skipped: dict[str, str] = {}
    if not base.has_cider:
        corpus["CIDEr"], skipped["CIDEr"] = None, _without_cider(len(base.ids))
    java = {"METEOR": meteor, "SPICE": spice} if options.java and base.tokenizer == "ptb" else {}
    for name in ("METEOR", "SPICE"):
        reason = FOR_ENGLISH if options.java else "not asked for; leave out --no-java"
        result = JavaScores(None, None, reason)
        if name in java:
            result = java[name](candidates, references)
        corpus[name] = result.corpus
        if result.per_image is not None:
            more[name] = result.per_image
        else:
            skipped[name] = (result.skipped or "").removeprefix(f"{name} did not run: ")
    clip, reason = _clip_scores(candidates, references, images, options.clip_model, device)
    more |= clip
    skipped |= {} if clip else {"CLIPScore": reason, "RefCLIPScore": reason}
    for name in ("CLIPScore", "RefCLIPScore"):
        corpus[name] = float(np.mean(clip[name])) if clip else None
    # METEOR of many pictures is no mean: it is made of counts that only its program knows.
    means = {name: values for name, values in more.items() if name != "METEOR"}
    known = None if training_captions is None else set(tokenize(list(training_captions)))
    return ScoreSheet(
        base=base,
        corpus=corpus,
        per_image={
            name: values
            for name, values in {**base.per_image, **more}.items()
            if corpus[name] is not None
        },
        intervals={
            name: interval
            for name, interval in bootstrap_intervals(base, means, seed=options.seed).items()
            # One picture tells nothing of others: each of its intervals would have no width.
            if corpus[name] is not None and len(base.ids) > 1
        },
        skipped=skipped,
        diversity=describe_captions(tokenize(list(candidates.values())), known),
    )


def references_a_picture(references: Iterable[Sequence[str]]) -> str:
    """How many references pictures have: one number, or the least and the most."""
    counts = [len(texts) for texts in references]
    return "-".join(str(count) for count in sorted({min(counts), max(counts)}))


def _without_cider(pictures: int) -> str:
    """Why there is no CIDEr."""
    rule = "an n-gram weighs log(pictures / pictures whose references have it)"
    if pictures == 1:
        return f"one picture has none: {rule}, and log(1 / 1) is 0"
    return f"{rule}, and here the references of all pictures have the same ones"


def _clip_scores(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    images: Sequence[Path] | None,
    clip_model: str,
    device: str,
) -> tuple[dict[str, FloatArray], str]:
    """CLIPScore and RefCLIPScore, or nothing and the reason."""
    if not clip_model:
        folder = "--image-dir FOLDER " if images is None else ""
        return {}, f"not asked for; add {folder}--clip-model openai/clip-vit-base-patch32"
    if images is None:
        return {}, "needs the pictures; add --image-dir FOLDER"
    from captioning.metrics.clip_score import ClipJudge

    try:
        judge = ClipJudge.from_pretrained(clip_model, device=device)
    except UserError as error:
        return {}, " ".join(str(error).split())
    scores = judge.score(
        images, list(candidates.values()), [references[picture] for picture in candidates]
    )
    return {"CLIPScore": scores.clip_score, "RefCLIPScore": scores.ref_clip_score}, ""
