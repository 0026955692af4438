"""What a comparison trains: several models, each with several seeds, all else the same.

A comparison is a TOML file. Its settings are those of every run; `[compare]` names the seeds, each
`[models.NAME]` the settings in which that model differs:

    DATASET = "demo"
    [compare]
    SEEDS = [1, 2, 3]
    [models.ResNet]
    ENCODER_MODEL_NAME = "random:presets/encoders/resnet-small"

    plan = read_plan("presets/compare-encoders.toml")
    plan.runs[0].config        the settings of its first run
"""

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from captioning.system.errors import UserError
from config import COMPARE_TABLE, Config, read_toml, with_values

MODELS_TABLE = "models"
SEEDS = "SEEDS"
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


@dataclass(frozen=True)
class PlannedRun:
    """One training run of a comparison."""

    model: str
    seed: int
    config: Config

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.config.run_dir

    @property
    def evaluation(self) -> Path:
        """The folder for the numbers and captions of its `best`."""
        return self.folder.parent / "evaluations" / self.folder.name


@dataclass(frozen=True)
class Plan:
    """A whole comparison."""

    common: Config
    """The settings of every run; its run folder is the comparison's, its seed is the data's."""
    models: dict[str, Config]
    """The settings of each model, but for the seed."""
    seeds: tuple[int, ...]

    @property
    def folder(self) -> Path:
        """Where the runs and the result lie."""
        return self.common.run_dir

    @property
    def runs(self) -> list[PlannedRun]:
        """Seed after seed, so that every model has a run before one has its second."""
        return [
            PlannedRun(
                model,
                seed,
                replace(
                    config,
                    RANDOM_SEED=seed,
                    OUTPUT_DIR=str(self.folder),
                    RUN_NAME=f"{folder_name(model)}-seed{seed}",
                    RESUME_CHECKPOINT_PATH="auto",
                ),
            )
            for seed in self.seeds
            for model, config in self.models.items()
        ]

    def select(self, models: Sequence[str] = (), seeds: Sequence[int] = ()) -> "Plan":
        """The plan of some of its models (all by default), with other seeds where given."""
        unknown = [_unknown_model(name, self.models) for name in models if name not in self.models]
        if unknown:
            raise UserError(*unknown)
        chosen = {name: self.models[name] for name in models} if models else self.models
        return replace(self, models=chosen, seeds=tuple(seeds) or self.seeds)

    def to_json(self) -> dict[str, Any]:
        """What tells whether a result is that of this plan."""
        return {
            "seeds": list(self.seeds),
            "models": {name: result_settings(config) for name, config in self.models.items()},
        }


def read_plan(path: str | os.PathLike[str], flags: Mapping[str, Any] | None = None) -> Plan:
    """The comparison that a TOML file describes; `flags` are settings that override its own.

    Raises `UserError` with every problem of the file.
    """
    content = read_toml(path)
    compare, models = content.pop(COMPARE_TABLE, None), content.pop(MODELS_TABLE, None)
    tables = [name for name, value in content.items() if isinstance(value, dict)]
    settings = {name: value for name, value in content.items() if name not in tables}
    problems = [f"{path}: {problem}" for problem in _shape_problems(tables, compare, models)]
    common = _settings(Config(), settings, str(path), problems)
    common = _settings(common, flags or {}, "the command line", problems)
    if common.HF_UPLOAD_BEST_CHECKPOINTS:
        problems.append(
            f"{path}: HF_UPLOAD_BEST_CHECKPOINTS would put every run into one repository; leave it "
            "out, and upload the one that you choose with: python hub.py upload FOLDER REPO"
        )
    common = replace(common, RUN_NAME=common.RUN_NAME or Path(path).stem)
    configs = {}
    for name, changes in (models if isinstance(models, dict) else {}).items():
        if not isinstance(changes, dict):
            continue
        place = f"{path}, [{MODELS_TABLE}.{name}]"
        problems += [f"{place}: {problem}" for problem in _misplaced(changes)]
        configs[name] = _settings(common, changes, place, problems)
    if problems:
        raise UserError(*problems)
    assert isinstance(compare, dict)
    return Plan(common, configs, tuple(compare[SEEDS]))


def result_settings(config: Config) -> dict[str, Any]:
    """The settings that decide a run's result, its seed left out."""
    return {
        field.name: getattr(config, field.name)
        for field in fields(Config)
        if field.name not in WITHOUT_EFFECT
    }


def differing_settings(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the settings that are not the same in all of some runs, as they are declared.

    A run of a time before a setting existed has it at its default.
    """
    return [
        field.name
        for field in fields(Config)
        if field.name not in WITHOUT_EFFECT
        and len({repr(config.get(field.name, field.default)) for config in configs}) > 1
    ]


def folder_name(model: str) -> str:
    """A model's name as part of a folder's: "CLIP, frozen" -> "clip-frozen"."""
    return re.sub(r"[^\w.]+", "-", model).strip("-.").lower()


def check_seeds(seeds: object) -> list[str]:
    """What is wrong with a list of seeds."""
    if not isinstance(seeds, list) or not seeds or any(type(seed) is not int for seed in seeds):
        return [f"{SEEDS} is {seeds!r}; it must be a list of whole numbers, such as [1, 2, 3]."]
    if min(seeds) < 0 or max(seeds) >= 2**63:
        return [f"{SEEDS} is {seeds!r}; each must be at least 0 and below 2**63."]
    if len(set(seeds)) < len(seeds):
        return [f"{SEEDS} is {seeds!r}; each seed may stand once."]
    return []


def _shape_problems(others: Sequence[str], compare: object, models: object) -> list[str]:
    """What is wrong with the tables, `others` among them, whatever the settings in them are."""
    problems = []
    for name in others:
        close = difflib.get_close_matches(name.lower(), (COMPARE_TABLE, MODELS_TABLE), 1, 0.6)
        advice = f"did you mean [{close[0]}]?" if close else "the tables are [compare], [models.X]."
        problems.append(f"there is no table [{name}]; {advice}")
    if not isinstance(compare, dict):
        problems.append(f"the table [{COMPARE_TABLE}] is missing; write below it: {SEEDS} = [1, 2]")
    else:
        unknown = sorted(compare.keys() - {SEEDS})
        problems += [
            f"[{COMPARE_TABLE}] has no {name}; it holds {SEEDS} alone." for name in unknown
        ]
        problems += check_seeds(compare.get(SEEDS))
    if not isinstance(models, dict) or len(models) < 2:
        problems.append(
            f"a comparison needs two models at least; give each a table [{MODELS_TABLE}.NAME] with "
            "the settings in which it differs, such as ENCODER_MODEL_NAME."
        )
        return problems
    problems += [
        f"{MODELS_TABLE}.{name} is {value!r}; it must be a table [{MODELS_TABLE}.{name}]."
        for name, value in models.items()
        if not isinstance(value, dict)
    ]
    by_folder: dict[str, list[str]] = {}
    for name in models:
        by_folder.setdefault(folder_name(name), []).append(name)
    for folder, names in by_folder.items():
        if not folder:
            problems.append(f"[{MODELS_TABLE}.{names[0]!r}] needs a name with letters in it.")
        elif len(names) > 1:
            problems.append(f"the models {', '.join(names)} would share the folder {folder}-seed.")
    return problems


def _misplaced(changes: Mapping[str, Any]) -> list[str]:
    """Settings that no model may have to itself."""
    names = [name.upper().replace("-", "_") for name in changes]
    return [
        *(
            f"{name} is given to each run by the comparison; leave it out."
            for name in names
            if name in PER_RUN
        ),
        *(
            f"{name} must be the same for all models; move it to the top of the file."
            for name in names
            if name in SHARED
        ),
    ]


def _settings(base: Config, values: Mapping[str, Any], place: str, problems: list[str]) -> Config:
    """`base` with `values`, or `base` where they have problems, which are added to the list."""
    try:
        return with_values(base, values, place=place)
    except UserError as error:
        problems += error.problems
        return base


def _unknown_model(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    advice = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}."
    return f"there is no model {name}; {advice}"
