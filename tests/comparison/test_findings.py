"""The sentences follow the numbers."""

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import stdev

import pytest

from captioning.comparison.comparing import Comparison
from captioning.comparison.findings import (
    caveats,
    duration_text,
    findings,
    number_text,
    p_text,
)
from captioning.comparison.runs import CurvePoint
from captioning.comparison.tables import markdown
from tests.helpers.sample_runs import compared, sample_run


def comparison_of(**shares: float | Sequence[float]) -> Comparison:
    """Models with the share of right captions of each of their seeds."""
    return compared(
        [
            sample_run(name, seed, right=share)
            for name, each in shares.items()
            for seed, share in enumerate(each if isinstance(each, Sequence) else [each])
        ]
    )


def test_another_winner_another_sentence() -> None:
    first, second = comparison_of(Owl=0.9, Yak=0.2), comparison_of(Owl=0.2, Yak=0.9)
    assert "Owl is ahead of Yak by" in findings(first)[1]
    assert "Yak is ahead of Owl by" in findings(second)[1]
    assert findings(first)[0].startswith("CIDEr on 24 pictures, one seed each: Owl ")
    assert findings(second)[0].startswith("CIDEr on 24 pictures, one seed each: Yak ")


def test_a_lead_by_chance_is_called_so() -> None:
    close = comparison_of(Owl=0.55, Yak=0.5)
    assert "may be chance" in findings(close)[1]
    equal = comparison_of(Owl=[0.5, 0.4], Yak=[0.4, 0.5])
    assert findings(equal)[1] == "Owl and Yak have the same CIDEr to three digits."
    three = comparison_of(Owl=0.9, Yak=0.9, Elk=0.2)
    told = "2 of 3 pairs of models differ by more than the chance of pictures"
    assert f"{told}; not told apart: Owl and Yak." in findings(three)
    mixed = comparison_of(Owl=0.8, Yak=0.6, Elk=0.5)
    lead = mixed.difference("Owl", "Yak")
    assert p_text(lead.p_adjusted) != p_text(lead.p_value)
    covered = "pictures alone: other seeds are not covered"
    assert f"(p = {p_text(lead.p_adjusted)}, {covered})" in findings(mixed)[1]
    far = comparison_of(Owl=1.0, Yak=0.6, Elk=0.1)
    assert "All 3 pairs of models differ by more than the chance of pictures." in findings(far)


def test_seeds_are_weighed_against_models() -> None:
    def sentence(comparison: Comparison) -> str:
        (found,) = [one for one in findings(comparison) if "between seeds" in one]
        return found

    steady = comparison_of(Owl=[0.9, 0.87], Yak=[0.2, 0.23])
    assert "times as much as the seed" in sentence(steady)
    assert "more than other pictures or other seeds would explain" in findings(steady)[1]
    deviations = [stdev(one.scores["CIDEr"].each) for one in steady.models]
    within = math.hypot(*deviations) / math.sqrt(2)
    assert f"CIDEr differs by {within:.3f} between seeds" in sentence(steady)
    shaky = comparison_of(Owl=[0.9, 0.2], Yak=[0.8, 0.2])
    assert "the seed matters as much as the choice of model" in sentence(shaky)
    equal = comparison_of(Owl=[0.9, 0.9], Yak=[0.2, 0.2])
    assert sentence(equal).endswith("the seed does not matter.")
    assert not [one for one in findings(comparison_of(Owl=0.9, Yak=0.2)) if "between seeds" in one]
    assert "mean of 1-2 seeds:" in findings(comparison_of(Owl=[0.9, 0.8], Yak=0.2))[0]


def test_another_order_by_bleu_is_told() -> None:
    same = comparison_of(Owl=0.9, Yak=0.2)
    assert "BLEU-4 puts them into the same order." in findings(same)
    models = list(same.models)
    bleu = models[0].scores["BLEU-4"]
    scores = {**models[1].scores, "BLEU-4": replace(bleu, value=bleu.value + 0.01)}
    turned = replace(same, models=(models[0], replace(models[1], scores=scores)))
    (sentence,) = [one for one in findings(turned) if one.startswith("BLEU-4")]
    assert sentence.startswith("BLEU-4 puts them into another order: Yak ")


def test_equal_models_read_sensibly() -> None:
    same = comparison_of(Owl=0.5, Yak=0.5)
    found = findings(same)
    assert found[1] == "Owl and Yak gave every picture the same caption."
    assert "order" not in " ".join(found)
    turned = same.difference("Yak", "Owl")
    assert number_text(turned.value, signed=True) == number_text(-0.0004, signed=True) == "0.000"
    assert "-0.000" not in markdown(same, title="same")
    assert number_text(-0.5) == number_text(-0.5, signed=True) == "-0.500"
    assert number_text(0.5, signed=True) == "+0.500"
    steady = comparison_of(Owl=[0.5, 0.5], Yak=[0.5, 0.5])
    assert "between seeds" not in " ".join(findings(steady))
    fast, slow = curve(10, [0.2, 0.1]), curve(20, [0.2, 0.1])
    paced = compared([sample_run("Owl", curve=slow), sample_run("Yak", curve=fast)])
    assert [one for one in findings(paced) if one.endswith("the fastest is as good as the best.")]


def test_two_checkpoints_of_one_run_are_called_so() -> None:
    settings = {"ENCODER_MODEL_NAME": "clip"}
    runs = [
        sample_run(name, checkpoint=f"checkpoints/demo/{name}", settings=settings)
        for name in ("best", "last")
    ]
    assert any("best and last are checkpoints of one run" in one for one in caveats(compared(runs)))
    assert not any("of one run" in one for one in caveats(comparison_of(Owl=0.5, Yak=0.5)))


def test_what_p_values_cover_is_said_with_them() -> None:
    single, several = comparison_of(Owl=0.9, Yak=0.2), comparison_of(Owl=[0.9, 0.8], Yak=[0.2, 0.3])
    mixed = comparison_of(Owl=[0.9, 0.8], Yak=[0.2, 0.3], Elk=0.5)
    assert "Chance is of pictures alone" in markdown(single, title="")
    assert "| pictures alone |" in markdown(single, title="")
    assert "Chance is of pictures and seeds" in markdown(several, title="")
    assert "not covered" not in markdown(several, title="")
    assert 'where it says "pictures alone"' in markdown(mixed, title="")
    assert "Elk has one seed only" in " ".join(caveats(mixed))


def test_truth_names_best_and_worst() -> None:
    runs = [
        sample_run("Owl", truth={"relation": 0.5, "time": 1.0, "attention_inside_object": 0.1}),
        sample_run("Yak", truth={"relation": 0.75, "time": 1.0, "attention_inside_object": 0.2}),
    ]
    text = " ".join(findings(compared(runs)))
    assert "relation 75.0 % (Yak) to 50.0 % (Owl); time 100.0 %." in text
    runs.append(sample_run("Elk", truth={"relation": 0.25, "time": 1.0}))
    assert "relation 75.0 % (Yak) to 25.0 % (Elk)" in " ".join(findings(compared(runs)))
    assert "attention" not in text


def curve(seconds: float, scores: Sequence[float]) -> tuple[CurvePoint, ...]:
    return tuple(
        CurvePoint(10 * n, n, seconds * n, score, 1.0) for n, score in enumerate(scores, start=1)
    )


def test_times_are_set_against_scores() -> None:
    fast, slow = curve(10, [0.2, 0.1]), curve(20, [0.2, 0.1])
    comparison = compared(
        [sample_run("Owl", right=0.9, curve=slow), sample_run("Yak", right=0.2, curve=fast)]
    )
    text, lost = findings(comparison), comparison.difference("Owl", "Yak").value
    (sentence,) = [one for one in text if "fastest" in one]
    assert sentence == (
        "Yak is the fastest (10.0 s an epoch), Owl the slowest (20.0 s, 2.0 times as long); Yak "
        f"gives up {lost:.3f} CIDEr to Owl for it."
    )
    text = findings(
        compared(
            [sample_run("Owl", right=0.2, curve=slow), sample_run("Yak", right=0.9, curve=fast)]
        )
    )
    assert [one for one in text if one.endswith("the fastest is also the best.")]
    both = [sample_run("Owl", right=0.2, curve=fast), sample_run("Yak", right=0.9, curve=fast)]
    assert "An epoch takes all of them about as long (10.0 s to 10.0 s)." in findings(
        compared(both)
    )


def test_models_that_were_still_learning_are_named() -> None:
    rising, falling = curve(10, [0.1, 0.2]), curve(10, [0.2, 0.1])
    one = [sample_run("Owl", curve=rising), sample_run("Yak", curve=falling)]
    assert findings(compared(one))[-1] == "Owl was best at the end: more epochs may give more."
    two = [sample_run("Owl", curve=rising), sample_run("Yak", curve=rising)]
    assert findings(compared(two))[-1].startswith("Every run was best at its end")
    none = [sample_run("Owl", curve=falling), sample_run("Yak", curve=falling)]
    assert "best at" not in " ".join(findings(compared(none)))
    one_seed = [sample_run("Owl", 1, curve=rising), sample_run("Owl", 2, curve=falling)]
    assert "best at" not in " ".join(findings(compared(one_seed)))


def test_caveats_are_those_of_the_runs() -> None:
    def text(*runs: object) -> str:
        return " ".join(caveats(compared(runs)))

    pretrained = text(sample_run("a"), sample_run("b"))
    assert "random weights" not in pretrained
    assert "compares their weights as they are" in pretrained
    assert "weights as they are" not in text(sample_run("a", 1), sample_run("a", 2))
    assert "a and b have one seed only" in pretrained
    assert "leave out encoding" in pretrained
    assert "drawn scenes" not in pretrained
    trained = {"ENCODER_TRAINED_BLOCKS": -1, "DATASET": "demo"}
    random = text(*(sample_run(f"random:{n}", s, settings=trained) for n in "ab" for s in (1, 2)))
    assert "All encoders began from random weights" in random
    assert "drawn scenes" in random
    assert "weights as they are" not in random
    assert "one seed" not in random
    assert "leave out encoding" not in random
    assert "Some encoders" in text(sample_run("random:a"), sample_run("b"))
    processor = sample_run("b", settings={"IMAGE_PROCESSOR_NAME": "x"})  # part of the encoder
    assert "The models differ in" not in text(sample_run("a"), processor)
    longer = sample_run("b", settings={"NUM_EPOCHS": 9, "BATCH_SIZE": 8})
    assert "The models differ in NUM_EPOCHS and BATCH_SIZE too" in text(sample_run("a"), longer)
    wide = replace(sample_run("b"), protocol={"decoding": "beam", "tokenizer": "PTB"})
    assert "several ways: beam and greedy." in text(sample_run("a"), wide)
    assert "several machines" in text(sample_run("a"), sample_run("b", hardware={"device": "gpu"}))


def test_one_model_alone_has_its_score() -> None:
    found = findings(compared([sample_run("Owl")]))
    assert len(found) == 1
    assert found[0].startswith("CIDEr on 24 pictures, one seed: Owl ")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (12.34, "12.3 s"), (89, "89.0 s"), (90, "1.5 min"), (7540, "2.1 h")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration_text(seconds) == text


def test_small_p_values() -> None:
    assert [p_text(p) for p in (0.0123, 0.001, 0.0001)] == ["0.012", "0.001", "< 0.001"]
