"""Every setting of the project: its name, default and meaning.

A value comes from the default here, then from `--config FILE.toml`, then from a flag. Flags are
read in either case, with dashes or underscores: `--BATCH_SIZE 64`, `--batch-size 64`. Secrets
(API keys, tokens) never enter a `Config`; they stay in the environment.

    config = parse_config(["--config", "presets/demo.toml", "--NUM_EPOCHS", "3"])
"""

import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from captioning.system.errors import UserError
from captioning.system.options import check_value, parse_options, unknown_name
from captioning.system.setting_rules import problems_of

CONFIG_FLAG = "--config"
COMPARE_TABLE = "compare"
"""A file with this table describes several runs (`compare.py`)."""
PER_RUN = {"RUN_NAME", "RANDOM_SEED", "OUTPUT_DIR", "RESUME_CHECKPOINT_PATH"}
"""Settings that the comparison itself gives each run."""
SHARED = {
    *("DATASET", "DATASET_SOURCE", "DATASET_REVISION", "DATA_DIR", "IMAGE_DIR", "CAPTIONS_FILE"),
    *("STREAM", "STREAM_STEPS_PER_EPOCH", "STREAM_HELD_OUT"),
    *("VALIDATION_FRACTION", "TEST_FRACTION", "MAX_BAD_FRACTION"),
    *("VALIDATION_IMAGES", "BEAM_SIZE"),
}
"""Settings without which captions or scores could not be compared."""
WITHOUT_EFFECT = {
    *PER_RUN,
    *("DATA_DIR", "DEVICE", "NUM_WORKERS", "COMPILE", "MAX_BAD_FRACTION"),
    *("SHARDING", "GRADIENT_CHECKPOINTING"),
    *("SAVE_INTERVAL_STEPS", "SAVE_INTERVAL_MINUTES", "KEEP_CHECKPOINTS", "STOP_ON_SAVE_ERROR"),
    *("LOG_INTERVAL", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_RUN_NAME", "WANDB_MODE"),
    *("WANDB_LOG_BEST", "HF_REPO_ID", "HF_UPLOAD_BEST_CHECKPOINTS", "HF_PRIVATE"),
}
"""Settings that say where and how a run computes and logs, not what comes out."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of one run."""

    # Data
    DATASET: str = "flickr30k"
    """flickr30k, flickr8k, coco, demo, or a Hub data set id; with IMAGE_DIR and CAPTIONS_FILE any
    name for your own pictures."""
    DATASET_SOURCE: str = ""
    """Where DATASET comes from, if not from its usual place: a Hub data set id, or a folder or zip
    on disk that holds the pictures and their captions file."""
    DATASET_REVISION: str = ""
    """Branch, tag or commit of the Hub data set ("" = its usual one)."""
    DATA_DIR: str = "data"
    """Folder in which prepared data sets lie, one folder each."""
    IMAGE_DIR: str = ""
    """Folder or zip with your own pictures; needs CAPTIONS_FILE."""
    CAPTIONS_FILE: str = ""
    """Captions of the pictures in IMAGE_DIR: JSON, JSON Lines, CSV, results.csv or token file."""
    STREAM: str = ""
    """Train on shards as they pass: "shards/*.tar", a folder, a Hub data set; several as
    "a/*.tar = 3; b/*.parquet = 1" with their weights. DATASET then is what is validated on."""
    STREAM_STEPS_PER_EPOCH: int = 1000
    """Steps of an epoch of a stream, which itself has no end."""
    STREAM_HELD_OUT: int = 1000
    """First pictures of a stream that are kept from training, half for validation, half for test,
    where DATASET is not there yet and no known one."""
    STREAM_CACHE_GB: float = 0.0
    """Room on disk for features of a stream's pictures, so that what has passed once is neither
    fetched, decoded nor encoded again (0 = none are kept; a frozen encoder only)."""
    VALIDATION_FRACTION: float = 0.1
    """Share of the pictures for validation, where the source has no splits."""
    TEST_FRACTION: float = 0.1
    """Share of the pictures for the test split, where the source has no splits."""
    MAX_BAD_FRACTION: float = 0.01
    """Share of missing, unreadable or caption-less pictures above which preparation, or a
    stream, refuses."""

    # Run
    OUTPUT_DIR: str = "checkpoints"
    """Folder in which runs lie, one folder each."""
    RUN_NAME: str = ""
    """Name of the run's folder ("" = data set and encoder)."""
    RANDOM_SEED: int = 42
    """Seed of initial weights, splits, batch order, dropout and sampling."""
    DEVICE: str = "auto"
    """auto (cuda, else mps, else cpu), cpu, cuda, cuda:1, mps."""
    PRECISION: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the model; auto is bf16 on GPUs that have it, fp32 elsewhere."""
    COMPILE: Literal["auto", "on", "off"] = "auto"
    """torch.compile for the training step; auto is on for CUDA (not measured yet), else off."""
    NUM_WORKERS: int = -1
    """Processes that decode pictures (-1 = one a core, 8 at most; 0 = in the main process)."""

    # Encoder
    ENCODER_MODEL_NAME: str = "openai/clip-vit-base-patch32"
    """Vision model of the Hub or a local folder; "random:FOLDER" builds the config.json in FOLDER
    with random weights."""
    ENCODER_REVISION: str = ""
    """Branch, tag or commit of the encoder on the Hub ("" = main)."""
    IMAGE_PROCESSOR_NAME: str = ""
    """Image processor of the Hub or a local folder ("" = the encoder's own)."""
    ENCODER_IMAGE_SIZE: int = 0
    """Side in pixels of the pictures that the encoder reads (0 = its image processor's own); its
    positions are interpolated."""
    ENCODER_LAYERS: str = "last"
    """Layers of the encoder whose outputs are the features: last, or places from the end, such as
    "-2"; several ("-1,-4") are put side by side."""
    ENCODER_TOKENS: Literal["all", "patches", "cls"] = "all"
    """all tokens of the encoder, its patches alone, or its class token alone (where it has none,
    its pooled vector)."""
    ENCODER_TRAINED_BLOCKS: int = 0
    """Last blocks of the encoder that are trained too (0 = frozen, -1 = the whole encoder)."""
    ENCODER_LEARNING_RATE: float = 1e-5
    """Peak learning rate of the encoder's trained blocks."""
    ENCODER_LAYER_DECAY: float = 1.0
    """Each trained block of the encoder learns at this share of the next block's rate."""
    ENCODER_WARMUP_STEPS: int = -1
    """Steps of warm-up of the encoder's learning rate (-1 = as WARMUP_STEPS)."""
    ENCODER_START_EPOCH: int = 0
    """Epochs that the decoder is trained alone, before the encoder's blocks join in."""
    ENCODER_LORA_RANK: int = 0
    """Train LoRA adapters of this rank beside the linear layers of the trained blocks, instead of
    the blocks themselves (0 = off; pip install -e .[lora])."""
    SHARDING: Literal["off", "on"] = "off"
    """Share a trained encoder's weights, gradients and moments out over the processes (FSDP2)."""
    GRADIENT_CHECKPOINTING: bool = False
    """Compute the activations of the encoder's trained blocks a second time instead of keeping
    them: less memory, slower."""
    CACHE_FEATURES: bool = True
    """Encode each picture once and keep its features on disk (a frozen encoder only)."""

    FEATURE_VIEWS: int = 1
    """Views of each training picture in the feature cache: itself and FEATURE_VIEWS - 1 altered by
    AUGMENTATION, of which each epoch draws one."""
    AUGMENTATION: str = "none"
    """What alters training pictures, some of "crop,flip,colour"; a flip swaps left and right in
    their captions, and is left out where that cannot be done for certain. Needs pictures that are
    read each time (a trained encoder, a stream, or CACHE_FEATURES false) or FEATURE_VIEWS."""

    # Model
    PROJECTION_DIM: int = 512
    """Width of the memory that cross-attention reads."""
    DECODER_EMBED_DIM: int = 512
    """Width of the decoder."""
    DECODER_LAYERS: int = 6
    """Blocks of the decoder."""
    DECODER_HEADS: int = 8
    """Attention heads of a block; divides DECODER_EMBED_DIM."""
    DECODER_FF_DIM: int = 2048
    """Hidden width of a block's feed-forward network."""
    DECODER_DROPOUT: float = 0.1
    """Share of activations dropped in training."""
    POSITIONS: Literal["sinusoidal", "learned"] = "sinusoidal"
    """How the decoder knows a token's place."""
    VOCAB_SIZE: int = 10_000
    """Entries of the BPE vocabulary at most (fewer where the captions hold fewer)."""
    LOWERCASE_CAPTIONS: bool = False
    """Read and write captions in lower case."""
    MAX_SEQ_LEN: int = 64
    """Tokens of a caption at most, <START> and <END> counted."""

    # Training
    BATCH_SIZE: int = 256
    """Captions (picture-caption pairs) a step, over all processes."""
    MICRO_BATCH_SIZE: int = 0
    """Captions computed at a time; smaller ones are accumulated to BATCH_SIZE (0 = all at once)."""
    CAPTIONS_PER_STEP: int = 0
    """Captions of a picture that share a step (0 = all of them)."""
    NUM_EPOCHS: int = 15
    """Times that each pair is trained on."""
    LEARNING_RATE: float = 5e-4
    """Peak learning rate of projection and decoder."""
    WEIGHT_DECAY: float = 0.05
    """AdamW's decay; matrices only."""
    ADAM_BETA1: float = 0.9
    """AdamW's decay of the gradient's mean."""
    ADAM_BETA2: float = 0.98
    """AdamW's decay of the gradient's square."""
    ADAM_EPS: float = 1e-8
    """AdamW's term against division by zero."""
    WARMUP_STEPS: int = 1000
    """Steps of linear warm-up (at most a tenth of the run), before the cosine."""
    GRAD_CLIP_VALUE: float = 1.0
    """Largest norm of the gradient (0 = no clipping)."""
    LABEL_SMOOTHING: float = 0.1
    """Share of the target's probability spread over the vocabulary."""
    EMA_DECAY: float = 0.0
    """Decay of the moving average of the weights that is validated and kept as `best` (0 = off)."""

    # Validation and generation
    VALIDATION_INTERVAL: int = 1
    """Epochs between validations."""
    VALIDATION_IMAGES: int = 500
    """Validation pictures that are captioned and scored each time (0 = none, -1 = all)."""
    BEST_METRIC: Literal["CIDEr", "loss"] = "CIDEr"
    """What decides which checkpoint is `best`."""
    BEAM_SIZE: int = 3
    """Beams in validation and evaluation (1 = greedy)."""

    # Checkpoints and logging
    RESUME_CHECKPOINT_PATH: str = ""
    """Checkpoint folder to go on from; "auto" = the newest of this run, or a fresh start."""
    SAVE_INTERVAL_STEPS: int = 0
    """Steps between saves of `last` (0 = off); each epoch's end saves it anyway."""
    SAVE_INTERVAL_MINUTES: float = 10.0
    """Minutes between saves of `last` (0 = off)."""
    KEEP_CHECKPOINTS: int = 0
    """Older `last` checkpoints to keep as step-N folders."""
    STOP_ON_SAVE_ERROR: bool = False
    """Stop where a checkpoint cannot be written (disk full); otherwise warn and try again later."""
    LOG_INTERVAL: int = 50
    """Steps between lines of metrics.jsonl."""
    WANDB_PROJECT: str = "image-captioning"
    """Weights & Biases project."""
    WANDB_ENTITY: str = ""
    """Weights & Biases user or team ("" = your default)."""
    WANDB_RUN_NAME: str = ""
    """Name of the run on Weights & Biases ("" = RUN_NAME)."""
    WANDB_MODE: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto = online where an API key is found, else offline."""
    WANDB_LOG_BEST: bool = False
    """Keep the best checkpoint as an artifact on Weights & Biases."""
    HF_REPO_ID: str = ""
    """Hub model repository for the best checkpoints, as user/name."""
    HF_UPLOAD_BEST_CHECKPOINTS: bool = False
    """Upload each new best checkpoint to HF_REPO_ID."""
    HF_PRIVATE: bool = False
    """Make HF_REPO_ID private if it has to be made."""

    def __post_init__(self) -> None:
        problems = list(problems_of(self))
        if problems:
            raise UserError(*problems)

    @property
    def run_name(self) -> str:
        """RUN_NAME, or a name made of the data set and the encoder."""
        if self.RUN_NAME:
            return self.RUN_NAME
        encoder = self.ENCODER_MODEL_NAME.rstrip("/").rsplit("/", 1)[-1].removeprefix("random:")
        return f"{self.dataset_name}-{encoder}"

    @property
    def dataset_name(self) -> str:
        """DATASET as a folder name."""
        return self.DATASET.replace("/", "--")

    @property
    def dataset_dir(self) -> Path:
        """The prepared data set."""
        return Path(self.DATA_DIR) / self.dataset_name

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        return Path(self.OUTPUT_DIR) / self.run_name


def parse_config(
    argv: Sequence[str] | None = None, *, base: Config | None = None, description: str = ""
) -> Config:
    """The settings of a command line (`sys.argv[1:]` by default), preset file included.

    What they do not name comes from `base`, or the defaults. Raises `UserError` with every problem
    of the preset and the flags. `--help` prints and exits.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    preset, argv = _take_preset(argv)
    defaults = load_config(preset, base=base) if preset else base or Config()
    description += " --config FILE.toml gives values that flags then override."
    return parse_options(Config, argv, default=defaults, description=description)


def load_config(path: str | os.PathLike[str], *, base: Config | None = None) -> Config:
    """`base` (the defaults) with the values of a TOML file, as `dump_config` or a preset has it."""
    values = read_toml(path)
    if isinstance(values.get(COMPARE_TABLE), dict):
        raise UserError(
            f"{path} describes a comparison of several runs: python compare.py --config {path}"
        )
    return with_values(base or Config(), values, place=str(path))


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a TOML file holds. Raises `UserError` naming the file."""
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.{_preset_advice()}") from None
    except (ValueError, RecursionError) as error:  # a TOMLDecodeError, mostly
        raise UserError(f"{path} is not TOML: {error}.") from None


def with_values(base: Config, values: Mapping[str, Any], *, place: str) -> Config:
    """`base` with settings by name; raises `UserError` with all problems, each naming `place`."""
    known = {field.name: field for field in fields(Config)}
    problems = []
    accepted: dict[str, Any] = {}
    for key, value in values.items():
        name = key.upper().replace("-", "_")
        if name not in known:
            problems.append(f"{place}: {unknown_name(key, known)}")
            continue
        if known[name].type is float and type(value) is int:
            value = float(value)
        problems += [f"{place}: {problem}" for problem in check_value(known[name], value)]
        accepted[name] = value
    if problems:
        raise UserError(*problems)
    try:
        return replace(base, **accepted)
    except UserError as error:
        raise UserError(*(f"{place}: {problem}" for problem in error.problems)) from None


def dump_config(config: Config) -> str:
    """`config` as TOML that `load_config` reads back to an equal `Config`."""
    lines = (f"{field.name} = {_toml(getattr(config, field.name))}" for field in fields(config))
    return "\n".join(lines) + "\n"


def result_settings(config: Config) -> dict[str, Any]:
    """The settings that decide a run's result, its seed left out."""
    return {
        field.name: getattr(config, field.name)
        for field in fields(Config)
        if field.name not in WITHOUT_EFFECT
    }


def _toml(value: str | bool | float) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return repr(value)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in escaped) + '"'


def _take_preset(argv: list[str]) -> tuple[str, list[str]]:
    """The value of --config and the rest of the flags."""
    rest, preset, words = [], "", iter(argv)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag.lower() != CONFIG_FLAG:
            rest.append(word)
            continue
        preset = value if equals else next(words, "")
        if not preset:
            raise UserError(f"--config needs a file.{_preset_advice()}")
    return preset, rest


def _preset_advice() -> str:
    folder = Path(__file__).parent / "presets"
    names = ", ".join(sorted(f"presets/{path.name}" for path in folder.glob("*.toml")))
    return f" Presets: {names}." if names else ""
