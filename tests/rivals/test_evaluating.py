"""A rival beside ours: the same pictures, references and tokens; another program's captions."""

import json
from pathlib import Path

import pytest
import torch

from captioning.decoding import SearchOptions
from captioning.metrics.scoring import ScoringOptions
from captioning.rivals.evaluating import evaluate_rival, read_captions
from captioning.sources.records import PreparedSplit
from captioning.system.errors import UserError
from captioning.system.runtime import Runtime
from tests.helpers.small_runs import write_data
from tests.helpers.tiny_rivals import save_rival

NO_JAVA = ScoringOptions(java=False)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captioning.rivals.model.MAX_NEW_TOKENS", 6)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> PreparedSplit:
    return PreparedSplit.read(write_data(tmp_path_factory.mktemp("data")) / "small" / "test")


def evaluate(name: Path, split: PreparedSplit):  # type: ignore[no-untyped-def]
    return evaluate_rival(
        str(name), split, SearchOptions.of_beams(2), NO_JAVA, Runtime(torch.device("cpu"))
    )


def test_a_model_is_scored_like_a_checkpoint(split: PreparedSplit, tmp_path: Path) -> None:
    evaluation = evaluate(save_rival(tmp_path, "git"), split)
    numbers = evaluation.to_json()
    assert numbers["num_images"] == len(split.records)
    assert numbers["model"]["parameters_frozen"] > 10_000
    assert numbers["protocol"]["decoding"] == "beam search, 2 beams, length penalty 1"
    assert numbers["effort"]["captions_per_second"] > 0
    assert numbers["effort"]["seconds"] > 0
    assert set(numbers["truth"]) == {"objects_and_colours", "place", "time", "relation"}
    assert [one.image for one in evaluation.pictures] == [one.image for one in split.records]
    json.dumps(numbers)


def test_another_programs_captions_find_their_pictures(
    split: PreparedSplit, tmp_path: Path
) -> None:
    texts = {name: f"caption {number}" for number, name in enumerate(split.ids)}
    turned = list(texts.items())[::-1]
    plain, timed = tmp_path / "plain.json", tmp_path / "timed.jsonl"
    plain.write_text(json.dumps(dict(turned)))
    rows = [{"image": name, "caption": text, "seconds": 0.5} for name, text in turned]
    timed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for path, seconds in ((plain, None), (timed, len(texts) / 2)):
        captions, effort = read_captions(str(path), split)
        assert captions == list(texts.values())
        assert effort.seconds == seconds
    evaluation = evaluate(timed, split)
    assert evaluation.effort.captions_per_second == 2
    assert evaluation.protocol["decoding"] == "another program's"
    rows[0]["seconds"] = 0
    timed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"1 of .* rows have no seconds"):
        read_captions(str(timed), split)
    plain.write_text(json.dumps(dict(turned[1:])))
    with pytest.raises(UserError, match="no candidate"):
        read_captions(str(plain), split)
