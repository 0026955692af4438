"""The model card of a checkpoint: a `README.md` for people and for the Hub, of what was measured.

The YAML at its top files the model under image-to-text and lists the scores as evaluation results
(`model-index`). What was not measured is not in the card.
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from captioning.metrics.tokenizers import TOKENIZERS
from captioning.system.markdown import as_code, as_plain_text
from captioning.system.privacy import mask_urls, without_places
from captioning.tracking.energy import JOULES_PER_KWH

if TYPE_CHECKING:
    from config import Config

TEMPLATES_DIR = Path(__file__).parent / "templates"
LIBRARY_NAME = "pytorch"
"""A name that the Hub knows, and can filter by."""
TASK = {"type": "image-to-text", "name": "Image captioning"}
HUB_DATASETS = {"flickr30k": "nlphuji/flickr30k"}
"""Where data sets that are known by a short name come from."""
METRIC_TYPES = {
    "BLEU-1": "bleu",
    "BLEU-2": "bleu",
    "BLEU-3": "bleu",
    "BLEU-4": "bleu",
    "ROUGE-L": "rouge",
    "CIDEr": "cider",
    "METEOR": "meteor",
    "SPICE": "spice",
    "CLIPScore": "clipscore",
}
"""Scores that a card lists, and the Hub's names for them."""
DATA_TERMS = {
    "demo": "The training pictures were drawn by the trainer itself; they are free to use.",
    "flickr8k": "Flickr8k may be used for non-commercial research and education.",
    "flickr30k": "Flickr30k may be used for non-commercial research and education.",
    "coco": "COCO's captions are under CC BY 4.0; its pictures keep the terms of Flickr.",
}
ENGLISH_DATA = ("demo", "flickr8k", "flickr30k", "coco")
HUB = "https://huggingface.co/"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is known of the training besides settings and scores; what is not, is left out."""

    provenance: Mapping[str, Any] | None = None
    """As `provenance.provenance` gives it."""
    step: int | None = None
    """Updates made up to this checkpoint."""
    seconds: float | None = None
    joules: float | None = None
    energy_sources: Sequence[str] = ()
    trained_parameters: int | None = None


@dataclass(frozen=True)
class Example:
    """A picture beside the card, and the model's caption of it."""

    file_name: str
    caption: str


def model_card(
    config: "Config",
    metrics: Mapping[str, Any],
    *,
    split: str = "validation",
    training: Training | None = None,
    examples: Sequence[Example] = (),
) -> str:
    """The text of `README.md`.

    `metrics` were measured on `split`; names unknown here, and None, are passed over. Examples are
    shown for drawn pictures only: others are not ours to publish.
    """
    training = training or Training()
    record = training.provenance or {}
    scores = {name: metrics[name] for name in METRIC_TYPES if is_number(metrics.get(name))}
    loss = metrics.get("validation_loss")
    encoder_states = {0: "frozen", -1: "trained along"}
    blocks = config.ENCODER_TRAINED_BLOCKS
    checkpoint = config.HF_REPO_ID or f"{without_places(str(config.run_dir))}/best"
    return _template().render(
        config=config,
        name=_model_name(config),
        front_matter=_front_matter(config, scores, split, _parent_name(record)),
        encoder_state=encoder_states.get(blocks, f"its last {blocks} blocks trained"),
        examples=examples if config.dataset[0] == "demo" else (),
        checkpoint=checkpoint,
        command=f"python generate.py --checkpoint {shlex.quote(checkpoint)} --image photo.jpg",
        encoder=without_places(config.ENCODER_MODEL_NAME),
        stream=without_places(mask_urls(config.STREAM)),
        scores={**scores, "loss per token": loss} if is_number(loss) else scores,
        pictures=metrics.get("num_images"),
        split=split,
        tokens=tokens_in_words(metrics.get("tokenizer", "ptb")),
        dataset=_dataset_id(config),
        training=training,
        settings=config.on_card,
        joules_per_kwh=JOULES_PER_KWH,
        code=record.get("code"),
        is_all_drawn=_is_all_drawn(config),
        terms=DATA_TERMS.get(config.dataset[0], "The training data's own terms apply."),
        **{name: record.get(name) or {} for name in ("data", "hardware", "packages", "parent")},
    )


@cache
def _template() -> Template:
    """The card's template, read once in a run: each checkpoint has a card."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES_DIR),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["thousands"] = "{:,}".format
    environment.filters |= {"plain": as_plain_text, "code": as_code, "quoted": json.dumps}
    return environment.get_template("card.md")


def _front_matter(
    config: "Config", scores: Mapping[str, float], split: str, parent: str = ""
) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    dataset = _dataset_id(config)
    results = [
        EvalResult(
            task_type=TASK["type"],
            task_name=TASK["name"],
            dataset_type=dataset or config.dataset_name,
            dataset_name=config.DATASET,
            dataset_split=split,
            metric_type=METRIC_TYPES[name],
            metric_name=name,
            metric_value=value,
        )
        for name, value in scores.items()
    ]
    return ModelCardData(
        language="en" if config.dataset[0] in ENGLISH_DATA else None,
        license="apache-2.0" if _is_all_drawn(config) else "other",
        library_name=LIBRARY_NAME,
        pipeline_tag="image-to-text",
        tags=["image-captioning", "image-to-text", "pytorch", "safetensors"],
        datasets=[dataset] if dataset else None,
        base_model=next(filter(_is_hub_id, (parent, config.encoder[0])), None),
        model_name=_model_name(config),
        eval_results=results or None,
    ).to_yaml()


def tokens_in_words(tokenizer: str) -> str:
    """What scores are comparable with."""
    if tokenizer == "ptb":
        return "raw values as coco-caption gives them"
    return f"coco-caption's formulas on other tokens, {TOKENIZERS[tokenizer].description}"


def _dataset_id(config: "Config") -> str:
    """The Hub's id of the training data; empty where it came from files."""
    if config.IMAGE_DIR:
        return ""
    if config.DATASET_SOURCE:
        source = config.DATASET_SOURCE.partition("@")[0]
        return source if _is_hub_id(source) else ""
    known = HUB_DATASETS.get(config.dataset[0], config.dataset[0])
    return known if _is_hub_id(known) else ""


def _parent_name(record: Mapping[str, Any]) -> str:
    """The repository of the model that the run began with; "" for none, or a folder."""
    name = str((record.get("parent") or {}).get("name", ""))
    found = HUB_ID.match(name.removeprefix(HUB)) if name.startswith(HUB) else None
    return found[0] if found else ""


def _is_hub_id(name: str) -> bool:
    """Whether it is written like one and is nothing on this disk."""
    return bool(HUB_ID.fullmatch(name)) and not Path(name).exists()


def _is_all_drawn(config: "Config") -> bool:
    return config.dataset[0] == "demo" and config.ENCODER_MODEL_NAME.startswith("random:")


def _model_name(config: "Config") -> str:
    return config.HF_REPO_ID.rpartition("/")[2] or config.run_name


def is_number(value: object) -> bool:
    """Whether a score was measured: a number, and none that is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
