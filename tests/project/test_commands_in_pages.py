"""Every command that the README and the pages of `docs/` name is run, on small drawn data.

A command is a line of a `bash` block, or code in the text that begins as one. It is typed in a
folder that holds what the pages name: `photos`, `captions.csv`, `photo.jpg`, `shards`, prepared
data, and a model in `checkpoints/demo`, all small. What is put in the place of something, what is
added, and what is not run, stands in the tables below.
"""

import csv
import json
import re
import shlex
import shutil
import zipfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from app import AppOptions
from captioning.metrics.frequency_files import count_frequencies, save_frequencies
from captioning.scenes import write_scenes
from captioning.sources.records import read_records
from captioning.system.errors import UserError
from captioning.system.options import parse_options
from captioning.system.rules import ARCHITECTURE, OF_OWN_DECODER
from config import settings_with
from export import ExportOptions
from tests.helpers.small_runs import SETTINGS, write_encoder
from tests.helpers.streams import write_webdataset
from tests.helpers.tiny_gpt2 import save_gpt2, save_vit_gpt2
from tests.helpers.tiny_rivals import save_rival

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
BEGINNINGS = ("python ", "torchrun ", "make ", "sbatch ", "pip ", "caption-scores ")
INSTALLED = {"caption-scores": "captioning.reports.caption_scores"}

PUT_IN_PLACE = {
    "google/vit-base-patch16-224-in21k": "tiny-vit",
    "openai/clip-vit-base-patch16": "tiny-clip",
    "nlpconnect/vit-gpt2-image-captioning": "tiny-vit-gpt2",
    "distilgpt2": "tiny-gpt2",
    "pixparse/cc12m-wds": "shards/*.tar",
    "Salesforce/blip-image-captioning-base": "tiny-blip",
    "microsoft/git-base-coco": "tiny-git",
    "Qwen/Qwen2.5-VL-3B-Instruct": "tiny-chat",
    "presets/cc12m-stream.toml": "presets/cc12m-stream.toml --STREAM shards/*.tar",
    "--ENCODER_LAYERS -1,-4,-8": "--ENCODER_LAYERS -1,-2,-3",  # the tiny encoder has three
    "--FEATURE_CACHE 500GB": "--FEATURE_CACHE 1GB",  # refused where the disk has less
    "--ENCODER_IMAGE_SIZE 384": "--ENCODER_IMAGE_SIZE 48",  # of 32
    "--ENCODER_START_EPOCH 5": "--ENCODER_START_EPOCH 1 --NUM_EPOCHS 2",
}
"""What a command names, and what stands for it here. `torchrun` is one process."""
SMALL = {
    **{name: value for name, value in SETTINGS.items() if name not in ("DATASET", "RUN_NAME")},
    "NUM_EPOCHS": "1",
    "VALIDATION_IMAGES": "1",
    "MAX_SEQ_LEN": "16",
    "ENCODER_MODEL_NAME": "tiny-clip",
    "STREAM_STEPS_PER_EPOCH": "3",
}
ADDED = {
    "train": SMALL,
    "features": {"ENCODER_MODEL_NAME": "tiny-clip", "DEVICE": "cpu", "NUM_WORKERS": "0"},
    "prepare_dataset": {"DATA_DIR": "prepared-again", "NUM_WORKERS": "0"},
    "compare": {},
    "evaluate": {"java": "false"},
    "generate": {"device": "cpu"},
    "tokenizer": {},
    "hub": {},
    "export": {},
    "app": {},
}
"""Flags that each command is given besides, unless it has them."""
OF_DECODER = settings_with(OF_OWN_DECODER, ARCHITECTURE)
READ_ONLY = {
    "app.py": "serves until it is stopped; tests/app opens it",
    "compare.py": "takes minutes; tests/commands/test_compare.py runs a small one",
    "export.py": "takes half a minute; tests/export runs it",
    "hub.py upload": "needs the Hub; tests/sharing/test_hub.py runs it against a local one",
    "ENCODER_LORA_RANK": "where `peft`, which the extra `lora` brings, is not installed",
}
"""Commands of which only the flags are read, and why."""
NOT_RUN = {
    "make demo": "trains for minutes; .ci/run runs it",
    "make setup": "makes an environment; .ci/run runs it",
    "make": "of make the target must exist, and no more is asked",
    "python benchmarks/": "measure; tests/project has a test of each that a page is made by",
    "pip": "installs from the network",
    "python captioner/caption.py": "of an export; tests/export runs it",
    "python -m http.server": "serves until it is stopped",
    "sbatch": "needs Slurm",
}
"""Commands that are not run, and why."""


def commands_of(page: str) -> list[str]:
    """The commands of a page, in order, each once."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines += [code for code in re.findall(r"`([^`\n]+)`", prose) if code.startswith(BEGINNINGS)]
    parts = (part for line in lines for part in line.split(" && "))
    found = [re.sub(r"\s{2,}", " ", re.sub(r"\s#.*$", "", part)).strip() for part in parts]
    return list(dict.fromkeys(one for one in found if one and not one.startswith("source ")))


COMMANDS = {
    command: page
    for page in reversed(PAGES)
    for command in commands_of(page)
    if not command.startswith(tuple(NOT_RUN))
}
"""Each once, with the first page that names it."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages name, as a folder to copy."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copytree(ROOT / "presets", folder / "presets")
    write_scenes(folder / "data" / "demo", seed=0, count=20, size=32)
    for name in ("flickr30k", "coco", "holiday"):
        shutil.copytree(folder / "data" / "demo", folder / "data" / name)
    for family in ("clip", "vit"):
        write_encoder(folder, family)
    write_photographs(folder)
    for shards in ("shards", "coco-shards"):
        for number in range(2):
            write_webdataset(
                folder / shards / f"{number}.tar", range(10 * number, 10 * number + 10)
            )
    (folder / "mine.json").write_text('{"a": "a dog runs", "b": "a cat sits"}')
    theirs = '{"a": ["a dog runs fast"], "b": ["the cat", "a cat"]}'
    for name in ("theirs.json", "captions_val2014.json"):
        (folder / name).write_text(theirs)
    (folder / "objects.txt").write_text("dog, puppy\ncat\n")
    frequencies = count_frequencies(json.loads(theirs))
    save_frequencies(folder / "coco-val.npz", frequencies)
    for kind in ("blip", "git", "chat"):
        save_rival(folder, kind)
    save_gpt2(folder)
    save_vit_gpt2(folder)
    rows = [
        {"image": record.image.name, "caption": "a dog", "seconds": 0.5}
        for record in read_records(folder / "data" / "demo" / "test")
    ]
    (folder / "theirs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        call("python train.py --DATASET demo --RUN_NAME demo")
    for model in "ABC":
        shutil.copytree(folder / "checkpoints" / "demo" / "best", folder / model / "best")
    return folder


def write_photographs(folder: Path) -> None:
    """Drawn scenes as a user's own pictures: a folder and a captions file, and both in a zip; a
    folder with a text file beside each picture, and a table in a language of its own."""
    (folder / "photos").mkdir()
    (folder / "captioned").mkdir()
    records = [r for part in ("train", "test") for r in read_records(folder / "data/demo" / part)]
    with (folder / "captions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        for record in records:
            shutil.copy(record.image, folder / "photos")
            rows.writerows([record.image.name, caption] for caption in record.captions)
    for record in records[:4]:
        shutil.copy(record.image, folder / "captioned")
        (folder / "captioned" / f"{record.image.stem}.txt").write_text(record.captions[0])
    rows_of = [f"{r.image.name};{r.captions[0]};{r.captions[1]}" for r in records]
    (folder / "table.csv").write_text("\n".join(["Bild;Titel;Text", *rows_of]))
    shutil.copy(records[0].image, folder / "photo.jpg")
    with zipfile.ZipFile(folder / "flickr30k.zip", "w") as archive:
        archive.write(folder / "captions.csv", "captions.csv")
        for path in sorted((folder / "photos").iterdir()):
            archive.write(path, f"photos/{path.name}")


@pytest.fixture(autouse=True)
def curves_without_a_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plotting takes half of so small a training; test_run_log.py looks at curves."""
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig",
        lambda self, target, **_: Image.new("L", (1, 1)).save(target, "PNG"),
    )


@pytest.fixture
def place(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder, as the current one."""
    folder = tmp_path / "clone"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    return folder


def words_of(command: str) -> tuple[str, list[str]]:
    """The program that a command starts, and its words with what is added and put in place."""
    for named, small in PUT_IN_PLACE.items():
        command = command.replace(named, small)
    words = shlex.split(command.partition(" > ")[0])
    if words[0] in INSTALLED:
        return INSTALLED[words[0]], [*words[1:], "--no-java"]
    script = next(number for number, word in enumerate(words) if word.endswith(".py"))
    program, words = words[script].removesuffix(".py"), words[script + 1 :]
    added = ADDED[program]
    if "--DECODER_MODEL_NAME" in words or "tiny-vit-gpt2" in words:  # which have their own sizes
        added = {name: value for name, value in added.items() if name not in OF_DECODER}
    for name, value in added.items():
        words += [] if f"--{name}" in words else [f"--{name}", value]
    return program, words


def call(command: str) -> None:
    """Run a command in this process."""
    program, words = words_of(command)
    main = import_module(program).main
    if "--help" in words:
        with pytest.raises(SystemExit, match=r"^0$"):
            main(words)
    else:
        assert main(words) == 0


@pytest.mark.parametrize(
    "command", COMMANDS, ids=[f"{page}: {command}" for command, page in COMMANDS.items()]
)
def test_a_command_of_a_page_does_its_work(
    command: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "compare.py" in command:
        compare = import_module("compare")
        assert compare.plan_of(*compare.options_of(words_of(command)[1])).runs
    elif "app.py" in command:
        app_options = parse_options(AppOptions, words_of(command)[1])
        assert all(Path(one).exists() for one in (app_options.folder, app_options.captions) if one)
    elif "export.py" in command:
        options = parse_options(ExportOptions, words_of(command)[1])
        assert (place / options.checkpoint / "model.safetensors").is_file()
    elif "hub.py upload" in command:
        with pytest.raises(UserError, match=r"Hub"):
            call(command)
    elif "LORA" in command and find_spec("peft") is None:
        from config import Config

        parse_options(Config, words_of(command)[1])
    else:
        call(command)
    if "RESUME_CHECKPOINT_PATH auto" in command:
        assert "a fresh start" in capsys.readouterr().out
        call(command)
        assert "Going on from" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES)
def test_what_torchrun_is_told_is_what_it_takes(page: str) -> None:
    from torch.distributed.run import get_args_parser

    for command in commands_of(page):
        if command.startswith("torchrun "):
            parsed = get_args_parser().parse_args(shlex.split(command)[1:])
            assert (ROOT / parsed.training_script).is_file()


@pytest.mark.parametrize("page", PAGES)
def test_targets_of_make_exist_and_the_first_two_are_run_before_a_change_lands(page: str) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in commands_of(page):
        if command.startswith("make "):
            assert command.removeprefix("make ") in targets, command
    assert {"make demo", "make test"} <= set((ROOT / ".ci" / "run").read_text().splitlines())


@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/library.md"])
def test_python_on_a_page_runs(page: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That of the page on the library is run in test_library_page.py."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        exec(compile(block, page, "exec"), {"__name__": "page"})
    assert "```python" not in text or capsys.readouterr().out


@pytest.mark.parametrize("tables", [PUT_IN_PLACE, READ_ONLY, NOT_RUN])
def test_no_exception_is_kept_that_no_page_needs(tables: dict[str, object]) -> None:
    named = "\n".join(command for page in PAGES for command in commands_of(page))
    assert [name for name in tables if name not in named] == []
