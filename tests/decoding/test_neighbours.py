"""Captions of similar training pictures choose among those that were found."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from captioner import Captioner
from captioning.decoding import SearchOptions
from captioning.decoding.neighbours import Neighbours
from captioning.metrics.cider import CiderD, DocumentFrequencies
from captioning.metrics.tokenizers import choose_tokenizer
from captioning.system.errors import UserError
from evaluate import main as evaluate
from generate import main as generate
from tests.helpers.small_runs import run, write_data, write_encoder

CAPTIONS = [
    ["a dog runs over the grass", "a brown dog is running"],
    ["a dog jumps over a log", "the dog is jumping"],
    ["two boats lie on the lake", "boats on calm water"],
    ["a boat sails on the lake", "a white boat on the water"],
]
FOUND = ["a dog is running", "a boat on the lake"]


def features_of(directions: Sequence[Sequence[float]]) -> Tensor:
    """(B, 3, 2): a class token of noise, and two patches that lie a little beside a direction."""
    noise = torch.randn(len(directions), 1, 2, generator=torch.Generator().manual_seed(1)) * 0.01
    patches = torch.tensor(directions)[:, None] + torch.tensor([[0.1], [-0.1]])
    return torch.cat([noise, patches], 1)


TRAINING = features_of([(1.0, 0.1), (1.0, -0.1), (-1.0, 0.1), (-1.0, -0.1)])


def make_neighbours(**settings: float) -> Neighbours:
    return Neighbours([TRAINING[:3], TRAINING[3:]], CAPTIONS, prefix=1, nearest=2, **settings)


def test_similar_pictures_are_found_by_their_patches() -> None:
    neighbours = make_neighbours()
    found = neighbours.nearest(features_of([(0.9, 0.3), (-0.9, 0.3)]))
    assert [sorted(one) for one in found] == [[0, 1], [2, 3]]


def test_the_caption_that_agrees_with_theirs_is_the_best() -> None:
    pictures = features_of([(0.9, 0.0), (-0.9, 0.0)])
    equal, unequal = [[-1.0, -1.0]] * 2, [[-1.0, -9.0]] * 2
    assert make_neighbours().order(pictures, [FOUND] * 2, equal) == [[0, 1], [1, 0]]
    assert make_neighbours().order(pictures, [FOUND] * 2, unequal) == [[0, 1], [0, 1]]
    assert make_neighbours(weight=0.0).order(pictures, [FOUND] * 2, equal) == [[0, 1], [0, 1]]


def test_the_order_is_that_of_a_plain_loop() -> None:
    tokenize = choose_tokenizer("auto", CAPTIONS)
    references = [tokenize(texts) for texts in CAPTIONS]
    cider = CiderD(DocumentFrequencies.of(references))
    picture, sure = features_of([(0.2, 0.9)]), [[-0.5, -0.7, -0.2]]
    candidates = [[*FOUND, "a dog"]]
    neighbours = make_neighbours(weight=2.0)
    asked = [text for number in neighbours.nearest(picture)[0] for text in references[number]]
    scores = [
        log_probability + 2 * float(cider.score([tokens], [asked])[0])
        for tokens, log_probability in zip(tokenize(candidates[0]), sure[0], strict=True)
    ]
    expected = np.argsort([-score for score in scores]).tolist()
    assert neighbours.order(picture, candidates, sure) == [expected]


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small run."""
    folder = tmp_path_factory.mktemp("run")
    write_data(folder)
    write_encoder(folder)
    return run(folder, NUM_EPOCHS=1, VALIDATION_IMAGES=1) / "best"


def test_they_choose_among_all_beams_and_the_results_say_so(best: Path) -> None:
    captioner = Captioner.from_pretrained(best)
    pictures = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue", "green")]
    options = SearchOptions(beam_size=6, num_captions=6)
    beams = captioner.captions(pictures, options)
    # As of a run on a stream that mixed this data set with others.
    captioner.config = replace(captioner.config, STREAM="shards/*.tar", FEATURE_CACHE="1GB")
    captioner.ask_neighbours(best.parents[2] / "data" / "small")
    together = captioner.captions(pictures, options)
    alone = [captioner.captions([picture], SearchOptions(beam_size=6))[0] for picture in pictures]
    assert [{*map(str, one)} for one in together] == [{*map(str, one)} for one in beams]
    assert [len(one) for one in alone] == [1, 1, 1]
    assert [one[0].text for one in alone] == [one[0].text for one in together]
    output = best.parent / "chosen"
    flags = ["--checkpoint", str(best), "--output", str(output), "--choose", "neighbours"]
    assert evaluate([*flags, "--no-java", "--split", "validation"]) == 0
    decoding = json.loads((output / "metrics.json").read_text())["protocol"]["decoding"]
    assert "chosen by the captions of the 20 nearest training pictures" in decoding


def test_what_cannot_be_chosen_from_is_refused(best: Path, tmp_path: Path) -> None:
    flags = ["--checkpoint", str(best), "--choose", "neighbours"]
    with pytest.raises(UserError, match="needs beams"):
        evaluate([*flags, "--method", "greedy"])
    with pytest.raises(UserError, match="finds training pictures themselves"):
        evaluate([*flags, "--split", "train"])
    picture = tmp_path / "a.png"
    Image.new("RGB", (40, 30)).save(picture)
    words = ["--image", str(picture), "--checkpoint", str(best), "--device", "cpu"]
    with pytest.raises(UserError, match="--data-dir is for --choose neighbours"):
        generate([*words, "--data-dir", str(tmp_path)])
    with pytest.raises(UserError, match="means nothing to --method greedy"):
        generate([*words, "--choose", "neighbours", "--method", "greedy"])
    with pytest.raises(UserError, match="train"):
        generate([*words, "--choose", "neighbours", "--data-dir", str(tmp_path)])
    assert generate([*words, "--choose", "neighbours"]) == 0
