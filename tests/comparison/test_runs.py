"""What is read of an evaluated run."""

import json
from pathlib import Path

import pytest

from captioning.comparison.runs import _scores, read_run
from captioning.system.errors import UserError

CAPTIONS = (
    ("a.jpg", "a dog runs", ["a dog runs", "the dog is running"], 0.5),
    ("b.jpg", "a cat on a mat", ["a cat sits on a mat"], 0.7),
)
MODEL = {
    "encoder": "a/clip",
    "feature_tokens": 50,
    "feature_width": 768,
    "parameters_trained": 5,
    "parameters_frozen": 7,
}


def write_evaluation(folder: Path) -> dict[str, object]:
    """An evaluation's folder as `evaluate.py` leaves it, and a run's log beside it."""
    numbers: dict[str, object] = {
        "CIDEr": 1.0,
        "METEOR": 0.25,
        "SPICE": None,
        "CLIPScore": 0.6,
        "truth": {"relation": None, "time": 0.5},
        "checkpoint": "run/best",
        "model": MODEL,
        "protocol": {"split": "test"},
        "provenance": {"settings": {"NUM_EPOCHS": 2}, "hardware": {"device": "cpu"}},
    }
    (folder / "metrics.json").write_text(json.dumps(numbers))
    lines = [
        {
            "image": str(folder / "run" / ".." / name),
            "caption": caption,
            "references": references,
            "scores": {"CLIPScore": clip},
            "correct": True,
        }
        for name, caption, references, clip in CAPTIONS
    ]
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    log = folder / "run"
    log.mkdir()
    entries = [
        {"step": 5, "epoch": 1, "loss": 3.0},
        {"step": 10, "epoch": 1, "validation_loss": 2.5, "CIDEr": 0.5, "seconds": 60.0},
        {"step": 20, "epoch": 2, "validation_loss": 2.0, "CIDEr": 0.7, "seconds": 130.0},
        {"step": 40, "epoch": 4, "validation_loss": 2.2, "CIDEr": 0.7, "seconds": 210.0},
    ]
    (log / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in entries))
    return numbers


def test_pictures_from_elsewhere_are_not_shown(tmp_path: Path) -> None:
    write_evaluation(tmp_path)
    assert read_run(tmp_path, model="CLIP", pictures=tmp_path).captions
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match=r"a\.jpg, which is no picture of .*data\. Remove"):
        read_run(tmp_path, model="CLIP", pictures=tmp_path / "data")


def test_a_run_is_read_with_its_scores_and_its_log(tmp_path: Path) -> None:
    write_evaluation(tmp_path)
    run = read_run(tmp_path, model="CLIP", seed=3, run_dir=tmp_path / "run")
    assert (run.model, run.seed, run.checkpoint) == ("CLIP", 3, "run/best")
    assert run.scores.ids == (str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg"))
    assert [one.caption for one in run.captions] == ["a dog runs", "a cat on a mat"]
    assert [one.scores["CIDEr"] for one in run.captions] == run.scores.per_image["CIDEr"].tolist()
    assert run.captions[0].correct is True
    assert run.means["CLIPScore"].tolist() == [0.5, 0.7]
    assert (run.others, run.truth) == ({"METEOR": 0.25}, {"time": 0.5})
    assert run.cost.feature_bytes == 50 * 768 * 2
    assert [point.step for point in run.curve] == [10, 20, 40]
    assert run.losses == ((5, 3.0),)
    assert run.best == run.curve[1]  # the first of two, as training keeps it
    assert run.seconds_an_epoch == 60.0  # of 60, 70 and twice 40


def test_a_run_without_a_log_has_no_curve(tmp_path: Path) -> None:
    write_evaluation(tmp_path)
    for run_dir in (None, tmp_path / "elsewhere"):
        run = read_run(tmp_path, model="CLIP", run_dir=run_dir)
        assert (run.curve, run.best, run.seconds_an_epoch) == ((), None, None)


def test_validations_without_captions_are_ranked_by_loss(tmp_path: Path) -> None:
    write_evaluation(tmp_path)
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_text(log.read_text().replace('"CIDEr"', '"other"'))
    run = read_run(tmp_path, model="CLIP", run_dir=tmp_path / "run")
    assert run.best == run.curve[1]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("metrics.json", None, "metrics.json cannot be read"),
        ("captions.jsonl", None, "captions.jsonl cannot be read"),
        ("metrics.json", "{", "metrics.json is not JSON"),
        ("metrics.json", "[]", "is not what an evaluation of today writes"),
        ("captions.jsonl", '{"image": "a"}\n', "is not what an evaluation of today writes"),
        ("captions.jsonl", "{\n", "is not what an evaluation of today writes"),
        ("captions.jsonl", "", "no candidates"),
    ],
)
def test_damaged_files_are_named(
    tmp_path: Path, name: str, content: str | None, sentence: str
) -> None:
    write_evaluation(tmp_path)
    path = tmp_path / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=sentence):
        read_run(tmp_path, model="CLIP")


def test_evaluations_of_before_models_were_described_are_to_be_made_again(tmp_path: Path) -> None:
    numbers = write_evaluation(tmp_path)
    del numbers["model"]
    (tmp_path / "metrics.json").write_text(json.dumps(numbers))
    with pytest.raises(UserError, match="remove it and give the same command again"):
        read_run(tmp_path, model="CLIP")


def test_cider_of_other_document_frequencies_is_taken_as_it_was_written() -> None:
    lines = [
        {"caption": "a dog", "references": ["a dog runs"], "scores": {"CIDEr": 1.5}},
        {"caption": "a cat", "references": ["the cat"], "scores": {"CIDEr": 0.5}},
    ]
    own = _scores({"protocol": {}}, lines, ["a", "b"])
    fixed = _scores({"protocol": {"document frequencies": "coco.npz"}}, lines, ["a", "b"])
    assert fixed.per_image["CIDEr"].tolist() == [1.5, 0.5]
    assert fixed.corpus["CIDEr"] == 1.0 != own.corpus["CIDEr"]
    assert fixed.corpus["BLEU-1"] == own.corpus["BLEU-1"]
