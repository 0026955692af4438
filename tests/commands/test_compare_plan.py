"""Presets of comparisons: what they plan, and every mistake in them."""

from dataclasses import fields
from pathlib import Path

import pytest

from captioning.comparison.comparing import differing_settings
from captioning.comparison.comparison_file import folder_name
from captioning.system.errors import UserError
from captioning.system.rules import NO_EFFECT, PER_RUN, SHARED
from compare import read_plan
from config import Config, result_settings, settings_with

ROOT = Path(__file__).parents[2]
GOOD = """
DATASET = "demo"
NUM_EPOCHS = 2
[compare]
SEEDS = [1, 2]
[models."CLIP, frozen"]
ENCODER_MODEL_NAME = "a/clip"
[models.ViT]
encoder-model-name = "a/vit"
ENCODER_TRAINED_BLOCKS = 2
"""


def problems_of(tmp_path: Path, text: str, flags: dict[str, object] | None = None) -> list[str]:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_plan(path, flags)
    assert all(
        "mine.toml" in problem or "command line" in problem for problem in error.value.problems
    )
    return list(error.value.problems)


def test_a_plan_has_every_model_with_every_seed(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    plan = read_plan(path, {"BATCH_SIZE": 7})
    assert [(run.model, run.seed) for run in plan.runs] == [
        ("CLIP, frozen", 1),
        ("ViT", 1),
        ("CLIP, frozen", 2),
        ("ViT", 2),
    ]
    first, second, third, _ = (run.config for run in plan.runs)
    assert first.ENCODER_MODEL_NAME == "a/clip"
    assert (second.ENCODER_MODEL_NAME, second.ENCODER_TRAINED_BLOCKS) == ("a/vit", 2)
    assert (first.RANDOM_SEED, third.RANDOM_SEED) == (1, 2)
    assert {run.config.NUM_EPOCHS for run in plan.runs} == {2}
    assert {run.config.BATCH_SIZE for run in plan.runs} == {7}
    assert plan.runs[0].folder == Path("checkpoints/mine/clip-frozen-seed1")
    assert plan.runs[0].evaluation == Path("checkpoints/mine/evaluations/clip-frozen-seed1")
    assert first.RESUME_CHECKPOINT_PATH == "auto"
    assert plan.common.RANDOM_SEED == Config().RANDOM_SEED  # that of the data


def test_a_part_of_a_plan(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(GOOD)
    plan = read_plan(tmp_path / "mine.toml")
    part = plan.select(["ViT"], [5])
    assert [(run.model, run.seed) for run in part.runs] == [("ViT", 5)]
    assert plan.select().to_json() == plan.to_json()
    longer = read_plan(tmp_path / "mine.toml", {"NUM_EPOCHS": 3})
    for other in (part, plan.select(["ViT"]), plan.select([], [1]), longer):
        assert other.to_json() != plan.to_json()
    with pytest.raises(UserError, match=r"there is no model Vit; did you mean ViT\?"):
        plan.select(["Vit"])


def test_presets_are_plans() -> None:
    encoders = read_plan(ROOT / "presets" / "compare-encoders.toml")
    assert (len(encoders.models), len(encoders.seeds)) == (4, 3)
    for config in encoders.models.values():
        folder = config.ENCODER_MODEL_NAME.removeprefix("random:")
        assert (ROOT / folder / "config.json").is_file()
        assert (ROOT / folder / "preprocessor_config.json").is_file()
    settings = [result_settings(config) for config in encoders.models.values()]
    assert differing_settings(settings, result_settings(Config())) == ("ENCODER_MODEL_NAME",)
    flickr = read_plan(ROOT / "presets" / "compare-flickr30k.toml")
    assert len(flickr.models) == 3
    assert "not measured" in (ROOT / "presets" / "compare-flickr30k.toml").read_text()


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    text = """
    NUM_EPOCH = 2
    [compare]
    SEEDS = [1, 1]
    baseline = "ViT"
    [models.CLIP]
    ENCODER_NAME = "x"
    RANDOM_SEED = 3
    [models.ViT]
    DATASET = "coco"
    NUM_EPOCHS = -1
    [model.BLIP]
    """
    found = "\n".join(problems_of(tmp_path, text, {"DECODER_HEADS": 7}))
    for sentence in (
        "mine.toml: there is no setting NUM_EPOCH; did you mean NUM_EPOCHS?",
        "SEEDS is [1, 1]; each seed may stand once.",
        "[compare] has no baseline; it holds SEEDS alone.",
        "[models.CLIP]: there is no setting ENCODER_NAME; did you mean ENCODER_",
        "[models.CLIP]: RANDOM_SEED is given to each run by the comparison; leave it out.",
        "[models.ViT]: DATASET must be the same for all models; move it to the top of the file.",
        "[models.ViT]: NUM_EPOCHS is -1; it must be from 0 to 1,000,000.",
        "there is no table [model]; did you mean [models]?",
        "the command line: DECODER_HEADS is 7; it must divide",
    ):
        assert sentence in found, found


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the table [compare] is missing"),
        ("[compare]\nSEEDS = [1]\n[models.A]\n", "needs two models at least"),
        ("[compare]\n[models.A]\n[models.B]\n", "SEEDS is None; it must be a list"),
        ("[compare]\nSEEDS = 3\n[models.A]\n[models.B]\n", "SEEDS is 3; it must be a list"),
        ("[compare]\nSEEDS = [-1]\n[models.A]\n[models.B]\n", "each must be at least 0"),
        ("[compare]\nSEEDS = [true]\n[models.A]\n[models.B]\n", "list of whole numbers"),
        ("[compare]\nSEEDS = [1]\n[models.A]\n[models.a]\n", "A, a would share the folder a-seed"),
        ("[compare]\nSEEDS = [1]\n[models.A]\n[models.'--']\n", "needs a name with letters"),
        ("[compare]\nSEEDS = [1]\n[models]\nA = 1\nB = 2\n", "models.A is 1; it must be a table"),
        ("compare = 3\n", "the table [compare] is missing"),
        ("[compare]\nSEEDS = [1]\n[models.A]\n[models.B]\n[extra]\n", "there is no table [extra]"),
        (
            "[compare]\nSEEDS = [1]\n[models.A]\nVALIDATION_IMAGES = 3\n[models.B]\n",
            "VALIDATION_IMAGES must be the same for all models",
        ),
        ("x = ", "is not TOML"),
        (
            'HF_REPO_ID = "a/b"\nHF_UPLOAD_BEST_CHECKPOINTS = true\n[compare]\nSEEDS = [1]\n'
            "[models.A]\n[models.B]\n",
            "into one repository",
        ),
    ],
)
def test_each_mistake_has_its_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    assert sentence in "\n".join(problems_of(tmp_path, text))


def test_a_setting_that_is_newer_than_a_run_had_its_default() -> None:
    now = result_settings(Config())
    older = {name: value for name, value in now.items() if name != "DECODER_DROPOUT"}
    assert differing_settings([now, older], now) == ()
    changed = {**now, "DECODER_DROPOUT": 0.3}
    assert differing_settings([changed, older], now) == ("DECODER_DROPOUT",)


def test_every_setting_decides_a_result_or_has_a_reason_not_to() -> None:
    known = {field.name for field in fields(Config)}
    without = settings_with(NO_EFFECT, PER_RUN)
    assert result_settings(Config()).keys() == known - without
    assert known >= settings_with(PER_RUN, SHARED) >= {"RUN_NAME", "RANDOM_SEED", "DATASET"}


def test_folder_names_are_plain() -> None:
    assert folder_name("CLIP ViT-B/32, frozen") == "clip-vit-b-32-frozen"
    assert folder_name("../x") == "x"


def test_places_and_logs_do_not_decide_a_result() -> None:
    one = Config(OUTPUT_DIR="a", DEVICE="cpu", RANDOM_SEED=1, WANDB_MODE="disabled")
    other = Config(OUTPUT_DIR="b", NUM_WORKERS=3, RANDOM_SEED=2, LOG_INTERVAL=7)
    assert result_settings(one) == result_settings(other)
    changes = {"NUM_EPOCHS": 3, "PRECISION": "fp32", "EMA_DECAY": 0.9, "ENCODER_LAYERS": "-2"}
    for name, value in changes.items():
        assert result_settings(one) != result_settings(Config(**{name: value})), name
