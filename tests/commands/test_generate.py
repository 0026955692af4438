"""The command that captions: what it prints, where, and with which exit code."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import generate
from captioner import Caption, Captioner
from captioning.sources import image_inputs
from captioning.system.errors import UserError
from tests.helpers.small_runs import run, write_data, write_encoder

ROOT = Path(__file__).parents[2]
Command = Callable[..., tuple[int, list[str], str]]
"""Words to (exit code, lines of standard output, standard error)."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small run."""
    folder = tmp_path_factory.mktemp("generate é")
    write_data(folder)
    write_encoder(folder)
    run(folder, VALIDATION_IMAGES=2, NUM_EPOCHS=12, LEARNING_RATE=2e-2, VALIDATION_INTERVAL=12)
    return folder


@pytest.fixture(scope="module")
def captioner(place: Path) -> Captioner:
    return Captioner.from_pretrained(place / "checkpoints" / "run" / "best", device="cpu")


@pytest.fixture(autouse=True)
def loaded_once(captioner: Captioner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands take the model that is loaded already; `generate.py` is run whole once below."""
    monkeypatch.setattr(Captioner, "from_pretrained", lambda *_, **__: captioner)


@pytest.fixture(scope="module")
def pictures(place: Path) -> list[str]:
    return [str(path) for path in sorted((place / "data" / "small" / "train").glob("*.jpg"))[:4]]


@pytest.fixture
def command(place: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `generate.py`."""

    def call(*words: str) -> tuple[int, list[str], str]:
        capsys.readouterr()
        code = generate.main([*words, "--output-dir", str(place / "checkpoints")])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err

    return call


def test_one_picture_prints_its_caption_alone(
    command: Command, captioner: Captioner, pictures: list[str]
) -> None:
    code, lines, error = command("--image", pictures[0])
    assert (code, lines) == (0, [captioner(pictures[0]).text])
    assert "picture" not in error  # no bar for one


def test_several_pictures_print_their_paths_too(
    command: Command, captioner: Captioner, pictures: list[str]
) -> None:
    code, lines, _ = command("--image", *pictures)
    expected = [f"{path}\t{one}" for path, one in zip(pictures, captioner(pictures), strict=True)]
    assert (code, lines) == (0, expected)


def test_a_terminal_shows_a_bar_for_many_and_none_for_one(
    command: Command, pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    _, lines, error = command("--image", *pictures)
    assert [line.split("\t")[0] for line in lines] == pictures
    assert "4/4" in error
    assert "1/1" not in command("--image", pictures[0])[2]


def test_a_folder_and_a_limit(command: Command, pictures: list[str]) -> None:
    code, lines, _ = command("--image", str(Path(pictures[0]).parent), "--limit", "3")
    assert code == 0
    assert [line.split("\t")[0] for line in lines] == pictures[:3]


def test_a_folder_of_one_picture_prints_its_path(
    command: Command, pictures: list[str], tmp_path: Path
) -> None:
    copy = tmp_path / "a.jpg"
    copy.write_bytes(Path(pictures[0]).read_bytes())
    (caption,) = command("--image", str(copy))[1]
    for place in (str(tmp_path), f"{tmp_path}/*"):
        assert command("--image", place)[:2] == (0, [f"{copy}\t{caption}"])
    (tmp_path / "b.CR2").write_bytes(b"")
    code, lines, error = command("--image", str(tmp_path), f"{tmp_path}/*.bmp")
    assert (code, len(lines)) == (1, 1)
    assert "1 file passed over that cannot be read" in error
    assert "*.bmp matches no file" in error


def test_fewer_captions_than_asked_for_are_said(command: Command, pictures: list[str]) -> None:
    many = ["--num-captions", "4", "--method", "diverse", "--groups", "2", "--diversity-penalty"]
    code, lines, error = command("--image", pictures[0], *many, "0")
    assert (code, len(lines)) == (0, 2)
    assert f"Fewer captions than the 4 of --num-captions: 2 of {pictures[0]}" in error
    assert "Fewer" not in command("--image", pictures[0], "--num-captions", "2")[2]


def test_json_prints_a_line_a_picture(
    command: Command, captioner: Captioner, pictures: list[str]
) -> None:
    code, lines, _ = command("--image", *pictures[:2], "--json", "--num-captions", "2")
    rows = [json.loads(line) for line in lines]
    assert code == 0
    assert [row["image"] for row in rows] == pictures[:2]
    for row in rows:
        assert len(row["captions"]) == 2
        for caption in row["captions"]:
            assert caption.keys() == {"text", "log_probability", "confidence"}
            assert caption["log_probability"] < 0 < caption["confidence"] <= 1
    (line,) = command("--image", pictures[0], "--json")[1]
    assert json.loads(line)["image"] == pictures[0]


def test_a_broken_picture_among_many_is_reported_and_the_others_captioned(
    command: Command, captioner: Captioner, pictures: list[str], tmp_path: Path
) -> None:
    text, cut = tmp_path / "text.png", tmp_path / "cut.jpg"
    text.write_text("no picture")
    cut.write_bytes(Path(pictures[0]).read_bytes()[:400])
    missing = str(tmp_path / "missing.png")
    code, lines, error = command(
        "--image", pictures[0], str(text), missing, pictures[1], str(cut), "--batch-size", "2"
    )
    expected = captioner(pictures[:2])
    assert code == 1
    assert lines == [f"{path}\t{one}" for path, one in zip(pictures, expected, strict=False)]
    for name in (str(text), missing, str(cut)):
        assert f"error: {name}" in error
    assert "3 of 5 pictures could not be captioned." in error


def test_a_broken_picture_alone_is_the_user_s_to_mend(command: Command, tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("no picture")
    code, lines, error = command("--image", str(text))
    assert (code, lines) == (2, [])
    assert error.count("error: ") == 1
    with pytest.raises(UserError, match=r"missing\.png is missing"):
        command("--image", str(tmp_path / "missing.png"))


def test_file_urls_and_private_addresses_are_not_fetched(
    command: Command, pictures: list[str]
) -> None:
    for url in (f"file://{pictures[0]}", "http://127.0.0.1/a.png"):
        code, lines, error = command("--image", url)
        assert (code, lines) == (2, [])
        assert "is not fetched" in error


def test_a_url_gives_a_picture_or_is_named(
    command: Command, captioner: Captioner, pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = "http://example.org/page"
    contents = {
        page: b"<html>no picture",
        "http://example.org/a.jpg": Path(pictures[0]).read_bytes(),
    }
    monkeypatch.setattr(image_inputs, "fetch", contents.__getitem__)
    code, lines, error = command("--image", *contents)
    assert code == 1
    assert lines == [f"http://example.org/a.jpg\t{captioner(pictures[0])}"]
    assert f"error: {page} is text" in error


def test_pictures_of_any_kind_are_captioned(command: Command, tmp_path: Path) -> None:
    plain = Image.effect_noise((40, 30), 60)
    kinds = {
        "cmyk.jpg": plain.convert("CMYK"),
        "alpha.png": plain.convert("RGBA"),
        "palette.gif": plain.convert("P"),
        "deep.png": Image.fromarray(np.full((30, 40), 40_000, np.uint16)),
        "grey.webp": plain.convert("L"),
        "bits.bmp": plain.convert("1"),
    }
    for name, picture in kinds.items():
        picture.save(tmp_path / name)
    plain.save(tmp_path / "moving.gif", save_all=True, append_images=[plain.rotate(90)])
    code, lines, _ = command("--image", str(tmp_path))
    assert code == 0
    assert len(lines) == len(kinds) + 1


def test_a_picture_lying_on_its_side_is_turned_upright(
    command: Command, pictures: list[str], tmp_path: Path
) -> None:
    upright = Image.open(pictures[1]).convert("RGB")
    exif = Image.Exif()
    exif[274] = 6  # the camera was turned: show it after a turn to the right
    upright.save(tmp_path / "upright.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    turned, straight = (
        json.loads(command("--image", str(tmp_path / name), "--json")[1][0])["captions"]
        for name in ("turned.png", "upright.png")
    )
    assert turned == straight


@pytest.mark.parametrize(
    "words",
    [
        ("--method", "beam"),
        ("--method", "beam", "--beam-size", "4", "--length-penalty", "0.5"),
        ("--method", "diverse", "--groups", "2"),
        ("--method", "sample", "--temperature", "2", "--top-k", "50", "--min-p", "0.01"),
    ],
)
def test_several_captions_are_several_lines(
    command: Command, pictures: list[str], words: tuple[str, ...]
) -> None:
    code, lines, _ = command("--image", pictures[0], "--num-captions", "3", *words)
    assert code == 0
    assert len(lines) == 3


def test_a_sample_is_the_same_whatever_the_batch_and_its_neighbours(
    command: Command, pictures: list[str], tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_text("no picture")
    images = ["--image", pictures[0], str(tmp_path / "broken.png"), *pictures[1:]]
    sample = ["--method", "sample", "--num-captions", "2", "--seed", "5"]
    expected = command(*images, *sample)
    assert expected[0] == 1
    assert len(expected[1]) == 8
    for size in ("1", "2", "3"):
        assert command(*images, *sample, "--batch-size", size)[1] == expected[1]
    assert command(*images, *sample[:-1], "6")[1] != expected[1]


def test_words_are_forced_and_forbidden(command: Command, pictures: list[str]) -> None:
    (usual,) = command("--image", pictures[0])[1]
    for word in {usual.split()[0], usual.split()[-1].strip(".")}:
        (caption,) = command("--image", pictures[0], "--forbid", word.lower(), word)[1]
        assert word.lower() not in caption.lower().split()
    (caption,) = command("--image", pictures[0], "--force", "purple", "zebra")[1]
    assert " purple" in caption
    assert " zebra" in caption
    longest = len(command("--image", pictures[0])[1][0])
    for method in ("greedy", "sample", "diverse"):
        code, lines, _ = command("--image", pictures[0], "--force", "zebra", "--method", method)
        assert code == 0
        assert all(" zebra" in line and len(line) <= 2 * longest for line in lines)


def test_lengths_are_kept(command: Command, pictures: list[str]) -> None:
    (short,) = command("--image", pictures[0], "--max-length", "3")[1]
    (usual,) = command("--image", pictures[0])[1]
    assert len(short) < len(usual)
    command("--image", pictures[0], "--min-length", "20", "--no-repeat-ngram", "2")


def test_attention_is_drawn_of_the_first_picture_that_can_be_read(
    command: Command, pictures: list[str], tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_text("no picture")
    strip = tmp_path / "words.png"
    code, lines, error = command(
        *("--image", str(tmp_path / "broken.png"), *pictures[:2]),
        *("--attention", str(strip), "--rollout", "--batch-size", "1"),
    )
    assert code == 1
    assert len(lines) == 2
    assert error.count(str(strip)) == 1
    with Image.open(strip) as picture:
        assert picture.width > 400


def test_a_picture_whose_attention_is_drawn_is_read_once(
    command: Command, pictures: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    def noted_fetch(url: str) -> bytes:
        fetched.append(url)
        return Path(pictures[0]).read_bytes()

    monkeypatch.setattr(image_inputs, "fetch", noted_fetch)
    url, strip = "http://example.org/a.jpg", tmp_path / "words.png"
    assert command("--image", url, "--attention", str(strip))[0] == 0
    assert fetched == [url]
    assert strip.exists()


def test_a_strip_that_cannot_be_written_is_the_user_s_to_mend(
    command: Command, pictures: list[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        command("--image", pictures[0], "--attention", str(tmp_path / "file" / "words.png"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--num-captions 0", "--num-captions is 0; it must be from 1 to 1,000."),
        ("--batch-size 0", "--batch-size is 0"),
        ("--beam-size -1", "--beam-size is -1"),
        ("--limit -1", "--limit is -1"),
        ("--limit two", "--limit is 'two'; it must be a whole number."),
        ("--method best", "--method is 'best'; it must be one of greedy, beam, sample, diverse."),
        ("--beam-size 2 --num-captions 3", "at least the number of captions"),
        ("--method greedy --num-captions 2", "greedy search finds one caption"),
        ("--method greedy --beam-size 3", "--beam-size means nothing to --method greedy"),
        ("--temperature 2", "--temperature means nothing to --method beam"),
        ("--seed 2", "add --method sample"),
        ("--groups 2", "add --method diverse"),
        ("--method sample --temperature 0", "temperature is 0.0; it must be above 0."),
        ("--method sample --top-p 2", "top_p is 2.0"),
        ("--method sample --min-p -1", "min_p is -1.0"),
        ("--method sample --top-k -1", "top_k is -1"),
        ("--method diverse --beam-size 4 --groups 3", "must divide the beam size"),
        ("--length-penalty nan", "length_penalty is nan"),
        ("--repetition-penalty 0", "repetition_penalty is 0.0"),
        ("--no-repeat-ngram -1", "no_repeat_ngram is -1"),
        ("--max-length 99", "this model writes 39 tokens at most"),
        ("--min-length 39", "this model writes 39 tokens at most"),
        ("--force red --forbid red", "'red' is both forced and forbidden"),
        ("--attention words.jpg", "must name a .png file"),
        ("--rollout", "add --attention FILE.png"),
        ("--font nowhere.ttf --attention a.png", "--font is 'nowhere.ttf'"),
        ("--precision fp8", "--precision is 'fp8'"),
        ("--beam-sise 3", "did you mean --beam-size?"),
    ],
)
def test_each_option_has_its_sentence(
    command: Command, pictures: list[str], words: str, sentence: str
) -> None:
    with pytest.raises(UserError) as error:
        command("--image", pictures[0], *words.split())
    assert sentence in str(error.value)


def test_an_empty_word_is_refused(command: Command, pictures: list[str]) -> None:
    for word in ("", " red"):
        with pytest.raises(UserError, match="must be a word"):
            command("--image", pictures[0], "--forbid", word)


def test_memory_that_does_not_suffice_halves_the_batches_once(
    command: Command, captioner: Captioner, pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, features = command("--image", *pictures)[1], captioner.features

    def narrow(batch: list[object]) -> torch.Tensor:
        if len(batch) > 1:
            raise torch.OutOfMemoryError
        return features(batch)

    monkeypatch.setattr(captioner, "features", narrow)
    code, lines, error = command("--image", *pictures)
    assert (code, lines) == (0, expected)
    assert error.count("Out of memory") == 2  # 4, then 2, then 1


@pytest.mark.slow
def test_the_whole_command_in_a_pipe_that_closes_early(place: Path) -> None:
    folder = str(place / "data" / "small" / "train")
    done = subprocess.run(
        [
            *("bash", "-c", 'set -o pipefail; "$@" | head -n 1', "bash"),
            *(sys.executable, str(ROOT / "generate.py"), "--image", folder),
            *("--output-dir", str(place / "checkpoints"), "--batch-size", "1"),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith(folder)


def test_the_notebook_s_names_are_here() -> None:
    captioner, caption = (getattr(generate, name) for name in ("Captioner", "Caption"))
    assert captioner is Captioner
    assert caption is Caption
