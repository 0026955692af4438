"""Train several models with several seeds on the same data, and say which captions better.

    python compare.py --config presets/compare-encoders.toml       half an hour on two cores
    python compare.py --config presets/compare-flickr30k.toml      CLIP, ViT and BLIP; needs a GPU
    python compare.py --config mine.toml --seeds 1 2 --models CLIP ViT --NUM_EPOCHS 5
    python compare.py --checkpoint A/best B/best                   models that exist, as evaluate.py

A comparison is a TOML file. Its settings are those of every run; `[compare]` names the seeds, each
`[models.NAME]` the settings in which that model differs:

    DATASET = "demo"
    [compare]
    SEEDS = [1, 2, 3]
    [models.ResNet]
    ENCODER_MODEL_NAME = "random:presets/encoders/resnet-small"

Writes into OUTPUT_DIR/RUN_NAME a folder for each run, as `train.py` makes it, and
`comparison.html`, `comparison.md` and `comparison.json`. The same command goes on where the last
one was stopped: runs that are done are not repeated.
"""

import difflib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import FrameType
from typing import Any

from captioning.comparison.comparison_file import (
    COMPARE_TABLE,
    MODELS_TABLE,
    SEEDS,
    check_seeds,
    folder_name,
    shape_problems,
)
from captioning.system.errors import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    UserError,
    run_command,
)
from captioning.system.files import read_json, refuse_links, write_text
from captioning.system.older_settings import BECAME
from captioning.system.options import parse_options
from captioning.system.privacy import mask_urls
from captioning.system.rules import PER_RUN, SHARED
from captioning.system.stopping import stopping_signals
from captioning.system.toml_files import read_toml, with_values
from config import (
    Config,
    dump_config,
    load_config,
    parse_config,
    result_settings,
    settings_with,
)

RESULT = "comparison.json"
EVALUATED = "metrics.json"
"""The file of an evaluation that says that there is one."""
EVALUATIONS = "evaluations"
ENDINGS = {EXIT_INTERRUPTED: "was interrupted", EXIT_TERMINATED: "was terminated"}
DESCRIPTION = (
    "Train several models with several seeds, and say which captions better. Any setting of "
    "train.py is a flag here too, for all runs: python train.py --help lists them. With "
    "--checkpoint the flags are those of evaluate.py."
)


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """What to compare."""

    config: str = ""
    """The comparison: settings of every run, [compare] with SEEDS, a [models.NAME] for each."""
    seeds: tuple[str, ...] = ()
    """Seeds in place of the file's."""
    models: tuple[str, ...] = ()
    """Only these of the file's models."""
    checkpoint: tuple[str, ...] = ()
    """In place of config: checkpoint folders or Hub repositories, compared without training."""


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
        return self.folder.parent / EVALUATIONS / self.folder.name


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
            "models": {name: _settings_of(config) for name, config in self.models.items()},
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Do what is left to do of a comparison."""
    options, others = options_of(sys.argv[1:] if argv is None else argv)
    if options.checkpoint:
        return compare_checkpoints(options, others)
    plan = plan_of(options, others)
    for folder in (plan.folder, plan.folder / EVALUATIONS):
        refuse_links(folder)
    refuse_others(plan)
    unfinished = [run for run in plan.runs if not is_trained(run)]
    unevaluated = [run for run in plan.runs if not is_evaluated(run)]
    if unfinished or unevaluated or not is_written(plan):
        from prepare_dataset import prepare_dataset

        prepare_dataset(plan.common)
        code = carry_out(plan, unfinished)
        if code != EXIT_DONE:
            return code
        write_result(plan, plan.runs)
    else:
        print(f"Nothing to do: {len(plan.runs)} runs are trained and evaluated.")
    from captioning.comparison.page import print_comparison

    print_comparison(plan.folder)
    return EXIT_DONE


def options_of(argv: Sequence[str]) -> tuple[CompareOptions, list[str]]:
    """This command's own flags, and the words of all others."""
    flags, others = split_flags(argv)
    return parse_options(CompareOptions, flags, description=DESCRIPTION), others


def compare_checkpoints(options: CompareOptions, others: Sequence[str]) -> int:
    """Compare models that exist, as `evaluate.py` does; returns its exit code."""
    problems = [
        f"--{name} is for models that are trained here; leave it out, or leave out --checkpoint."
        for name in ("config", "seeds", "models")
        if getattr(options, name)
    ]
    flags = [word.partition("=")[0] for word in others]
    if len(set(options.checkpoint)) < 2 and "--model" not in flags:
        problems.append(
            f"--checkpoint {options.checkpoint[0]} is one model; name two or more, or score it by "
            f"itself: python evaluate.py --checkpoint {shlex.quote(options.checkpoint[0])}"
        )
    if problems:
        raise UserError(*problems)
    import evaluate

    return evaluate.main(["--checkpoint", *options.checkpoint, *others])


def plan_of(options: CompareOptions, settings: Sequence[str]) -> Plan:
    """The comparison of a command line; `settings` are those of every run."""
    if not options.config:
        raise UserError(
            "--config is missing; name a comparison, such as --config "
            "presets/compare-encoders.toml, or models that exist: --checkpoint A/best B/best"
        )
    seeds = [int(word) if word.isdecimal() else word for word in options.seeds]
    if options.seeds and (problems := check_seeds(seeds)):
        raise UserError(*(f"--seeds: {problem}" for problem in problems))
    plan = read_plan(options.config, _given(settings))
    return plan.select(options.models, [int(seed) for seed in seeds])


def read_plan(path: str | os.PathLike[str], flags: Mapping[str, Any] | None = None) -> Plan:
    """The comparison that a TOML file describes; `flags` are settings that override its own.

    Raises `UserError` with every problem of the file.
    """
    content = read_toml(path)
    compare, models = content.pop(COMPARE_TABLE, None), content.pop(MODELS_TABLE, None)
    tables = [name for name, value in content.items() if isinstance(value, dict)]
    settings = {name: value for name, value in content.items() if name not in tables}
    problems = [f"{path}: {problem}" for problem in shape_problems(tables, compare, models)]
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
        given = [*settings, *(flags or ()), *changes]
        configs[name] = _begun(_settings(common, changes, place, problems), given, place, problems)
    if problems:
        raise UserError(*problems)
    assert isinstance(compare, dict)
    return Plan(common, configs, tuple(compare[SEEDS]))


def split_flags(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of this command's flags, and those of settings."""
    known = {field.name for field in fields(CompareOptions)} | {"help"}
    flags: list[str] = []
    settings: list[str] = []
    target = flags
    for word in argv:
        if word.startswith("-"):
            is_own = word == "-h" or word.lstrip("-").partition("=")[0].lower() in known
            target = flags if is_own else settings
        target.append(word)
    return flags, settings


def refuse_others(plan: Plan) -> None:
    """Raise `UserError` for runs in the folder that were trained with other settings."""
    problems = []
    for run in plan.runs:
        path = run.folder / "last" / "config.toml"
        if not path.is_file():
            continue
        found, wanted = _settings_of(load_config(path)), _settings_of(run.config)
        changed = [
            f"{name} ({found[name]!r}, now {wanted[name]!r})"
            for name in wanted
            if found[name] != wanted[name]
        ]
        if changed:
            problems.append(
                f"{run.folder} was trained with another {', '.join(changed)}. Compare elsewhere: "
                "--RUN_NAME NAME, or remove that folder to train it again."
            )
    if problems:
        raise UserError(*problems)


def is_trained(run: PlannedRun) -> bool:
    """Whether a run has reached its last epoch."""
    path = run.folder / "last" / "trainer_state.json"
    is_whole = path.is_file() and (run.folder / "best" / "checkpoint.json").is_file()
    return is_whole and read_json(path).get("epoch", 0) >= run.config.all_epochs


def is_evaluated(run: PlannedRun) -> bool:
    """Whether a run's `best` has been captioned and scored."""
    return (run.evaluation / EVALUATED).is_file()


def is_written(plan: Plan) -> bool:
    """Whether the result in the folder is that of this plan."""
    path = plan.folder / RESULT
    return path.is_file() and read_json(path).get("plan") == plan.to_json()


def carry_out(plan: Plan, unfinished: Sequence[PlannedRun]) -> int:
    """Train and evaluate what is left; returns the exit code.

    After each seed the result so far is written.
    """
    began, trained = time.monotonic(), 0
    for number, run in enumerate(plan.runs, start=1):
        if not is_trained(run):
            left = len(unfinished) - trained
            print(_heading(run, number, len(plan.runs), left, trained, began), flush=True)
            (run.evaluation / EVALUATED).unlink(missing_ok=True)  # of a run that was removed
            code = _train(run)
            if code != EXIT_DONE:
                return _explain(run, code)
            trained += 1
        if not is_evaluated(run):
            _evaluate(run)
        done = plan.runs[:number]
        if number % len(plan.models) == 0 and number < len(plan.runs) and len(unfinished):
            write_result(plan, done)
            print(f"\nSo far, {len(done)} of {len(plan.runs)} runs: {plan.folder}/comparison.html")
    return EXIT_DONE


def write_result(plan: Plan, runs: Sequence[PlannedRun]) -> None:
    """Compare evaluated runs; write the page, the Markdown and the JSON."""
    from captioning.comparison.comparing import compare_runs
    from captioning.comparison.page import write_comparison
    from captioning.comparison.runs import read_run

    results = [
        read_run(
            run.evaluation,
            model=run.model,
            seed=run.seed,
            run_dir=run.folder,
            pictures=run.config.dataset_dir,
        )
        for run in runs
    ]
    is_whole = len(runs) == len(plan.runs)
    write_comparison(
        compare_runs(results, result_settings(Config())),
        plan.folder,
        title=plan.common.run_name,
        subtitle="" if is_whole else f"{len(runs)} of {len(plan.runs)} runs so far",
        more={"plan": plan.to_json() if is_whole else None},
    )


def _settings_of(config: Config) -> dict[str, Any]:
    """The settings that decide a run's result, as files and sentences show them."""
    return {
        name: mask_urls(value) if isinstance(value, str) else value
        for name, value in result_settings(config).items()
    }


def _given(settings: Sequence[str]) -> dict[str, Any]:
    """The settings that flags name, which are those that change one of two different bases."""
    parsed = parse_config(settings)
    names = {word.lstrip("-").partition("=")[0] for word in settings if word.startswith("--")}
    canonical = {name.lower().replace("-", "_").removeprefix("no_") for name in names}
    return {
        field.name: getattr(parsed, field.name)
        for field in fields(Config)
        if field.name.lower() in canonical
    }


def _train(run: PlannedRun) -> int:
    """Train in a process of its own, which leaves no memory behind; returns its exit code.

    Signals are handed on, so that the run is saved before it ends.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    settings = run.folder / "settings.toml"
    write_text(settings, dump_config(run.config))
    program = Path(__file__).with_name("train.py")
    child: subprocess.Popen[bytes] | None = None
    taken = 0

    def hand_on(signal_number: int, frame: FrameType | None) -> None:
        nonlocal taken
        taken = signal_number
        if child is not None:
            child.send_signal(signal_number)

    before = {number: signal.signal(number, hand_on) for number in stopping_signals()}
    try:
        # A group of its own: the terminal's Ctrl-C reaches it once, through us.
        words = [sys.executable, str(program), "--config", str(settings)]
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, process_group=0)
        if taken:
            child.send_signal(taken)
        return child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _evaluate(run: PlannedRun) -> None:
    """Caption and score the test split with a run's `best`."""
    from captioner import Captioner
    from captioning.reports.results import write_evaluation
    from evaluate import evaluate_checkpoint

    best = run.folder / "best"
    captioner = Captioner.from_pretrained(best, device=run.config.DEVICE)
    evaluation = evaluate_checkpoint(captioner, str(best), run.config.dataset_dir)
    write_evaluation(evaluation, run.evaluation)


def _explain(run: PlannedRun, code: int) -> int:
    """Say on standard error why a comparison ends early; returns the exit code."""
    # A process that a signal killed has that signal's number, negative.
    ending = ENDINGS.get(code, f"ended with code {code}" if code > 0 else f"got signal {-code}")
    print(
        f"\n{run.model}, seed {run.seed}, {ending}. The same command goes on from here.",
        file=sys.stderr,
    )
    return code if code > 0 else 128 - code


def _heading(run: PlannedRun, number: int, runs: int, left: int, trained: int, began: float) -> str:
    """Which run begins, and how long all the rest will take."""
    text = f"\n=== run {number} of {runs}: {run.model}, seed {run.seed}"
    if trained:
        minutes = (time.monotonic() - began) / trained * left / 60
        text += f"; about {minutes:.0f} minutes to go" if minutes >= 1.5 else "; nearly done"
    return f"{text} ==="


def _misplaced(changes: Mapping[str, Any]) -> list[str]:
    """Settings that no model may have to itself."""
    rules = (
        (settings_with(PER_RUN), "is given to each run by the comparison; leave it out."),
        (settings_with(SHARED), "must be the same for all models; move it to the top of the file."),
    )
    names = [name.upper().replace("-", "_") for name in changes]
    return [f"{name} {rule}" for group, rule in rules for name in names if name in group]


def _settings(base: Config, values: Mapping[str, Any], place: str, problems: list[str]) -> Config:
    """`base` with `values`, or `base` where they have problems, which are added to the list."""
    try:
        return with_values(base, values, place=place, became=BECAME)
    except UserError as error:
        problems += error.problems
        return base


def _begun(config: Config, given: Sequence[str], place: str, problems: list[str]) -> Config:
    """The settings of a run, of which `given` were written down; of one that begins with a model,
    that decides others."""
    if not config.INIT_CHECKPOINT_PATH:
        return config
    from beginning import with_model

    try:
        return with_model(config, given)
    except UserError as error:
        problems += [f"{place}: {problem}" for problem in error.problems]
        return config


def _unknown_model(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    advice = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}."
    return f"there is no model {name}; {advice}"


if __name__ == "__main__":
    run_command(main)
