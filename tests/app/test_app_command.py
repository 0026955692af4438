"""`app.py`: what it asks a captioner for, and what it says when it cannot begin."""

from pathlib import Path

import pytest
from PIL import Image

import app
from captioner import Captioner
from captioning.decoding import SearchOptions
from captioning.system.errors import UserError
from config import Config
from tests.helpers.wordy_captioner import make_captioner


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    return make_captioner(tmp_path_factory.mktemp("captioner"))


def test_captions_are_those_of_the_captioner_with_all_their_words(captioner: Captioner) -> None:
    picture = Image.effect_noise((60, 40), 80).convert("RGB")
    search = SearchOptions(method="beam", num_captions=2, beam_size=4, length_penalty=0.5)
    (expected,) = captioner.captions([picture], search)
    wishes = {"method": "beam", "num_captions": "2", "beam_size": "4", "length_penalty": "0.5"}
    found = app.PageModel("wordy", captioner).captions(picture, wishes)
    assert [one.text for one in found] == [one.text for one in expected]
    assert [one.confidence for one in found] == [one.confidence for one in expected]
    for said, caption in zip(found, expected, strict=True):
        looks = captioner.attention(picture, caption)
        assert [heat.text for heat, _ in said.words] == [look.text for look in looks]
        assert all(heat.heat.shape == (32, 48) and 0 < sure <= 1 for heat, sure in said.words)
        assert all(heat.text in said.text for heat, _ in said.words)


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"checkpoint": "elsewhere"}, "There is no setting 'checkpoint' of the search here"),
        ({"method": "greedy", "beam_size": "4"}, "--beam-size means nothing to --method greedy"),
        ({"num_captions": "5000"}, "--num-captions is 5000; it must be"),
        ({"temperature": "x", "method": "sample"}, "--temperature is 'x'; it must be a number"),
        ({"beam_size": "2", "num_captions": "3"}, "it must be at least the number of captions"),
    ],
)
def test_wishes_that_do_not_fit_are_sentences(
    captioner: Captioner, wishes: dict[str, str], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        app.PageModel("wordy", captioner).captions(Image.new("RGB", (8, 8)), wishes)


def test_without_its_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[app\]' -c constraints\.txt"):
        app.main(["--folder", "photos"])


def test_a_port_that_is_taken_is_a_sentence_and_0_is_one_that_is_free(tmp_path: Path) -> None:
    with app.listening(app.AppOptions(port=0)) as listener:
        host, port = listener.getsockname()
        assert host == "127.0.0.1"
        listener.listen()
        with pytest.raises(UserError, match=rf"port {port}, cannot be listened on.* --port 0"):
            app.listening(app.AppOptions(port=port))
    with pytest.raises(UserError, match=r"nowhere\.invalid"):
        app.listening(app.AppOptions(host="nowhere.invalid"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"captions": "a.csv"}, "are of a folder; name it: --folder PICTURES"),
        ({"output_dir": "nowhere"}, "there is no trained model under nowhere"),
    ],
)
def test_what_cannot_be_shown_is_said(options: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        app.make_page(app.AppOptions(**options))


def test_a_model_learns_on_as_it_learnt_but_more_slowly() -> None:
    config = Config(ENCODER_TRAINED_BLOCKS=-1, DECODER_DROPOUT=0.0, LEARNING_RATE=2e-3)
    assert app.learning_settings(config) == {
        "ENCODER_TRAINED_BLOCKS": -1,
        "DECODER_DROPOUT": 0.0,
        "LEARNING_RATE": "0.0005",
        "ENCODER_LEARNING_RATE": "2.5e-06",
    }
    assert set(app.learning_settings(Config())) == {"LEARNING_RATE"}
