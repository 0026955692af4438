"""Scores of checkpoints and of files: what is printed, written and shown."""

import io
import json
import math
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import transformers as hf
from PIL import Image
from safetensors import safe_open
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

import evaluate
from captioner import Captioner
from captioning.comparison.runs import short_names
from captioning.metrics.scoring import ScoringOptions
from captioning.sources.records import Record, read_records, write_records
from captioning.system.errors import UserError
from encoder import VisionEncoder
from evaluate import evaluate_checkpoint
from tests.helpers.small_runs import lines_of, run, write_data, write_encoder
from tests.helpers.tiny_rivals import save_rival
from tests.helpers.webdriver import open_browser

ROOT = Path(__file__).parents[2]
NAMES = ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"]
NAMES += ["METEOR", "SPICE", "CLIPScore", "RefCLIPScore"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small run, whose encoder is a whole CLIP with a tokenizer."""
    folder = tmp_path_factory.mktemp("evaluate é")
    write_data(folder, count=60)
    clip = write_encoder(folder)
    words = Tokenizer(WordLevel({"<pad>": 0, "<s>": 1, "<end>": 2, "<unknown>": 3}, "<unknown>"))
    words.pre_tokenizer = Whitespace()
    special = {"pad_token": "<pad>", "eos_token": "<end>", "unk_token": "<unknown>"}
    hf.PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(clip)
    run(folder, VALIDATION_IMAGES=2, NUM_EPOCHS=4, LEARNING_RATE=2e-2)
    return folder


@pytest.fixture(scope="module")
def best(place: Path) -> Path:
    return place / "checkpoints" / "run" / "best"


@pytest.fixture(scope="module")
def evaluated(place: Path, best: Path) -> tuple[Path, str, str]:
    """The default command: its folder, what it prints, and what on standard error."""
    words = ["--output-dir", str(best.parent.parent), "--clip-model", str(place / "tiny-clip")]
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as error:
        assert evaluate.main([*words, "--no-java", "--device", "cpu"]) == 0
    return best.parent / "evaluation", out.getvalue(), error.getvalue()


def test_numbers_are_written(evaluated: tuple[Path, str, str], place: Path, best: Path) -> None:
    numbers = json.loads((evaluated[0] / "metrics.json").read_text())
    records = read_records(place / "data" / "small" / "test")
    recalls = ["R@1", "R@5"]  # of six pictures
    assert list(numbers)[: len(NAMES) + 3] == [*NAMES, *recalls, "num_images"]
    assert numbers["num_images"] == len(records)
    assert {"SPICE"} <= set(numbers["skipped"]) <= {"METEOR", "SPICE"}  # METEOR where Java is
    for name in NAMES:
        assert (numbers[name] is None) == (name in numbers["skipped"])
        has_interval = numbers[name] is not None and name != "METEOR"
        assert (name in numbers["intervals_95"]) == has_interval
    assert numbers["diversity"]["share_in_training"] is not None
    assert numbers["truth"].keys() == {
        *("objects_and_colours", "place", "time", "relation"),
        *("attention_inside_object", "attention_inside_by_chance"),
    }
    model = numbers["model"]
    assert (model["feature_tokens"], model["feature_width"]) == (17, 16)  # patches and class token
    encoder = VisionEncoder.from_pretrained(str(place / "tiny-clip"))
    assert model["parameters_frozen"] == sum(one.numel() for one in encoder.parameters())
    with safe_open(best / "model.safetensors", framework="pt") as file:
        sizes = [math.prod(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118
    assert model["parameters_trained"] == sum(sizes)
    assert numbers["protocol"]["decoding"] == "beam search, 3 beams, length penalty 1"
    assert numbers["provenance"]["data"]["pictures"]["test"] == len(records)


def test_each_caption_is_written_with_its_scores(
    evaluated: tuple[Path, str, str], place: Path, best: Path
) -> None:
    lines = lines_of(evaluated[0] / "captions.jsonl")
    records = read_records(place / "data" / "small" / "test")
    captions = Captioner.from_pretrained(best, device="cpu")([one.image for one in records])
    assert [line["image"] for line in lines] == [str(one.image) for one in records]
    assert [line["caption"] for line in lines] == [one.text for one in captions]
    assert [tuple(line["references"]) for line in lines] == [one.captions for one in records]
    for line, caption in zip(lines, captions, strict=True):
        assert line["confidence"] == pytest.approx(caption.confidence, rel=1e-4)
        assert line["scores"].keys() == {*NAMES, "R@1", "R@5"} - {"METEOR", "SPICE"}
        assert isinstance(line["correct"], bool)


def test_the_protocol_is_printed_with_the_numbers(evaluated: tuple[Path, str, str]) -> None:
    folder, out, _ = evaluated
    numbers = json.loads((folder / "metrics.json").read_text())
    low, high = numbers["intervals_95"]["CIDEr"]
    assert f"{numbers['CIDEr']:.4f}  [{low:.4f}, {high:.4f}]" in out
    for words in (
        "test",
        "references a picture",
        "PTB",
        "beam search, 3 beams",
        "attention inside",
    ):
        assert words in out
    assert "not asked for; leave out --no-java" in out
    assert "--checkpoint" in out.splitlines()[-1]
    with Image.open(folder / "captions.png") as sheet:
        assert sheet.width > 1000


def test_the_report_opens_in_a_browser(
    evaluated: tuple[Path, str, str], tmp_path: Path, place: Path
) -> None:
    with open_browser(tmp_path / "profile") as browser:
        browser.resize(1280, 900)
        browser.prefer("light")
        browser.open(evaluated[0] / "report.html")
        text = browser.script("return document.body.innerText")
        numbers = json.loads((evaluated[0] / "metrics.json").read_text())
        assert f"{numbers['CIDEr']:.3f}" in text
        assert "attention inside object" in text.lower()
        sections = browser.script("return [...document.querySelectorAll('section')].map(s => s.id)")
        # The drawn scenes' truth gives a calibration, the run's log gives curves.
        assert sections == ["scores", "curves", "gallery", "distributions", "confidence", "run"]
        assert browser.script("return document.querySelectorAll('#confidence svg').length") == 1
        cards = browser.script(
            "return [...document.querySelectorAll('.card img')].map(i => i.naturalWidth)"
        )
        assert cards
        assert min(cards) > 0
        assert browser.console() == []
        assert [one for one in browser.requested() if not one.startswith("file:")] == []


def test_several_checkpoints_are_compared(
    best: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = best.parent / "last"
    output = str(tmp_path / "both")
    checkpoints = ("--checkpoint", str(best), str(last))
    assert evaluate.main([*checkpoints, "--output", output, "--no-java", "--limit", "4"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"\| run/(best|last) − run/(best|last) \| [+-]?\d", out)
    content = json.loads((tmp_path / "both" / "comparison.json").read_text())
    assert {model["name"] for model in content["models"]} == {"run/best", "run/last"}
    assert content["pictures"] == 4
    assert len(content["models"][0]["runs"][0]["curve"]) == 4  # the run's epochs
    assert content["findings"][0] in (tmp_path / "both" / "comparison.html").read_text()
    for name in ("run--best", "run--last"):
        numbers = json.loads((tmp_path / "both" / name / "metrics.json").read_text())
        assert numbers["num_images"] == 4
        assert (tmp_path / "both" / name / "report.html").is_file()


def test_other_models_are_scored_beside_ours(
    best: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("captioning.rivals.model.MAX_NEW_TOKENS", 6)
    git, output = save_rival(tmp_path, "git"), tmp_path / "all"
    words = ("--model", str(git), "nobody/nothing", "--no-java", "--limit", "4", "--output")
    assert evaluate.main([*words, str(output), "--checkpoint", str(best)]) == 1
    out, error = capsys.readouterr()
    assert "nobody/nothing cannot be loaded" in error
    assert "captions a second" in out
    content = json.loads((output / "comparison.json").read_text())
    (rival,) = [one for one in content["models"] if one["name"].endswith("tiny-git")]
    assert rival["captions_per_second"] > 0
    assert rival["parameters_frozen"] == 14176
    assert "captions/s" in (output / "comparison.html").read_text()
    assert any("trained elsewhere" in one for one in content["caveats"])
    assert len(content["differences"]) == 2  # of one pair, in two scores
    decodings = {
        json.loads(path.read_text())["protocol"]["decoding"]
        for path in output.glob("*/metrics.json")
    }
    assert len(decodings) == 1
    with pytest.raises(UserError, match=r"missing|cannot be loaded"):
        evaluate.main(
            [
                "--model",
                "nobody/nothing",
                "--dataset",
                "small",
                "--limit",
                "1",
                "--data-dir",
                str(best.parents[2] / "data"),
            ]
        )


def test_checkpoints_of_one_name_keep_apart(tmp_path: Path) -> None:
    names = [str(tmp_path / place / "run" / "best") for place in ("one", "two")]
    for name in names:
        Path(name).mkdir(parents=True)
    assert list(short_names(names).values()) == ["one/run/best", "two/run/best"]
    assert list(short_names([*names[:1], "user/repo"]).values()) == ["run/best", "user/repo"]


def test_other_searches_and_splits(
    best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captioning.decoding.integers.check_processor", lambda: None)
    captions = {}
    for name, words in {
        "greedy": ("--method", "greedy", "--precision", "int8"),
        "wide": ("--beam-size", "5", "--split", "validation"),
    }.items():
        folder = tmp_path / name
        asked = ("--checkpoint", str(best), "--no-java", "--limit", "3", *words)
        assert evaluate.main([*asked, "--output", str(folder)]) == 0
        captions[name] = json.loads((folder / "metrics.json").read_text())["protocol"]
    assert captions["greedy"]["decoding"] == "greedy, in int8"
    assert captions["wide"]["decoding"].startswith("beam search, 5 beams")
    assert captions["wide"]["split"] == "validation"


def test_pictures_of_one_name_in_two_folders_are_two(best: Path, tmp_path: Path) -> None:
    split, records = tmp_path / "small" / "test", []
    for number, folder in enumerate(("one", "two")):
        path = split / folder / "same.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (32, 32), "red").save(path)
        records.append(Record(path, (f"caption number {number}",)))
    write_records(split, records)
    captioner = Captioner.from_pretrained(best, device="cpu")
    found = evaluate_checkpoint(
        captioner, str(best), tmp_path / "small", scoring=ScoringOptions(java=False)
    )
    assert list(found.sheet.base.ids) == ["one/same.png", "two/same.png"]
    assert found.truth == {}


def write(path: Path, content: object) -> str:
    path.write_text(json.dumps(content))
    return str(path)


CANDIDATES = {"1": "a dog runs", "2": "a cat on a mat"}
REFERENCES = {"1": ["a dog runs", "the dog is running"], "2": ["a cat sits on a mat"]}
COCO_CANDIDATES = [{"image_id": int(key), "caption": text} for key, text in CANDIDATES.items()]
COCO_REFERENCES = {
    "images": [{"id": 1}, {"id": 2}],
    "annotations": [
        {"id": 7, "image_id": int(key), "caption": text}
        for key, texts in REFERENCES.items()
        for text in texts
    ],
}


@pytest.mark.parametrize(
    ("candidates", "references"),
    [(CANDIDATES, REFERENCES), (COCO_CANDIDATES, COCO_REFERENCES)],
    ids=["plain", "coco"],
)
def test_files_of_any_model_are_scored(
    candidates: object, references: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [
        *("--candidates", write(tmp_path / "mine.json", candidates)),
        *("--references", write(tmp_path / "theirs.json", references)),
    ]
    assert evaluate.main([*files, "--no-java", "--output", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    numbers = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert re.search(rf"^CIDEr +{numbers['CIDEr']:.4f}  \[", out, re.MULTILINE)
    for words in ("mine.json", "theirs.json", "references a picture  1-2", "PTB"):
        assert words in out
    lines = lines_of(tmp_path / "out" / "captions.jsonl")
    assert [line["image"] for line in lines] == ["1", "2"]
    assert [line["caption"] for line in lines] == list(CANDIDATES.values())
    assert lines[0]["scores"]["ROUGE-L"] == 1
    page = (tmp_path / "out" / "report.html").read_text()
    assert "a cat on a mat" in page
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "captions.json",
        "captions.jsonl",
        "metrics.json",
        "report.html",
    ]
    results = json.loads((tmp_path / "out" / "captions.json").read_text())
    assert results == [
        {"image_id": number, "caption": CANDIDATES[str(number)]} for number in (1, 2)
    ]


def test_one_picture_is_scored_as_far_as_it_can_be(
    best: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--checkpoint", str(best), "--limit", "1", "--no-java", "--output", str(tmp_path)]
    assert evaluate.main(words) == 0
    out = capsys.readouterr().out
    assert re.search(r"^CIDEr +-  one picture has none", out, re.MULTILINE)
    assert re.search(r"^BLEU-1 +\d\.\d{4}$", out, re.MULTILINE)
    assert "One picture: no intervals" in out
    assert "<b>CIDEr</b> was not computed: one picture has none" in (
        tmp_path / "report.html"
    ).read_text(encoding="utf-8")


def test_a_part_of_the_references_is_scored_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [
        *("--candidates", write(tmp_path / "c.json", {"2": "a cat on a mat"})),
        *("--references", write(tmp_path / "r.json", REFERENCES), "--no-java"),
    ]
    with pytest.raises(UserError, match="with --partial"):
        evaluate.main(files)
    assert evaluate.main([*files, "--partial", "--output", str(tmp_path / "out")]) == 0
    said = "1 of 2 pictures with references"
    numbers = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert numbers["protocol"]["partial"] == said
    shown = capsys.readouterr()
    assert said in shown.out
    for text in (shown.err, numbers["warning"], (tmp_path / "out" / "report.html").read_text()):
        assert "Scores over a part: 1 of the 2 pictures" in text


def test_given_captions_are_judged_by_a_clip_beside_their_pictures(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in REFERENCES:
        Image.new("RGB", (8, 8), "navy").save(tmp_path / f"{name}.png")
    files = [
        *("--candidates", write(tmp_path / "c.json", CANDIDATES)),
        *("--references", write(tmp_path / "r.json", REFERENCES), "--no-java"),
    ]
    assert evaluate.main(files) == 0
    assert "add --image-dir FOLDER --clip-model openai/clip" in capsys.readouterr().out
    with pytest.raises(UserError, match="add --image-dir FOLDER"):
        evaluate.main([*files, "--clip-model", str(place / "tiny-clip")])
    more = ["--image-dir", str(tmp_path), "--clip-model", str(place / "tiny-clip")]
    assert evaluate.main([*files, *more, "--output", str(tmp_path / "out")]) == 0
    numbers = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert numbers["CLIPScore"] >= 0
    line = lines_of(tmp_path / "out" / "captions.jsonl")[1]
    assert line["image"] == str(tmp_path / "2.png")
    assert line["scores"]["RefCLIPScore"] >= 0
    assert (tmp_path / "out" / "report.html").read_text().count('src="data:image/webp') == 2


def test_the_same_caption_for_many_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = {str(number): "a dog" for number in range(10)}
    files = [
        *("--candidates", write(tmp_path / "c.json", same)),
        *("--references", write(tmp_path / "r.json", {key: ["a dog"] for key in same})),
    ]
    assert evaluate.main([*files, "--no-java"]) == 0
    assert "WARNING: 10 of 10 pictures (100%) got the same caption" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("candidates", "references", "sentence"),
    [
        ({"1": "x", "9": "y"}, REFERENCES, "'9'"),
        ({"1": "x"}, REFERENCES, "'2'"),
        ({}, REFERENCES, "no candidates"),
        (CANDIDATES, {"1": ["x"], "2": []}, "'2'"),
        (CANDIDATES, {"1": 3}, "a text or a list of texts; for '1' stands 3"),
        (REFERENCES, REFERENCES, "a picture has one candidate; these have several: '1'"),
        ("text", REFERENCES, "is not a captions file"),
        ([{"caption": "x"}], REFERENCES, "row 1"),
        (COCO_CANDIDATES * 2, COCO_REFERENCES, "have several: '1', '2'"),
        (CANDIDATES, {"annotations": [{"image_id": 1}]}, "row 1"),
    ],
)
def test_bad_files_are_a_sentence(
    candidates: object, references: object, sentence: str, tmp_path: Path
) -> None:
    files = [
        *("--candidates", write(tmp_path / "c.json", candidates)),
        *("--references", write(tmp_path / "r.json", references)),
    ]
    with pytest.raises(UserError) as error:
        evaluate.main([*files, "--no-java", "--output", str(tmp_path / "out")])
    assert sentence in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--candidates c.json", "add --references FILE.json"),
        ("--references r.json", "add --candidates FILE.json"),
        ("--candidates c.json --references r.json --checkpoint x", "give either --checkpoint"),
        ("--candidates c.json --references r.json --limit 3", "--limit is for checkpoints"),
        ("--partial", "--partial is for captions that are given; add --candidates FILE."),
        ("--image-dir x", "--image-dir is for captions that are given"),
        ("--candidates missing.json --references r.json", "missing.json cannot be read"),
        ("--limit -1", "--limit is -1; it must be at least 0."),
        ("--beam-size -1", "--beam-size is -1"),
        ("--seed -1", "--seed is -1"),
        ("--method greedy --beam-size 3", "leave one of them out"),
        ("--method sample", "--method is 'sample'; it must be one of greedy, beam."),
        ("--split val", "it must be one of test, validation, train."),
        ("--output-dir nowhere", "there is no trained model under nowhere"),
        ("--checkpoint no/such/folder", "neither a folder nor"),
        ("--precision fp8", "it must be one of auto, fp32, bf16, int8."),
        ("--model x --dataset d --precision int8", "--precision is for checkpoints, and none is"),
        ("--model x --dataset d --choose neighbours", "leave it out, or add --checkpoint FOLDER."),
    ],
)
def test_each_mistake_has_its_sentence(
    words: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        evaluate.main(words.split())
    assert sentence in str(error.value)


def test_missing_data_and_exit_codes(best: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"--DATASET small --DATA_DIR {tmp_path}"):
        evaluate.main(["--checkpoint", str(best), "--data-dir", str(tmp_path)])
    (tmp_path / "c.json").write_text("no JSON")
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "evaluate.py")),
            *("--candidates", str(tmp_path / "c.json"), "--references", "r.json"),
        ],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path / 'c.json'} is not a captions file")
    assert "Traceback" not in done.stderr


def test_scoring_files_needs_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys, evaluate\n"
        "evaluate.main(sys.argv[1:])\n"
        "print(sorted({'torch', 'transformers'} & sys.modules.keys()))"
    )
    files = [
        *("--candidates", write(tmp_path / "c.json", CANDIDATES)),
        *("--references", write(tmp_path / "r.json", REFERENCES)),
        *("--output", str(tmp_path / "out"), "--no-java"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", program, *files],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"
