"""Train several models with several seeds on the same data, and say which captions better.

    python compare.py --config presets/compare-encoders.toml       half an hour on two cores
    python compare.py --config presets/compare-flickr30k.toml      CLIP, ViT and BLIP; needs a GPU
    python compare.py --config mine.toml --seeds 1 2 --models CLIP ViT --NUM_EPOCHS 5

Reads a comparison (`comparison_plan.py`); writes into OUTPUT_DIR/RUN_NAME a folder for each run, as
`train.py` makes it, and `comparison.html`, `comparison.md` and `comparison.json`. The same command
goes on where the last one was stopped: runs that are done are not repeated.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType
from typing import Any

from captioning.comparison.plan import Plan, PlannedRun, check_seeds, read_plan, result_settings
from captioning.system.errors import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    UserError,
    run_command,
)
from captioning.system.files import read_json
from captioning.system.options import parse_options
from config import Config, dump_config, load_config, parse_config

RESULT = "comparison.json"
EVALUATED = "metrics.json"
"""The file of an evaluation that says that there is one."""
ENDINGS = {EXIT_INTERRUPTED: "was interrupted", EXIT_TERMINATED: "was terminated"}
DESCRIPTION = (
    "Train several models with several seeds, and say which captions better. Any setting of "
    "train.py is a flag here too, for all runs: python train.py --help lists them."
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


def main(argv: Sequence[str] | None = None) -> int:
    """Do what is left to do of a comparison."""
    plan = plan_of(sys.argv[1:] if argv is None else argv)
    refuse_others(plan)
    unfinished = [run for run in plan.runs if not is_trained(run)]
    unevaluated = [run for run in plan.runs if not is_evaluated(run)]
    if not unfinished and not unevaluated and is_written(plan):
        print(
            f"Nothing to do: {len(plan.runs)} runs are trained and evaluated.\n\n"
            + (plan.folder / "comparison.md").read_text(encoding="utf-8")
        )
        _print_places(plan)
        return EXIT_DONE
    from prepare_dataset import prepare_dataset

    prepare_dataset(plan.common)
    code = carry_out(plan, unfinished)
    if code == EXIT_DONE:
        write_result(plan, plan.runs)
        print("\n" + (plan.folder / "comparison.md").read_text(encoding="utf-8"))
        _print_places(plan)
    return code


def plan_of(argv: Sequence[str]) -> Plan:
    """The comparison of a command line: flags of this command, and settings for every run."""
    own, settings = split_flags(argv)
    options = parse_options(CompareOptions, own, description=DESCRIPTION)
    if not options.config:
        raise UserError(
            "--config is missing; name a comparison, such as --config presets/compare-encoders.toml"
        )
    seeds = [int(word) if word.isdecimal() else word for word in options.seeds]
    if options.seeds and (problems := check_seeds(seeds)):
        raise UserError(*(f"--seeds: {problem}" for problem in problems))
    plan = read_plan(options.config, _given(settings))
    return plan.select(options.models, [int(seed) for seed in seeds])


def split_flags(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of this command's flags, and those of settings."""
    known = {field.name for field in fields(CompareOptions)} | {"help"}
    own: list[str] = []
    settings: list[str] = []
    target = own
    for word in argv:
        if word.startswith("-"):
            is_own = word == "-h" or word.lstrip("-").partition("=")[0].lower() in known
            target = own if is_own else settings
        target.append(word)
    return own, settings


def refuse_others(plan: Plan) -> None:
    """Raise `UserError` for runs in the folder that were trained with other settings."""
    problems = []
    for run in plan.runs:
        path = run.folder / "last" / "config.toml"
        if not path.is_file():
            continue
        found, wanted = result_settings(load_config(path)), result_settings(run.config)
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
    return is_whole and read_json(path).get("epoch", 0) >= run.config.NUM_EPOCHS


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
        read_run(run.evaluation, model=run.model, seed=run.seed, run_dir=run.folder) for run in runs
    ]
    is_whole = len(runs) == len(plan.runs)
    write_comparison(
        compare_runs(results),
        plan.folder,
        title=plan.common.run_name,
        subtitle="" if is_whole else f"{len(runs)} of {len(plan.runs)} runs so far",
        more={"plan": plan.to_json() if is_whole else None},
    )


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
    settings.write_text(dump_config(run.config), encoding="utf-8")
    program = Path(__file__).with_name("train.py")
    child: subprocess.Popen[bytes] | None = None
    taken = 0

    def hand_on(signal_number: int, frame: FrameType | None) -> None:
        nonlocal taken
        taken = signal_number
        if child is not None:
            child.send_signal(signal_number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, hand_on) for number in numbers}
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
    from evaluation import evaluate_checkpoint, write_evaluation

    best = run.folder / "best"
    captioner = Captioner.from_pretrained(best, device=run.config.DEVICE)
    evaluation = evaluate_checkpoint(captioner, str(best), run.config.dataset_dir)
    write_evaluation(evaluation, captioner, run.evaluation)


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


def _print_places(plan: Plan) -> None:
    print(f"\npage      {plan.folder / 'comparison.html'}")
    print(f"numbers   {plan.folder / 'comparison.md'}, {plan.folder / RESULT}")


if __name__ == "__main__":
    run_command(main)
