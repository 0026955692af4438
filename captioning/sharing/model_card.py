"""The model card of a checkpoint: a `README.md` for people and for the Hub, of what was measured.

The YAML at its top files the model under image-to-text and lists the scores as evaluation results
(`model-index`). What was not measured is not in the card.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioning.tracking.energy import JOULES_PER_KWH
from config import Config

LIBRARY_NAME = "image-captioning-trainer"
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
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SHOWN_SETTINGS = (
    "RANDOM_SEED",
    "PROJECTION_DIM",
    "DECODER_EMBED_DIM",
    "DECODER_LAYERS",
    "DECODER_HEADS",
    "DECODER_FF_DIM",
    "MAX_SEQ_LEN",
    "BATCH_SIZE",
    "NUM_EPOCHS",
    "LEARNING_RATE",
    "WEIGHT_DECAY",
    "WARMUP_STEPS",
    "LABEL_SMOOTHING",
    "EMA_DECAY",
)


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
    config: Config,
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
    scores = {name: metrics[name] for name in METRIC_TYPES if _is_number(metrics.get(name))}
    sections = [
        f"---\n{_front_matter(config, scores, split)}\n---",
        f"# {_model_name(config)}",
        _introduction(config),
        _examples(examples) if config.DATASET == "demo" else "",
        _usage(config),
        _scores(scores, metrics, split),
        _data(config, training),
        _training(config, training),
        _limits(config),
        f"## Licence\n\n{_licence(config)}",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(config: Config, scores: Mapping[str, float], split: str) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    dataset = _dataset_id(config)
    results = [
        EvalResult(
            task_type="image-to-text",
            task_name="Image captioning",
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
        language="en" if config.DATASET in ENGLISH_DATA else None,
        license="apache-2.0" if _is_all_drawn(config) else "other",
        library_name=LIBRARY_NAME,
        pipeline_tag="image-to-text",
        tags=["image-captioning", "image-to-text", "pytorch"],
        datasets=[dataset] if dataset else None,
        base_model=config.ENCODER_MODEL_NAME if _is_hub_id(config.ENCODER_MODEL_NAME) else None,
        model_name=_model_name(config),
        eval_results=results or None,
    ).to_yaml()


def _introduction(config: Config) -> str:
    state = {0: "frozen", -1: "trained along"}.get(
        config.ENCODER_TRAINED_BLOCKS, f"its last {config.ENCODER_TRAINED_BLOCKS} blocks trained"
    )
    return (
        "Writes a one-sentence caption for a picture. The vision encoder "
        f"`{config.ENCODER_MODEL_NAME}` ({state}) turns the picture into patch features; a "
        f"transformer decoder of {config.DECODER_LAYERS} layers reads them through "
        "cross-attention and writes the caption token by token."
    )


def _examples(examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    cells = [(f"![a drawn scene]({item.file_name})", item.caption) for item in examples]
    rows = [f"| {picture} | {caption.replace('|', ' ')} |" for picture, caption in cells]
    return "\n".join(["## Examples", "", "| picture | caption |", "|---|---|", *rows])


def _usage(config: Config) -> str:
    name = config.HF_REPO_ID or str(config.run_dir / "best")
    return f"""## How to use it

From a clone of the trainer, with its requirements installed:

```python
from generate import Captioner

captioner = Captioner.from_pretrained("{name}")
print(captioner("photo.jpg"))
```

or on the command line: `python generate.py --checkpoint {name} --image photo.jpg`"""


def _scores(scores: Mapping[str, float], metrics: Mapping[str, Any], split: str) -> str:
    rows = [f"| {name} | {value:.4f} |" for name, value in scores.items()]
    loss = metrics.get("validation_loss")
    if _is_number(loss):
        rows.append(f"| loss per token | {loss:.4f} |")
    if not rows:
        return ""
    pictures = metrics.get("num_images")
    where = f"{pictures:,} pictures of the" if isinstance(pictures, int) else "The"
    intro = f"{where} {split} split, raw values as coco-caption gives them."
    return "\n".join(["## Scores", "", intro, "", "| metric | value |", "|---|---|", *rows])


def _data(config: Config, training: Training) -> str:
    data = (training.provenance or {}).get("data") or {}
    dataset = _dataset_id(config)
    source = f", from [{dataset}](https://huggingface.co/datasets/{dataset})" if dataset else ""
    lines = [f"`{config.DATASET}`{source}."]
    if config.STREAM:
        held_out = f"validated on `{config.DATASET}`{source}"
        lines = [f"Trained on a stream, `{config.STREAM}`; {held_out}."]
    if data.get("pictures"):
        counts = (f"{count:,} for {split}" for split, count in data["pictures"].items() if count)
        lines.append(f"Pictures: {', '.join(counts)}. Splits are by picture.")
    if data.get("sha256"):
        lines.append(f"Fingerprint of names and captions: `{data['sha256'][:16]}`.")
    return "## Data\n\n" + "\n".join(f"* {line}" for line in lines)


def _training(config: Config, training: Training) -> str:
    record = training.provenance or {}
    hardware, code = record.get("hardware") or {}, record.get("code")
    facts: list[tuple[str, str | None]] = [
        ("trained parameters", _formatted("{:,}", training.trained_parameters)),
        ("steps up to this checkpoint", _formatted("{:,}", training.step)),
        ("time", _formatted("{:.2f} hours", training.seconds, 3600)),
        ("device", hardware.get("device")),
        ("processor", hardware.get("processor")),
        ("energy", _energy(training)),
        ("code", f"commit `{code['commit']}`{_dirty(code)}" if code else None),
        ("torch", (record.get("packages") or {}).get("torch")),
        ("transformers", (record.get("packages") or {}).get("transformers")),
    ]
    settings = [(name, str(getattr(config, name))) for name in SHOWN_SETTINGS]
    rows = [f"| {name} | {value} |" for name, value in [*facts, *settings] if value]
    return "\n".join(["## Training", "", "| | |", "|---|---|", *rows, "", "All in `config.toml`."])


def _limits(config: Config) -> str:
    seen = "drawn scenes of a few objects" if config.DATASET == "demo" else "its training pictures"
    return f"""## Limits and biases

* It describes what resembles {seen}; of other pictures it says something fluent and wrong.
* It can name objects, numbers, colours and relations that are not there. Do not rely on it where a
  wrong description does harm, and let a person check captions that others depend on.
* It repeats the habits of the people who wrote the training captions, with their guesses at gender,
  age, origin and occupation, and those of the encoder's pretraining.
* It cannot read text in pictures, count beyond a few, or recognise who somebody is."""


def _licence(config: Config) -> str:
    terms = DATA_TERMS.get(config.DATASET, "The training data's own terms apply.")
    if _is_all_drawn(config):
        return f"Apache-2.0. {terms}"
    return f"{terms} The encoder `{config.ENCODER_MODEL_NAME}` has a licence of its own."


def _dataset_id(config: Config) -> str:
    """The Hub's id of the training data; empty where it came from files."""
    if config.IMAGE_DIR:
        return ""
    if config.DATASET_SOURCE:
        return config.DATASET_SOURCE if _is_hub_id(config.DATASET_SOURCE) else ""
    known = HUB_DATASETS.get(config.DATASET, config.DATASET)
    return known if _is_hub_id(known) else ""


def _is_hub_id(name: str) -> bool:
    """Whether it is written like one and is nothing on this disk."""
    return bool(HUB_ID.fullmatch(name)) and not Path(name).exists()


def _is_all_drawn(config: Config) -> bool:
    return config.DATASET == "demo" and config.ENCODER_MODEL_NAME.startswith("random:")


def _model_name(config: Config) -> str:
    return config.HF_REPO_ID.rpartition("/")[2] or config.run_name


def _energy(training: Training) -> str | None:
    if training.joules is None:
        return None
    source = f" ({', '.join(training.energy_sources)})" if training.energy_sources else ""
    return f"{training.joules / JOULES_PER_KWH:.3g} kWh{source}"


def _formatted(text: str, number: float | None, unit: float = 1) -> str | None:
    return None if number is None else text.format(number / unit if unit != 1 else number)


def _dirty(code: Mapping[str, Any]) -> str:
    return ", with changes" if code["dirty"] else ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
