"""Scores that others printed, to the last digit that they printed. Texts and figures are theirs."""

import numpy as np
import pytest

from captioning.metrics import score_captions
from captioning.metrics.bleu import BleuCounts, bleu


def scores(caption: str, references: list[str]) -> dict[str, float]:
    """Of one picture alone."""
    return score_captions({"a": caption}, {"a": references}).corpus


def test_nlg_eval_on_three_references() -> None:
    """Maluuba/nlg-eval, issue 108 (2020), by pycocoevalcap's code."""
    found = scores("tea and buns", ["coffee and buns", "tea and croissants", "pop and snacks"])
    printed = {
        "BLEU-1": 0.9999999993333338,
        "BLEU-2": 0.9999999992500005,
        "BLEU-3": 9.999999990555565e-06,
        "BLEU-4": 5.623413247451623e-06,
        "ROUGE-L": 0.6666666666666666,
        "CIDEr": 0.0,
    }
    for name, value in printed.items():
        assert found[name] == pytest.approx(value, rel=1e-13), name


def test_nlg_eval_on_a_perfect_caption() -> None:
    """Maluuba/nlg-eval, issue 86 (2019)."""
    text = "the cat in the hat came to town"
    found = scores(text, [text])
    printed = (0.9999999997500004, 0.9999999997410718, 0.9999999997301591, 0.9999999997163694)
    for order, value in enumerate(printed, start=1):
        assert found[f"BLEU-{order}"] == pytest.approx(value, rel=1e-14)
    assert (found["ROUGE-L"], found["CIDEr"]) == (1.0, 0.0)


def test_bleu_of_coco_captions_demo() -> None:
    """tylin/coco-caption, issue 3 (2015): 1,000 captions, by the counts that it prints."""
    counts = BleuCounts(
        matches=np.array([5732.0, 2510, 1043, 423]),
        guesses=np.array([9893.0, 8893, 7893, 6893]),
        lengths=np.array(9893.0),
        reference_lengths=np.array(9855.0),
    )
    assert [f"{value:.3f}" for value in bleu(counts)] == ["0.579", "0.404", "0.279", "0.191"]


def test_modified_precision_of_the_bleu_paper() -> None:
    """Papineni et al., 2002, section 2.1: 2/7 for seven times "the", and 17/18 and 8/14."""
    cat = ["The cat is on the mat.", "There is a cat on the mat."]
    assert scores("the the the the the the the", cat)["BLEU-1"] == pytest.approx(2 / 7)
    guide = [
        "It is a guide to action that ensures that the military will forever heed Party commands.",
        "It is the guiding principle which guarantees the military forces always being under the "
        "command of the Party.",
        "It is the practical guide for the army always to heed the directions of the party.",
    ]
    first = (
        "It is a guide to action which ensures that the military always obeys the commands of the "
        "party."
    )
    second = "It is to insure the troops forever hearing the activity guidebook that party direct."
    found = score_captions({"a": first, "b": second}, {"a": guide, "b": guide})
    assert found.bleu_counts.matches[:, 0].tolist() == [17, 8]
    assert found.bleu_counts.guesses[:, 0].tolist() == [18, 14]


def test_rouge_l_of_its_paper() -> None:
    """Lin, 2004, section 3.1: 3/4 for "kill", 2/4 for the other order; lengths are equal, so beta
    does not matter."""
    reference = ["police killed the gunman"]
    assert scores("police kill the gunman", reference)["ROUGE-L"] == pytest.approx(3 / 4)
    assert scores("the gunman kill police", reference)["ROUGE-L"] == pytest.approx(2 / 4)
    assert scores("the gunman police killed", reference)["ROUGE-L"] == pytest.approx(2 / 4)
