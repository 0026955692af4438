"""The command that trains and compares: what it leaves, how it goes on, what it refuses."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import captioner
import compare
import evaluate
from captioning.comparison import comparing as comparison
from captioning.comparison import page as comparison_report
from captioning.comparison import runs as comparison_runs
from captioning.reports import results
from captioning.system.errors import EXIT_TERMINATED, EXIT_USER_ERROR, UserError
from compare import Plan, PlannedRun
from config import Config, dump_config
from tests.helpers.small_runs import SETTINGS, differences, write_data, write_encoder

ROOT = Path(__file__).parents[2]
COMPARISON = """
[compare]
SEEDS = [1, 2]
[models.CLIP]
ENCODER_MODEL_NAME = "{folder}/tiny-clip"
[models.ResNet]
ENCODER_MODEL_NAME = "{folder}/tiny-resnet"
ENCODER_TRAINED_BLOCKS = 1
"""
PER_RUN = {"RUN_NAME"}


def preset(folder: Path, text: str = COMPARISON, **changes: object) -> Path:
    """A comparison of small runs whose data and encoders lie under `folder`."""
    settings = {**SETTINGS, "DATA_DIR": folder / "data", "NUM_EPOCHS": 6, **changes}
    lines = [
        f'{name} = "{value}"' if isinstance(getattr(Config, name), str) else f"{name} = {value}"
        for name, value in settings.items()
        if name not in PER_RUN
    ]
    path = folder / "which.toml"
    path.write_text("\n".join(lines) + text.format(folder=folder))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare é")
    write_data(folder, count=60)
    for family in ("clip", "resnet"):
        write_encoder(folder, family)
    return folder


def words(place: Path, output: Path, *more: str) -> list[str]:
    return ["--config", str(preset(place)), "--OUTPUT_DIR", str(output), *more]


@pytest.fixture(scope="module")
def done(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole comparison: two models, two seeds."""
    output = tmp_path_factory.mktemp("done")
    assert compare.main(words(place, output)) == 0
    return output / "which"


@pytest.mark.slow
def test_a_comparison_leaves_runs_and_a_result(done: Path) -> None:
    names = ["clip-seed1", "clip-seed2", "resnet-seed1", "resnet-seed2"]
    assert sorted(path.name for path in done.glob("*-seed*")) == names
    assert sorted(path.name for path in (done / "evaluations").iterdir()) == names
    for name in names:
        assert (done / name / "best" / "model.safetensors").is_file()
        assert (done / "evaluations" / name / "report.html").is_file()
    content = json.loads((done / "comparison.json").read_text())
    assert {model["name"] for model in content["models"]} == {"CLIP", "ResNet"}
    for model in content["models"]:
        assert [run["seed"] for run in model["runs"]] == [1, 2]
        assert len(model["runs"][0]["curve"]) == 6
        assert model["seconds_an_epoch"] > 0
        assert len(model["scores"]["CIDEr"]["over_seeds_95"]) == 2
    by_name = {model["name"]: model for model in content["models"]}
    assert by_name["CLIP"]["parameters_frozen"] > by_name["ResNet"]["parameters_frozen"] > 0
    assert content["differing_settings"] == ["ENCODER_MODEL_NAME", "ENCODER_TRAINED_BLOCKS"]
    assert content["plan"]["seeds"] == [1, 2]
    assert "CLIP" in (done / "comparison.md").read_text()
    assert (done / "comparison.html").stat().st_size > 10_000


@pytest.mark.slow
def test_a_second_call_has_nothing_to_do_and_needs_no_torch(place: Path, done: Path) -> None:
    program = (
        "import sys, compare\n"
        "assert compare.main(sys.argv[1:]) == 0\n"
        "print(sorted({'torch', 'transformers'} & sys.modules.keys()))"
    )
    before = (done / "comparison.json").stat().st_mtime_ns
    finished = subprocess.run(
        [sys.executable, "-c", program, *words(place, done.parent)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert "Nothing to do: 4 runs are trained and evaluated." in finished.stdout
    assert finished.stdout.splitlines()[-1] == "[]"
    assert (done / "comparison.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_what_is_lost_is_made_again_and_nothing_else(
    place: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(done, tmp_path / "which")
    shutil.rmtree(tmp_path / "which" / "evaluations" / "clip-seed2")
    monkeypatch.setattr(compare, "_train", lambda run: pytest.fail(f"{run.folder} trained again"))
    evaluated: list[str] = []
    evaluate = compare._evaluate

    def noted_evaluate(run: Any) -> None:
        evaluated.append(run.folder.name)
        evaluate(run)

    monkeypatch.setattr(compare, "_evaluate", noted_evaluate)
    assert compare.main(words(place, tmp_path)) == 0
    assert evaluated == ["clip-seed2"]
    # Fewer seeds are another comparison of the same runs.
    assert compare.main(words(place, tmp_path, "--seeds", "2")) == 0
    content = json.loads((tmp_path / "which" / "comparison.json").read_text())
    assert content["plan"]["seeds"] == [2]
    assert len(evaluated) == 1


@pytest.mark.slow
def test_a_stopped_comparison_goes_on_where_it_was(place: Path, done: Path, tmp_path: Path) -> None:
    command = words(place, tmp_path, "--seeds", "1", "--LOG_INTERVAL", "1")
    log = tmp_path / "which" / "clip-seed1" / "metrics.jsonl"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "compare.py"), *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and log.read_text()):
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert process.returncode == EXIT_TERMINATED, error
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert str(log.with_name("settings.toml")) not in listed.stdout  # its run has ended too
    assert "CLIP, seed 1, was terminated. The same command goes on from here." in error
    state = json.loads((tmp_path / "which/clip-seed1/last/trainer_state.json").read_text())
    assert state["epoch"] * 100 + state["step"] > 0
    assert state["epoch"] < 6
    assert compare.main(command) == 0
    for name in ("clip-seed1", "resnet-seed1"):
        for kind in ("last", "best"):
            assert differences(tmp_path / "which" / name / kind, done / name / kind) == []


class Pretence:
    """In place of training, evaluating and comparing: leaves the files that these leave."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trained: list[str] = []
        self.evaluated: list[str] = []
        self.compared: list[int] = []
        monkeypatch.setattr(compare, "_train", self.train)
        monkeypatch.setattr(compare, "_evaluate", self.evaluate)
        monkeypatch.setattr(compare, "write_result", self.compare)

    def train(self, run: PlannedRun) -> int:
        self.trained.append(run.folder.name)
        for name in ("best", "last"):
            (run.folder / name).mkdir(parents=True, exist_ok=True)
        (run.folder / "best" / "checkpoint.json").write_text("{}")
        (run.folder / "last" / "config.toml").write_text(dump_config(run.config))
        state = {"epoch": run.config.NUM_EPOCHS}
        (run.folder / "last" / "trainer_state.json").write_text(json.dumps(state))
        return 0

    def evaluate(self, run: PlannedRun) -> None:
        self.evaluated.append(run.folder.name)
        assert not (run.evaluation / "metrics.json").exists()
        run.evaluation.mkdir(parents=True, exist_ok=True)
        (run.evaluation / "metrics.json").write_text("{}")

    def compare(self, plan: Plan, runs: Sequence[PlannedRun]) -> None:
        self.compared.append(len(runs))
        whole = plan.to_json() if len(runs) == len(plan.runs) else None
        (plan.folder / "comparison.json").write_text(json.dumps({"plan": whole}))
        (plan.folder / "comparison.md").write_text("")

    def done(self) -> tuple[list[str], list[str], list[int]]:
        """What was done since this was last asked."""
        found = (self.trained, self.evaluated, self.compared)
        self.trained, self.evaluated, self.compared = [], [], []
        return found


def test_what_is_done_is_not_done_again(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretence, folder = Pretence(monkeypatch), tmp_path / "which"
    names = ["clip-seed1", "resnet-seed1", "clip-seed2", "resnet-seed2"]

    def done_by(*more: str) -> tuple[list[str], list[str], list[int]]:
        assert compare.main(words(place, tmp_path, *more)) == 0
        return pretence.done()

    assert done_by() == (names, names, [2, 4])  # compared after each seed
    assert done_by() == ([], [], [])
    (folder / "clip-seed2" / "last" / "trainer_state.json").write_text('{"epoch": 5}')  # of 6
    again = ["clip-seed2"]
    assert done_by() == (again, again, [2, 4])
    (folder / "clip-seed2" / "best" / "checkpoint.json").unlink()
    assert done_by() == (again, again, [2, 4])
    shutil.rmtree(folder / "clip-seed2")  # its evaluation is of a run that is no more
    assert done_by() == (again, again, [2, 4])
    shutil.rmtree(folder / "evaluations" / "resnet-seed1")
    assert done_by() == ([], ["resnet-seed1"], [4])
    assert done_by("--seeds", "2") == ([], [], [2])
    new = ["clip-seed3", "resnet-seed3"]
    assert done_by("--seeds", "2", "3") == (new, new, [2, 4])
    with pytest.raises(UserError, match=r"LEARNING_RATE \(0\.001, now 0\.5\)"):
        done_by("--LEARNING_RATE", "0.5")
    assert pretence.done() == ([], [], [])


def test_best_is_evaluated_and_a_part_is_no_whole(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = compare.plan_of(*compare.options_of(words(place, tmp_path)))
    read, plans = [], []
    monkeypatch.setattr(captioner.Captioner, "from_pretrained", lambda path, **_: read.append(path))
    monkeypatch.setattr(evaluate, "evaluate_checkpoint", lambda *_: None)
    monkeypatch.setattr(results, "write_evaluation", lambda *_: None)
    compare._evaluate(plan.runs[0])
    assert read == [plan.folder / "clip-seed1" / "best"]
    monkeypatch.setattr(comparison_runs, "read_run", lambda *_, **__: None)
    monkeypatch.setattr(comparison, "compare_runs", lambda *_: None)
    monkeypatch.setattr(
        comparison_report, "write_comparison", lambda *_, more, **__: plans.append(more["plan"])
    )
    for runs in (plan.runs[:2], plan.runs):
        compare.write_result(plan, runs)
    assert plans == [None, plan.to_json()]


def test_the_heading_says_how_long_the_rest_takes(place: Path, tmp_path: Path) -> None:
    run = compare.plan_of(*compare.options_of(words(place, tmp_path))).runs[2]
    began = time.monotonic() - 600  # in which two runs were trained
    text = compare._heading(run, 5, 8, left=4, trained=2, began=began)
    assert text == "\n=== run 5 of 8: CLIP, seed 2; about 20 minutes to go ==="


def test_a_run_that_fails_ends_the_comparison(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert compare.main(words(place, tmp_path, "--DEVICE", "cuda:99")) == EXIT_USER_ERROR
    error = capfd.readouterr().err
    assert "error: DEVICE is 'cuda:99'" in error
    assert "CLIP, seed 1, ended with code 2." in error
    assert not (tmp_path / "which" / "comparison.json").exists()


def test_a_killed_run_is_a_code_of_its_signal(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "_train", lambda run: -signal.SIGKILL)
    assert compare.main(words(place, tmp_path)) == 128 + signal.SIGKILL


@pytest.mark.slow
def test_a_changed_comparison_is_not_mixed_with_the_old(place: Path, done: Path) -> None:
    with pytest.raises(UserError) as error:
        compare.main(words(place, done.parent, "--LEARNING_RATE", "0.5", "--DEVICE", "cpu"))
    assert len(error.value.problems) == 4
    assert "LEARNING_RATE (0.001, now 0.5). Compare elsewhere: --RUN_NAME NAME" in str(error.value)
    assert "DEVICE" not in str(error.value)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--seeds", "1", "x"], "--seeds: SEEDS is [1, 'x']; it must be a list of whole numbers"),
        (["--seeds", "1", "1"], "each seed may stand once"),
        (["--models", "CLIPP"], "there is no model CLIPP; did you mean CLIP?"),
        (["--NUM_EPOCH", "3"], "there is no setting NUM_EPOCH; did you mean NUM_EPOCHS?"),
        (["--NUM_EPOCHS", "-1"], "NUM_EPOCHS is -1; it must be from 0 to 1,000,000."),
    ],
)
def test_each_mistake_has_its_sentence(
    place: Path, tmp_path: Path, more: list[str], sentence: str
) -> None:
    with pytest.raises(UserError) as error:
        compare.main(words(place, tmp_path, *more))
    assert sentence in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_run_that_stopped_amid_self_critical_training_is_not_done(tmp_path: Path) -> None:
    config = Config(OUTPUT_DIR=str(tmp_path), RUN_NAME="a", NUM_EPOCHS=2, SCST_EPOCHS=1)
    run = PlannedRun("A", 1, config)
    for name, content in (("last/trainer_state", {"epoch": 2}), ("best/checkpoint", {})):
        path = run.folder / f"{name}.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
    assert not compare.is_trained(run)
    (run.folder / "last/trainer_state.json").write_text(json.dumps({"epoch": 3}))
    assert compare.is_trained(run)


def test_a_comparison_must_be_named_and_be_one() -> None:
    with pytest.raises(UserError, match="--config is missing; name a comparison"):
        compare.main([])
    with pytest.raises(UserError, match=r"the table \[compare\] is missing"):
        compare.main(["--config", str(ROOT / "presets" / "demo.toml")])


def test_models_that_exist_are_compared_as_evaluate_does(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def evaluated(argv: list[str]) -> int:
        asked.append(argv)
        return 1

    monkeypatch.setattr(evaluate, "main", evaluated)
    assert compare.main("--split validation --checkpoint a b --limit 3 --no-java".split()) == 1
    assert compare.main("--checkpoint a --model b".split()) == 1
    assert asked == [
        "--checkpoint a b --split validation --limit 3 --no-java".split(),
        "--checkpoint a --model b".split(),
    ]
    for line, sentence in (
        ("--checkpoint a", "a is one model; name two or more, or score it by itself: python ev"),
        ("--checkpoint a a", "--checkpoint a is one model"),
        ("--checkpoint a b --seeds 1", "--seeds is for models that are trained here; leave it out"),
        ("--config x.toml --checkpoint a b", "--config is for models that are trained here"),
        ("--checkpoint", "--checkpoint needs"),
    ):
        with pytest.raises(UserError) as error:
            compare.main(line.split())
        assert sentence in str(error.value)


def test_flags_are_shared_out() -> None:
    line = "--config a.toml --NUM_EPOCHS 3 --seeds 1 2 --no-GRADIENT_CHECKPOINTING --models A B"
    own, settings = compare.split_flags(line.split())
    assert own == "--config a.toml --seeds 1 2 --models A B".split()
    assert settings == "--NUM_EPOCHS 3 --no-GRADIENT_CHECKPOINTING".split()
    assert compare._given(settings) == {"NUM_EPOCHS": 3, "GRADIENT_CHECKPOINTING": False}
