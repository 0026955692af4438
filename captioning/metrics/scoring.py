"""Every score of a set of captions, with its interval, or the reason why it is missing.

Knows captions, references and pictures' files, no model of ours: it scores any model's captions.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from captioning.metrics.cider import DocumentFrequencies
from captioning.metrics.coco import Scores, score_captions
from captioning.metrics.frequency_files import load_frequencies
from captioning.metrics.hallucination import ObjectWords, read_objects
from captioning.metrics.intervals import Diversity, Interval, bootstrap_intervals, describe_captions
from captioning.metrics.java import JavaScores, meteor, spice
from captioning.metrics.ngrams import FloatArray
from captioning.metrics.tokenizers import TOKENIZERS, TokenizerName
from captioning.sources.records import PreparedSplit
from captioning.system.errors import UserError

RECALLS = (1, 5, 10)
FOR_ENGLISH = "its program reads English alone, and the tokens here are not those of English"


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """How to score."""

    tokenizer: TokenizerName = "auto"
    """A name of `tokenizers`."""
    java: bool = True
    """Compute METEOR and SPICE where Java and their files are there."""
    document_frequencies: str = ""
    """A file of `frequency_files` by which CIDEr weighs words; "" for those of the references."""
    objects: str = ""
    """A list of `hallucination`: words of objects, whose mentions are checked; "" for none."""
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
    frequencies: str = ""
    """Where CIDEr's document frequencies were counted; "" where on these references."""

    @property
    def protocol(self) -> dict[str, str]:
        """What a reader must know to compare the numbers."""
        frequencies = {"document frequencies": self.frequencies} if self.frequencies else {}
        return {"tokenizer": TOKENIZERS[self.base.tokenizer].description, **frequencies}

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
    path = options.document_frequencies
    frequencies = load_frequencies(path) if path else None
    base = score_captions(
        candidates, references, tokenizer=options.tokenizer, frequencies=frequencies
    )
    tokenize = TOKENIZERS[base.tokenizer]
    captions = tokenize(list(candidates.values()))
    corpus: dict[str, float | None] = dict(base.corpus)
    skipped: dict[str, str] = {}
    if not base.has_cider:
        corpus["CIDEr"], skipped["CIDEr"] = None, _without_cider(len(base.ids))
    more, values, reasons = _java_scores(candidates, references, options, base)
    corpus, skipped = {**corpus, **values}, {**skipped, **reasons}
    clip, reason = _clip_scores(candidates, references, images, options.clip_model, device)
    more |= clip
    skipped |= {} if clip else {"CLIPScore": reason, "RefCLIPScore": reason}
    corpus |= {"CLIPScore": None, "RefCLIPScore": None}
    corpus |= {name: float(np.mean(found)) for name, found in clip.items()}
    if options.objects:
        words = ObjectWords(read_objects(options.objects), tokenize)
        others = [tokenize(references[picture]) for picture in base.ids]
        found = words.hallucination(captions, others)
        more["CHAIRs"] = found.of_captions
        corpus |= {"CHAIRs": float(np.mean(found.of_captions)), "CHAIRi": found.of_mentions}
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
        diversity=describe_captions(captions, known),
        frequencies=_counted_on(path, frequencies),
    )


def score_split(
    split: PreparedSplit,
    captions: Sequence[str],
    options: ScoringOptions | None = None,
    *,
    device: str = "cpu",
) -> ScoreSheet:
    """Score a caption of each picture of a prepared split, in its order."""
    return score_everything(
        dict(zip(split.ids, captions, strict=True)),
        split.references,
        options,
        images=split.images,
        training_captions=split.training_captions,
        device=device,
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


def _counted_on(path: str, frequencies: DocumentFrequencies | None) -> str:
    if frequencies is None:
        return ""
    return f"{Path(path).name}, of {frequencies.pictures:,} pictures"


def _java_scores(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    options: ScoringOptions,
    base: Scores,
) -> tuple[dict[str, FloatArray], dict[str, float | None], dict[str, str]]:
    """METEOR, SPICE and, where that runs, SPIDEr (Liu et al., 2017), the mean of SPICE and CIDEr:
    of each picture, over all, and why there are none."""
    of_each: dict[str, FloatArray] = {}
    corpus: dict[str, float | None] = {}
    skipped: dict[str, str] = {}
    programs = {"METEOR": meteor, "SPICE": spice}
    is_english = base.tokenizer == "ptb"
    for name, program in programs.items():
        if options.java and is_english:
            result = program(candidates, references)
        else:
            reason = FOR_ENGLISH if options.java else "not asked for; leave out --no-java"
            result = JavaScores(None, None, reason)
        corpus[name] = result.corpus
        if result.per_image is not None:
            of_each[name] = result.per_image
        else:
            skipped[name] = (result.skipped or "").removeprefix(f"{name} did not run: ")
    if "SPICE" in of_each and base.has_cider:
        of_each["SPIDEr"] = (of_each["SPICE"] + base.per_image["CIDEr"]) / 2
        corpus["SPIDEr"] = float(np.mean(of_each["SPIDEr"]))
    return of_each, corpus, skipped


def _clip_scores(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    images: Sequence[Path] | None,
    clip_model: str,
    device: str,
) -> tuple[dict[str, FloatArray], str]:
    """CLIPScore, RefCLIPScore and retrieval, or nothing and the reason."""
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
    found = {"CLIPScore": scores.clip_score, "RefCLIPScore": scores.ref_clip_score}
    # Among so few pictures that all are found, it would say nothing.
    recalls = {f"R@{best}": scores.recall(best) for best in RECALLS if best < len(images)}
    return found | recalls, ""
