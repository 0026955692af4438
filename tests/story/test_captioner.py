"""A trained model as a function of pictures, as a notebook uses it."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from captioner import Caption, Captioner
from captioning.decoding import SearchOptions, TokenRules, search
from captioning.sources.images import load_image
from captioning.system.errors import UserError
from tests.helpers.small_runs import run, write_data, write_encoder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small run."""
    folder = tmp_path_factory.mktemp("captioner")
    write_data(folder)
    write_encoder(folder)
    run(folder, NUM_EPOCHS=1, VALIDATION_IMAGES=2)
    return folder


@pytest.fixture(scope="module")
def captioner(place: Path) -> Captioner:
    return Captioner.from_pretrained(place / "checkpoints" / "run" / "best", device="cpu")


@pytest.fixture(scope="module")
def pictures(place: Path) -> list[Path]:
    return sorted((place / "data" / "small" / "train").glob("*.jpg"))[:5]


def test_a_picture_is_a_path_bytes_or_a_picture(captioner: Captioner, pictures: list[Path]) -> None:
    path = pictures[0]
    expected = captioner(path)
    assert isinstance(expected, Caption)
    for same in (str(path), path.read_bytes(), load_image(path)):
        assert captioner(same) == expected
    assert str(expected) == expected.text
    assert "ids" not in repr(expected)


def test_several_pictures_give_a_list(captioner: Captioner, pictures: list[Path]) -> None:
    many = captioner(pictures)
    assert [one.text for one in many] == [captioner(path).text for path in pictures]
    assert captioner(tuple(pictures)) == many
    assert captioner([]) == []


def test_probabilities_fit_together(captioner: Captioner, pictures: list[Path]) -> None:
    caption = captioner(pictures[0])
    logs = [math.log(probability) for _, probability in caption.token_probabilities]
    assert caption.log_probability == pytest.approx(sum(logs), abs=1e-4)
    assert caption.confidence == pytest.approx(math.exp(sum(logs) / len(logs)), abs=1e-6)
    words = [piece for piece, _ in caption.token_probabilities if piece != "<END>"]
    assert "".join(words).strip() == caption.text
    assert len(words) == len(caption.ids)


@pytest.mark.parametrize("method", ["beam", "diverse", "sample"])
def test_a_picture_can_have_several_captions(
    captioner: Captioner, pictures: list[Path], method: str
) -> None:
    options = SearchOptions(method=method, num_captions=3)
    found = captioner.captions(pictures, options)
    assert [len(captions) for captions in found] == [3] * len(pictures)
    if method == "beam":
        for captions in found:
            means = [one.log_probability / len(one.token_probabilities) for one in captions]
            assert means == sorted(means, reverse=True)


def test_a_sample_does_not_depend_on_the_batches(
    captioner: Captioner, pictures: list[Path]
) -> None:
    options = SearchOptions(method="sample", num_captions=2, seed=3)
    expected = [[str(one) for one in many] for many in captioner.captions(pictures, options)]
    for batch_size in (1, 2):
        found = captioner.captions(pictures, options, batch_size=batch_size)
        assert [[str(one) for one in many] for many in found] == expected
    other = captioner.captions(pictures, SearchOptions(method="sample", num_captions=2, seed=4))
    assert [[str(one) for one in many] for many in other] != expected


@pytest.mark.parametrize("method", ["beam", "sample"])
def test_many_beams_are_searched_of_few_pictures_at_a_time(
    captioner: Captioner, pictures: list[Path], method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = SearchOptions(method=method, beam_size=4, num_captions=4)
    together = captioner.captions(pictures, options)
    monkeypatch.setattr("pipeline.MOST_ROWS", 8)
    searched = []

    def noted(*arguments: object, batch_size: int, **more: object) -> object:
        searched.append(batch_size)
        return search(*arguments, batch_size=batch_size, **more)

    monkeypatch.setattr("pipeline.search", noted)
    apart = captioner.captions(pictures, options)
    assert searched == [2, 2, 1]
    assert [[one.text for one in few] for few in apart] == [
        [one.text for one in few] for few in together
    ]


def test_a_batch_too_large_for_memory_is_halved(
    captioner: Captioner,
    pictures: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected, features, sizes = captioner(pictures), captioner.features, []

    def narrow(batch: list[Path]) -> torch.Tensor:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError
        return features(batch)

    monkeypatch.setattr(captioner, "features", narrow)
    found = captioner(pictures)
    assert [one.text for one in found] == [one.text for one in expected]
    assert sizes == [5, 2, 2, 1]
    assert capsys.readouterr().err.count("Out of memory") == 1


def test_rules_reach_the_search(captioner: Captioner, pictures: list[Path]) -> None:
    usual = captioner.pipeline.rules()
    rules = TokenRules(start_id=usual.start_id, end_id=usual.end_id, max_length=2)
    ((caption,),) = captioner.captions(pictures[:1], rules=rules)
    assert len(caption.ids) <= 2


def test_what_words_looked_at_has_the_picture_s_shape(
    captioner: Captioner, pictures: list[Path]
) -> None:
    image = Image.new("RGB", (90, 40), "navy")
    caption = captioner(pictures[0])
    words = captioner.attention(image, caption)
    assert " ".join(word.text for word in words).split() == caption.text.split()
    assert {word.heat().shape for word in words} == {(40, 90)}
    assert captioner.attention(pictures[0], rollout=True)
    assert captioner.strip(image, caption).width > 224


def test_what_is_no_checkpoint_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a folder nor"):
        Captioner.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(UserError):
        Captioner.from_pretrained(tmp_path)
