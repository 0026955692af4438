"""Every setting of the project: its name, default, meaning and rule.

A value comes from the default here, then from `--config FILE.toml`, then from a flag. Flags are
read in either case, with dashes or underscores: `--BATCH_SIZE 64`, `--batch-size 64`. Secrets
(API keys, tokens) never enter a `Config`; they stay in the environment.

    config = parse_config(["--config", "presets/demo.toml", "--NUM_EPOCHS", "3"])

What is true of a setting stands beside its type: what it must be, and its roles.
"""

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from captioning.comparison.comparison_file import COMPARE_TABLE
from captioning.system.combinations import combinations
from captioning.system.errors import UserError
from captioning.system.older_settings import BECAME, from_older
from captioning.system.options import (
    check_value,
    notes_of,
    parse_options,
)
from captioning.system.rules import (
    ARCHITECTURE,
    CACHE,
    DATASET_NAME,
    EVEN,
    FF_WIDTH,
    FILE_NAME,
    FRACTION,
    INTERVAL,
    KINDS_OF_AUGMENTATION,
    LAYERS,
    LONGEST_CAPTION,
    MAY_CHANGE,
    MOST_BEAMS,
    NO_EFFECT,
    NOT_EMPTY,
    OF_ENCODER,
    OF_OWN_DECODER,
    OF_PRETRAINED,
    OF_TRAINED_ENCODER,
    ON_CARD,
    PER_RUN,
    POSITIVE,
    SEED,
    SHARE,
    SHARED,
    TYPED,
    WIDEST,
    WIDTH,
    Role,
    at_least,
    between,
    bytes_of,
    within,
)
from captioning.system.toml_files import read_toml, to_toml, with_values


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of one run."""

    # Every day
    DATASET: Annotated[str, DATASET_NAME, SHARED] = "flickr30k"
    """flickr30k, flickr8k, coco, demo, or a Hub data set id (user/name or user/name@revision); with
    IMAGE_DIR any name for your own pictures."""
    IMAGE_DIR: Annotated[str, MAY_CHANGE, SHARED, TYPED] = ""
    """Folder or zip with your own pictures."""
    CAPTIONS_FILE: Annotated[str, MAY_CHANGE, SHARED, TYPED] = ""
    """Their captions, in any form of docs/data.md ("" = those that IMAGE_DIR holds)."""
    ENCODER_MODEL_NAME: Annotated[str, NOT_EMPTY, OF_ENCODER] = "openai/clip-vit-base-patch32"
    """Vision model of the Hub (user/name or user/name@revision) or a local folder; "random:FOLDER"
    builds the config.json in FOLDER with random weights."""
    RUN_NAME: Annotated[str, FILE_NAME, NO_EFFECT, PER_RUN, TYPED] = ""
    """Name of the run's folder ("" = data set and encoder, or what the run begins with)."""
    INIT_CHECKPOINT_PATH: str = ""
    """Checkpoint folder, or repository of the Hub, of a model that a new run begins with: its
    weights, vocabulary, architecture and encoder. Data, optimizer and schedule are new."""
    RESUME_CHECKPOINT_PATH: Annotated[str, NO_EFFECT, PER_RUN, TYPED] = ""
    """Checkpoint folder to go on from; "auto" = the newest of this run, or a fresh start."""
    NUM_EPOCHS: Annotated[int, within(0, 1_000_000), MAY_CHANGE, ON_CARD] = 15
    """Times that each pair is trained on (0 = self-critical training alone, of a model that has
    learnt already)."""
    BATCH_SIZE: Annotated[int, within(1, 1_000_000), ON_CARD] = 256
    """Captions (picture-caption pairs) a step, over all processes."""
    LEARNING_RATE: Annotated[float, POSITIVE, MAY_CHANGE, ON_CARD] = 5e-4
    """Peak learning rate of projection and decoder."""
    BEAM_SIZE: Annotated[int, within(1, MOST_BEAMS), MAY_CHANGE, SHARED] = 3
    """Beams in validation and evaluation (1 = greedy)."""
    LENGTH_PENALTY: Annotated[float, MAY_CHANGE, SHARED] = 1.0
    """Beams are ranked by their sum of log-probabilities over length ** LENGTH_PENALTY (0 = plain
    sums; more favours longer captions)."""
    DEVICE: Annotated[str, NO_EFFECT] = "auto"
    """auto (cuda, else mps, else cpu), cpu, cuda, cuda:1, mps."""
    HF_REPO_ID: Annotated[str, NO_EFFECT, TYPED] = ""
    """Hub model repository for the best checkpoints, as user/name."""

    # Data
    DATASET_SOURCE: Annotated[str, MAY_CHANGE, SHARED, TYPED] = ""
    """Where DATASET comes from, if not from its usual place: a Hub data set id (user/name or
    user/name@revision), or a folder or zip on disk that holds the pictures and their captions
    file."""
    IMAGE_COLUMN: Annotated[str, MAY_CHANGE, SHARED] = ""
    """Column or key of the pictures' files in a table of captions ("" = found by its values)."""
    CAPTION_COLUMN: Annotated[str, MAY_CHANGE, SHARED] = ""
    """Column or key of the captions, or several with commas between ("" = found by its name)."""
    DATA_DIR: Annotated[str, NO_EFFECT, SHARED, TYPED] = "data"
    """Folder in which prepared data sets lie, one folder each."""
    HELD_OUT_FRACTION: Annotated[float, between(0, 0.5), SHARED] = 0.1
    """Share of the pictures for validation, and as many for test, where the source has no
    splits."""
    MAX_BAD_FRACTION: Annotated[float, FRACTION, NO_EFFECT, SHARED] = 0.01
    """Share of missing, unreadable or caption-less pictures above which preparation, or a
    stream, refuses."""
    STREAM: Annotated[str, SHARED] = ""
    """Train on shards as they pass: "shards/*.tar", a folder, a Hub data set, or the training
    pictures of a prepared data set ("data/flickr8k"); several as "a/*.tar = 3; data/mine = 1" with
    their weights. DATASET then is what is validated on; where it is not there yet, the first
    pictures of the stream become it."""
    STREAM_STEPS_PER_EPOCH: Annotated[int, within(1, 1_000_000_000), SHARED] = 1000
    """Steps of an epoch of a stream, which itself has no end."""
    FEATURE_CACHE: Annotated[str, CACHE] = "on"
    """on = encode each picture once and keep its features on disk (a frozen encoder only); off; or
    a size such as 500GB: as much room for features of a stream's pictures, so that what has passed
    once is neither fetched, decoded nor encoded again."""
    FEATURE_VIEWS: Annotated[int, within(1, 1_000)] = 1
    """Views of each training picture in the feature cache: itself and FEATURE_VIEWS - 1 altered by
    AUGMENTATION, of which each epoch draws one."""
    AUGMENTATION: Annotated[str, KINDS_OF_AUGMENTATION] = "none"
    """What alters training pictures, some of "crop,flip,colour"; a flip swaps left and right in
    their captions, and is left out where that cannot be done for certain. Needs pictures that are
    read each time (a trained encoder, a stream, or FEATURE_CACHE off) or FEATURE_VIEWS."""
    NUM_WORKERS: Annotated[int, within(-1, 256), NO_EFFECT] = -1
    """Processes that decode pictures (-1 = one a core, 8 at most; 0 = in the main process)."""

    # Encoder
    IMAGE_PROCESSOR_NAME: Annotated[str, OF_ENCODER] = ""
    """Image processor of the Hub or a local folder ("" = the encoder's own)."""
    ENCODER_IMAGE_SIZE: Annotated[int, within(0, 4_096), OF_ENCODER] = 0
    """Side in pixels of the pictures that the encoder reads (0 = its image processor's own); its
    positions are interpolated."""
    ENCODER_LAYERS: Annotated[str, LAYERS, OF_ENCODER] = "last"
    """Layers of the encoder whose outputs are the features: last, or places from the end, such as
    "-2"; several ("-1,-4") are put side by side."""
    ENCODER_TOKENS: Annotated[Literal["all", "patches", "cls"], OF_ENCODER] = "all"
    """all tokens of the encoder, its patches alone, or its class token alone (where it has none,
    its pooled vector)."""
    ENCODER_POOLING: Annotated[int, within(1, 64), OF_ENCODER] = 1
    """Side of squares of patches that become one token, their mean: 2 makes a quarter as many (1 =
    as they are)."""
    ENCODER_TRAINED_BLOCKS: Annotated[int, at_least(-1)] = 0
    """Last blocks of the encoder that are trained too (0 = frozen, -1 = the whole encoder)."""
    ENCODER_LEARNING_RATE: Annotated[float, at_least(0), MAY_CHANGE] = 1e-5
    """Peak learning rate of the encoder's trained blocks."""
    ENCODER_LAYER_DECAY: Annotated[float, SHARE, OF_TRAINED_ENCODER] = 1.0
    """Each trained block of the encoder learns at this share of the next block's rate."""
    ENCODER_START_EPOCH: Annotated[int, at_least(0), OF_TRAINED_ENCODER] = 0
    """Epochs that the decoder is trained alone, before the encoder's blocks join in."""
    ENCODER_LORA_RANK: Annotated[int, within(0, WIDEST), OF_TRAINED_ENCODER] = 0
    """Train LoRA adapters of this rank beside the linear layers of the trained blocks, instead of
    the blocks themselves (0 = off; pip install -e .[lora])."""
    GRADIENT_CHECKPOINTING: Annotated[bool, NO_EFFECT, OF_TRAINED_ENCODER] = False
    """Compute the activations of the encoder's trained blocks a second time instead of keeping
    them: less memory, slower."""
    SHARDING: Annotated[Literal["off", "on"], NO_EFFECT, OF_TRAINED_ENCODER] = "off"
    """Share a trained encoder's weights, gradients and moments out over the processes (FSDP2)."""

    # Decoder
    PROJECTION_DIM: Annotated[int, WIDTH, ON_CARD, ARCHITECTURE] = 512
    """Width of the memory that cross-attention reads."""
    MEMORY_LAYERS: Annotated[int, within(0, 1_000), ON_CARD, ARCHITECTURE] = 0
    """Blocks of self-attention over a picture's tokens between projection and decoder, with the
    decoder's heads, feed-forward width and dropout."""
    DECODER_MODEL_NAME: Annotated[str, ON_CARD, ARCHITECTURE, OF_PRETRAINED] = ""
    """Language model of the GPT-2 family (gpt2, distilgpt2, user/name@revision, a local folder) as
    which the decoder begins: its blocks, embeddings and vocabulary ("" = random weights, and a
    vocabulary of the captions)."""
    DECODER_TRAINED: Annotated[Literal["all", "cross-attention"], ON_CARD, OF_PRETRAINED] = "all"
    """all of the decoder, or its cross-attention alone; projection and memory layers always."""
    DECODER_EMBED_DIM: Annotated[int, EVEN, ON_CARD, ARCHITECTURE, OF_OWN_DECODER] = 512
    """Width of the decoder."""
    DECODER_LAYERS: Annotated[int, within(1, 1_000), ON_CARD, ARCHITECTURE, OF_OWN_DECODER] = 6
    """Blocks of the decoder."""
    DECODER_HEADS: Annotated[int, WIDTH, ON_CARD, ARCHITECTURE, OF_OWN_DECODER] = 8
    """Attention heads of a block; divides DECODER_EMBED_DIM."""
    DECODER_FF_DIM: Annotated[int, FF_WIDTH, ON_CARD, ARCHITECTURE, OF_OWN_DECODER] = 2048
    """Hidden width of a block's feed-forward network."""
    DECODER_DROPOUT: Annotated[float, between(0, 1)] = 0.1
    """Share of activations dropped in training."""
    VOCAB_SIZE: Annotated[int, within(260, 500_000), ARCHITECTURE, OF_OWN_DECODER] = 10_000
    """Entries of the BPE vocabulary at most (fewer where the captions hold fewer)."""
    MAX_SEQ_LEN: Annotated[int, within(3, LONGEST_CAPTION), ON_CARD] = 64
    """Tokens of a caption at most, <START> and <END> counted."""

    # Optimization
    RANDOM_SEED: Annotated[int, SEED, PER_RUN, ON_CARD] = 42
    """Seed of initial weights, splits, batch order, dropout and sampling."""
    CAPTIONS_PER_STEP: Annotated[int, at_least(0)] = 0
    """Captions of a picture that share a step (0 = all of them)."""
    MICRO_BATCH_SIZE: Annotated[int, at_least(0)] = 0
    """Captions computed at a time; smaller ones are accumulated to BATCH_SIZE (0 = all at once)."""
    WEIGHT_DECAY: Annotated[float, at_least(0), ON_CARD] = 0.05
    """AdamW's decay; matrices only."""
    ADAM_BETA1: Annotated[float, between(0, 1)] = 0.9
    """AdamW's decay of the gradient's mean."""
    ADAM_BETA2: Annotated[float, between(0, 1)] = 0.98
    """AdamW's decay of the gradient's square."""
    ADAM_EPS: Annotated[float, POSITIVE] = 1e-8
    """AdamW's term against division by zero."""
    WARMUP_STEPS: Annotated[int, at_least(0), MAY_CHANGE, ON_CARD] = 1000
    """Steps of linear warm-up (at most a tenth of the run), before the cosine."""
    GRAD_CLIP_VALUE: Annotated[float, at_least(0), MAY_CHANGE] = 1.0
    """Largest norm of the gradient (0 = no clipping)."""
    LABEL_SMOOTHING: Annotated[float, between(0, 1), ON_CARD] = 0.1
    """Share of the target's probability spread over the vocabulary."""
    EMA_DECAY: Annotated[float, between(0, 1), ON_CARD] = 0.0
    """Decay of the moving average of the weights that is validated and kept as `best` (0 = off)."""
    SCST_EPOCHS: Annotated[int, within(0, 1_000_000), MAY_CHANGE, ON_CARD] = 0
    """Epochs of self-critical training after NUM_EPOCHS (Rennie et al., 2017): captions that the
    model samples are rewarded by CIDEr-D."""
    SCST_SAMPLES: Annotated[int, within(2, 1_000), ON_CARD] = 5
    """Captions sampled of each picture; BATCH_SIZE of them a step."""
    SCST_SEARCH: Annotated[Literal["sample", "beam"], ON_CARD] = "sample"
    """Where these come from: drawn by their probability, or the best of as many beams (Cornia et
    al., 2020)."""
    SCST_LEARNING_RATE: Annotated[float, POSITIVE, MAY_CHANGE, ON_CARD] = 1e-5
    """Peak learning rate of self-critical training; a trained encoder's is lowered alike."""
    SCST_CROSS_ENTROPY: Annotated[float, at_least(0), ON_CARD] = 0.0
    """Weight of people's captions beside the reward."""
    PRECISION: Annotated[Literal["auto", "fp32", "bf16"], MAY_CHANGE] = "auto"
    """Arithmetic of the model; auto is bf16 on GPUs that have it, fp32 elsewhere."""
    CUDA_GRAPHS: Annotated[Literal["auto", "off"], NO_EFFECT] = "auto"
    """auto: a CUDA GPU that trains alone on kept features records the kernels of a step, once for
    each shape, and replays them."""

    # Validation and checkpoints
    VALIDATION_INTERVAL: Annotated[int, at_least(1), MAY_CHANGE] = 1
    """Epochs between validations."""
    VALIDATION_IMAGES: Annotated[int, at_least(-1), MAY_CHANGE, SHARED] = 500
    """Validation pictures that are captioned and scored each time (0 = none, -1 = all)."""
    BEST_METRIC: Literal["CIDEr", "loss"] = "CIDEr"
    """What decides which checkpoint is `best`."""
    OUTPUT_DIR: Annotated[str, NO_EFFECT, PER_RUN, TYPED] = "checkpoints"
    """Folder in which runs lie, one folder each."""
    SAVE_INTERVAL: Annotated[str, INTERVAL, NO_EFFECT] = "10m"
    """Between saves of `last`, besides each epoch's end: minutes ("10m") or steps ("500"); 0 =
    none."""
    KEEP_CHECKPOINTS: Annotated[int, at_least(0), NO_EFFECT] = 0
    """Older `last` checkpoints to keep as step-N folders."""

    # Logs and uploads
    LOG_INTERVAL: Annotated[int, at_least(1), NO_EFFECT] = 50
    """Steps between lines of metrics.jsonl."""
    WANDB_PROJECT: Annotated[str, NO_EFFECT, TYPED] = "image-captioning"
    """Weights & Biases project."""
    WANDB_ENTITY: Annotated[str, NO_EFFECT, TYPED] = ""
    """Weights & Biases user or team ("" = your default)."""
    WANDB_RUN_NAME: Annotated[str, NO_EFFECT, TYPED] = ""
    """Name of the run on Weights & Biases ("" = RUN_NAME)."""
    WANDB_MODE: Annotated[Literal["auto", "online", "offline", "disabled"], NO_EFFECT] = "auto"
    """auto = online where an API key is found, else offline."""
    HF_UPLOAD_BEST_CHECKPOINTS: Annotated[bool, NO_EFFECT, TYPED] = False
    """Upload each new best checkpoint to HF_REPO_ID, which is made, public, where it is missing."""

    def __post_init__(self) -> None:
        problems = [
            problem
            for field in fields(self)
            for problem in check_value(field, getattr(self, field.name))
        ]
        problems += combinations(self)
        if problems:
            raise UserError(*problems)

    @property
    def run_name(self) -> str:
        """RUN_NAME, or a name made of the data set and of the model that the run begins with, or of
        the encoder."""
        if self.RUN_NAME:
            return self.RUN_NAME
        if self.INIT_CHECKPOINT_PATH:
            words = re.findall(r"[\w.-]*\w[\w.-]*", self.INIT_CHECKPOINT_PATH)
            return "-".join([self.dataset_name, "from", *words[-2:]])
        encoder = self.encoder[0].rstrip("/").rsplit("/", 1)[-1].removeprefix("random:")
        return f"{self.dataset_name}-{encoder}"

    @property
    def encoder(self) -> tuple[str, str]:
        """Name and revision ("" = its usual one) of ENCODER_MODEL_NAME."""
        return split_revision(self.ENCODER_MODEL_NAME)

    @property
    def decoder(self) -> tuple[str, str]:
        """Name and revision ("" = its usual one) of DECODER_MODEL_NAME."""
        return split_revision(self.DECODER_MODEL_NAME)

    @property
    def dataset(self) -> tuple[str, str]:
        """Name and revision ("" = its usual one) of DATASET."""
        return split_revision(self.DATASET)

    @property
    def dataset_name(self) -> str:
        """DATASET as a folder name."""
        return self.dataset[0].replace("/", "--")

    @property
    def dataset_dir(self) -> Path:
        """The prepared data set."""
        return Path(self.DATA_DIR) / self.dataset_name

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        return Path(self.OUTPUT_DIR) / self.run_name

    @property
    def stores_features(self) -> bool:
        """Whether pictures are encoded once and for all."""
        return self.FEATURE_CACHE != "off" and self.ENCODER_TRAINED_BLOCKS == 0

    @property
    def feature_cache_bytes(self) -> int:
        """Room for features of a stream's pictures, 0 where none are kept."""
        return bytes_of(str(self.FEATURE_CACHE)) or 0

    @property
    def all_epochs(self) -> int:
        """Epochs of both objectives."""
        return self.NUM_EPOCHS + self.SCST_EPOCHS

    @property
    def on_card(self) -> dict[str, Any]:
        """The settings that the model card shows."""
        without = OF_OWN_DECODER if self.DECODER_MODEL_NAME else OF_PRETRAINED
        names = settings_with(ON_CARD) - settings_with(without)
        return {name: value for name, value in vars(self).items() if name in names}

    @property
    def save_interval(self) -> tuple[int, float]:
        """Steps and minutes between saves of `last`; 0 for what is not asked for."""
        if self.SAVE_INTERVAL.endswith("m"):
            return 0, float(self.SAVE_INTERVAL[:-1])
        return int(self.SAVE_INTERVAL), 0.0


@cache
def settings_with(*roles: Role) -> frozenset[str]:
    """Names of the settings that have one of some roles."""
    return frozenset(
        field.name for field in fields(Config) if set(roles) & set(notes_of(field, Role))
    )


def result_settings(config: Config) -> dict[str, Any]:
    """The settings that decide a run's result, but for its seed."""
    without = settings_with(NO_EFFECT, PER_RUN)
    return {
        field.name: getattr(config, field.name)
        for field in fields(Config)
        if field.name not in without
    }


def split_revision(name: str) -> tuple[str, str]:
    """ "user/name@revision" -> name and revision ("" = its usual one); a path stays whole."""
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?@[\w./-]+", name) and not os.path.exists(name):
        name, _, revision = name.partition("@")
        return name, revision
    return name, ""


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
    return parse_options(Config, argv, default=defaults, description=description, became=BECAME)


def load_config(
    path: str | os.PathLike[str], *, base: Config | None = None, to_train: bool = True
) -> Config:
    """`base` (the defaults) with the values of a TOML file, as `dump_config` or a preset has it.

    Settings of version 0.1 are read as `from_older` says; `to_train` is false for a model that is
    only captioned with.
    """
    values = read_toml(path, advice=_preset_advice())
    if isinstance(values.get(COMPARE_TABLE), dict):
        raise UserError(
            f"{path} describes a comparison of several runs: python compare.py --config {path}"
        )
    values = from_older(values, vars(Config()), place=str(path), to_train=to_train)
    return with_values(base or Config(), values, place=str(path), became=BECAME)


def dump_config(config: Config) -> str:
    """`config` as TOML that `load_config` reads back to an equal `Config`."""
    lines = (f"{field.name} = {to_toml(getattr(config, field.name))}" for field in fields(config))
    return "\n".join(lines) + "\n"


def _take_preset(argv: list[str]) -> tuple[str, list[str]]:
    """The value of --config and the rest of the flags."""
    rest, preset, words = [], "", iter(argv)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag.lower() != "--config":
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
