"""`generate.py --write`: every form, on folders, zips and shards, after kills, in parts."""

import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest

import generate
from captioner import Captioner
from captioning.metrics.score_files import read_candidates
from captioning.sources.folder_source import files_source
from captioning.system.errors import UserError
from captioning.writing.tables import Table
from tests.helpers.streams import picture, write_parquet, write_webdataset
from tests.helpers.wordy_captioner import make_captioner

Command = Callable[..., tuple[int, str]]
"""Words to (exit code, standard error)."""
FORMS = ("txt", "caption", "xmp", "jsonl", "csv", "parquet", "coco")
FILES = {"jsonl": ".jsonl", "csv": ".csv", "parquet": ".parquet", "coco": ".json"}


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    return make_captioner(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(captioner: Captioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with pictures in `photos` and below it."""
    monkeypatch.setattr(Captioner, "from_pretrained", lambda *_, **__: captioner)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for number in range(4):
        (tmp_path / "photos" / f"p{number}.png").write_bytes(picture(number))
    (tmp_path / "photos" / "sub" / "p4.png").write_bytes(picture(4))
    return tmp_path


@pytest.fixture
def command(folder: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `generate.py`, which prints nothing where it writes."""

    def call(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = generate.main([*words, "--checkpoint", "loaded"])
        captured = capsys.readouterr()
        assert not captured.out or "--write" not in words
        return code, captured.err

    return call


def captioned_names(path: Path) -> list[str]:
    """The pictures of a file of JSON Lines."""
    return [json.loads(line)["image"] for line in path.read_text().splitlines()]


def printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    generate.main([*words, "--checkpoint", "loaded"])
    lines = capsys.readouterr().out.splitlines()
    return dict(line.split("\t") for line in lines)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_is_a_source_of_captions_and_of_candidates(
    form: str, command: Command, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--image", "photos", "--method", "sample"]
    expected = printed(words, capsys)
    assert len(set(expected.values())) > 2
    assert command(*words, "--write", form)[0] == 0
    place = f"photos/captions{FILES[form]}" if form in FILES else "photos"
    for captions_file in ("", place if form in FILES else f".{form}"):
        source = files_source("photos", captions_file)
        found = {f"photos/{one.name}": one.captions for one in source.pictures}
        assert found == {name: (text,) for name, text in expected.items()}
    candidates = read_candidates(place)
    assert sorted(one.captions[0] for one in candidates) == sorted(expected.values())


def test_what_is_there_is_skipped_and_overwritten_on_demand(command: Command, folder: Path) -> None:
    for form in ("xmp", "csv"):
        words = ("--image", "photos", "--write", form)
        assert command(*words)[0] == 0
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        (folder / "photos" / "new.png").write_bytes(picture(9))
        code, told = command(*words)
        assert (code, "1 picture captioned" in told, "5 were before" in told) == (0, True, True)
        (folder / "photos" / "new.png").unlink()
        assert "--overwrite captions them again" in command(*words)[1]
        assert "5 pictures captioned" in command(*words, "--overwrite")[1]
        pictures = [path for path in before if path.suffix == ".png"]
        assert all(path.read_bytes() == before[path] for path in pictures)
        leave = [*folder.rglob("*.tmp"), *folder.rglob(".*")]
        assert leave == []
        for path in folder.rglob("*"):
            if path.is_file() and path.suffix != ".png":
                path.unlink()


@pytest.mark.parametrize("form", ["txt", "jsonl", "parquet"])
def test_a_run_that_breaks_off_goes_on_where_it_was(
    form: str, command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--image", "photos", "--batch-size", "2", "--write", form)
    assert command(*words, "--output", "whole")[0] == 0
    captions, batches = Captioner._search, iter(range(2))

    def breaking(self: Captioner, *arguments: object) -> object:
        if next(batches, None) is None:
            raise KeyboardInterrupt
        return captions(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Captioner, "_search", breaking)
        with pytest.raises(KeyboardInterrupt):
            command(*words, "--output", "broken")
    if form in FILES:
        assert not list((folder / "broken").glob("captions*"))
        (journal,) = (folder / "broken").glob(".captions*.partial")
        with journal.open("ab") as file:
            file.write(b'{"key": "photos/p3')  # a kill amid a line
    else:
        assert len(list((folder / "broken").rglob("*.txt"))) == 4
    assert "1 picture captioned" in command(*words, "--output", "broken")[1]
    for path in (folder / "whole").rglob("*.*"):
        same = folder / "broken" / path.relative_to(folder / "whole")
        if form == "parquet":
            tables = [pyarrow.parquet.read_table(one).to_pylist() for one in (path, same)]
            assert [row["image"] for row in tables[0]] == [row["image"] for row in tables[1]]
        elif form == "txt":
            assert same.read_text() == path.read_text()
        else:
            assert captioned_names(same) == captioned_names(path)
    assert not list((folder / "broken").glob(".*"))


@pytest.mark.slow
def test_a_kill_loses_a_batch_at_most(captioner: Captioner, folder: Path) -> None:
    script = folder / "killed.py"
    script.write_text(
        "import os, signal, sys\n"
        f"sys.path.insert(0, {os.fspath(Path(generate.__file__).parent)!r})\n"
        "import generate\nfrom pathlib import Path\nfrom captioner import Captioner\n"
        "from tests.helpers.wordy_captioner import make_captioner\n"
        "loaded = make_captioner(Path('model'))\n"
        "Captioner.from_pretrained = classmethod(lambda *a, **k: loaded)\n"
        "search, left = Captioner._search, iter(range(3))\n"
        "def dying(self, *a):\n"
        "    if next(left, None) is None:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return search(self, *a)\n"
        "Captioner._search = dying\n"
        "generate.main([*sys.argv[1:], '--checkpoint', 'x', '--batch-size', '1'])\n"
    )
    words = ["--image", "photos", "--write", "jsonl"]
    died = subprocess.run([sys.executable, str(script), *words], cwd=folder, check=False)
    assert died.returncode == -signal.SIGKILL
    assert not (folder / "photos" / "captions.jsonl").exists()
    assert generate.main([*words, "--checkpoint", "x"]) == 0
    names = captioned_names(folder / "photos" / "captions.jsonl")
    assert len(names) == len(set(names)) == 5


def test_two_processes_never_write_one_file(command: Command, folder: Path) -> None:
    from captioning.writing.forms import FORMS as KNOWN

    other = Table(folder / "photos" / "captions.jsonl", KNOWN["jsonl"])
    other.open()
    with pytest.raises(UserError, match=r"Another process is writing photos/captions\.jsonl"):
        command("--image", "photos", "--write", "jsonl")
    other.close()
    assert command("--image", "photos", "--write", "jsonl")[0] == 0


def test_parts_do_each_picture_once_and_any_other_sharing_goes_on(
    command: Command, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--image", "photos", "--method", "sample")
    expected = printed([*words], capsys)
    for part in ("1/2", "2/2"):
        assert command(*words, "--write", "jsonl", "--part", part)[0] == 0
    files = sorted((folder / "photos").glob("captions*"))
    assert [path.name for path in files] == ["captions-1-of-2.jsonl", "captions-2-of-2.jsonl"]
    rows = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    assert {row["image"]: row["captions"][0]["text"] for row in rows} == expected
    assert len(rows) == 5
    found = {f"photos/{one.name}": one.captions[0] for one in files_source("photos").pictures}
    assert found == expected
    for part in ("", "1/3", "2/3", "3/3"):
        code, told = command(*words, "--write", "jsonl", *(["--part", part] if part else []))
        assert (code, "0 pictures captioned" in told) == (0, True)
    assert sorted((folder / "photos").glob("captions*")) == files
    printed_parts = [printed([*words, "--part", part], capsys) for part in ("1/2", "2/2")]
    assert printed_parts[0] | printed_parts[1] == expected
    assert command(*words, "--write", "txt", "--part", "7/9")[0] == 0


def test_zips_and_shards_are_read_and_shards_have_files_of_their_own(
    command: Command, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile("photos.zip", "w") as archive:
        for path in sorted((folder / "photos").rglob("*.png")):
            archive.write(path, path.relative_to(folder / "photos"))
    write_webdataset(folder / "shards" / "0.tar", range(3))
    write_parquet(folder / "shards" / "1.parquet", range(3, 7), group=2)
    from_zip = printed(["--image", "photos.zip"], capsys)
    assert list(from_zip) == [f"photos.zip/p{n}.png" for n in range(4)] + ["photos.zip/sub/p4.png"]
    assert command("--image", "photos.zip", "--write", "txt", "--output", "out")[0] == 0
    assert (folder / "out" / "sub" / "p4.txt").read_text().strip() in from_zip.values()

    words = ("--image", "shards", "--method", "sample", "--batch-size", "2")
    from_shards = printed([*words], capsys)
    names = [f"shards/0.tar/{n:06d}" for n in range(3)]
    assert list(from_shards) == names + [f"shards/1.parquet/{n}.png" for n in range(3, 7)]
    assert command(*words, "--write", "jsonl", "--output", "each")[0] == 0
    assert captioned_names(folder / "each" / "0.jsonl") == [f"{n:06d}" for n in range(3)]
    assert captioned_names(folder / "each" / "1.jsonl") == [f"{n}.png" for n in range(3, 7)]
    assert command(*words, "--write", "jsonl", "--output", "all.jsonl")[0] == 0
    assert captioned_names(folder / "all.jsonl") == list(from_shards)
    before = (folder / "shards" / "1.parquet").read_bytes()
    with pytest.raises(UserError, match=r"1\.parquet holds the pictures, and nothing is written"):
        command(*words, "--write", "parquet")
    assert (folder / "shards" / "1.parquet").read_bytes() == before


def test_what_cannot_be_captioned_is_named_and_the_rest_is_written(
    command: Command, folder: Path
) -> None:
    (folder / "photos" / "broken.png").write_bytes(b"no picture")
    (folder / "photos" / "p0.png.xmp").write_text("no sidecar")
    code, told = command("--image", "photos", "--write", "xmp")
    assert code == 1
    assert "broken.png is text" in told
    assert "p0.png.xmp cannot be added to: it is no XML" in told
    assert "2 of 6 pictures could not be captioned" in told
    assert (folder / "photos" / "p0.png.xmp").read_text() == "no sidecar"
    assert command("--image", "photos", "--write", "xmp")[0] == 1


@pytest.mark.parametrize("method", ["greedy", "beam", "sample", "diverse"])
def test_a_prefix_begins_each_caption(
    method: str, command: Command, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--image", "photos", "--method", method, "--prefix", " a  red "]
    for one in printed(words, capsys).values():
        assert one.startswith("a red ")
    with pytest.raises(UserError, match="--prefix has 9 tokens, and a caption has 7 at most"):
        command(*words[:-1], "a red red red red red red red red")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--write tsv", "--write is 'tsv'; it must be one of print, txt, caption"),
        ("--output out", "--output is for captions that are written; add --write"),
        ("--overwrite", "--overwrite is for captions that are written"),
        ("--write jsonl --json", "--json prints"),
        ("--write coco --num-captions 2", "--write coco holds one caption"),
        ("--write txt --part 0/0", "--part is '0/0'; it must be NUMBER/COUNT"),
        ("--write txt --part 65/64", "--part is '65/64'"),
        ("--part x", "--part is 'x'"),
        ("--write txt --output photos/p0.png", "photos/p0.png is a file; name another folder"),
        ("--write csv --output photos/p0.png/a.csv", "photos/p0.png is a file"),
        ("--write csv --output out.jsonl", "--write csv writes no .jsonl"),
        ("--write csv --output folder.csv", "which is a folder; name a file in it"),
        ("--write txt --image photos.zip", "nothing can stand beside photos.zip/p0.png"),
        ("--write txt --image http://example.org/a.png", "nothing can stand beside http"),
        ("--write csv --image photos photos.zip", "not of one folder; name the file"),
        ("--write csv --image photos.zip", "photos.zip is no folder; name the file for their"),
        ("--write txt --image photos twins", "twins/a.jpg and twins/a.png would share twins/a.txt"),
        ("--write coco --image numbers", "would both be 5 in this form"),
        ("--write jsonl --image foreign", "foreign/captions.jsonl is there and cannot be added"),
        ("--write csv --image foreign", "foreign/captions.csv is there and cannot be added"),
        ("--write parquet --image foreign", "foreign/captions.parquet is there and cannot be"),
        ("--write coco --image foreign", "foreign/captions.json is there and cannot be added"),
    ],
)
def test_each_mistake_has_its_sentence(
    command: Command, folder: Path, words: str, sentence: str
) -> None:
    (folder / "folder.csv").mkdir()
    with zipfile.ZipFile("photos.zip", "w") as archive:
        archive.write("photos/p0.png", "p0.png")
    for name in ("twins/a.jpg", "twins/a.png", "numbers/5.png", "numbers/sub/005.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(0))
    (folder / "foreign").mkdir()
    (folder / "foreign" / "a.png").write_bytes(picture(0))
    for name in ("captions.jsonl", "captions.csv", "captions.parquet", "captions.json"):
        (folder / "foreign" / name).write_text('{"shopping": "list"}\n')
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    words = words if "--image" in words else f"--image photos {words}"
    with pytest.raises(UserError) as error:
        command(*words.split())
    assert sentence in str(error.value)
    changed = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert {p: t for p, t in changed.items() if p.is_file() and not p.name.startswith(".")} == {
        p: t for p, t in before.items() if p.is_file()
    }


def test_a_folder_that_takes_nothing_is_told_before_a_model_is_loaded(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=r"photos.* cannot be written to; .*--output FOLDER"):
        command("--image", "photos", "--write", "txt")
    assert command("--image", "photos", "--write", "txt", "--output", "out")[0] == 0


def test_memory_holds_no_more_than_a_few_batches(
    command: Command, folder: Path, captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, captions = captioner.pixels, captioner.pipeline.captions
    counts = {"decoded": 0, "searched": 0, "ahead": 0}

    def decode(*arguments: object) -> object:
        counts["decoded"] += 1
        counts["ahead"] = max(counts["ahead"], counts["decoded"] - counts["searched"])
        return pixels(*arguments)

    def search(self: object, features: object, *arguments: object, **more: object) -> object:
        counts["searched"] += len(features)
        return captions(features, *arguments, **more)

    monkeypatch.setattr(captioner, "pixels", decode)
    monkeypatch.setattr(type(captioner.pipeline), "captions", search)
    for number in range(20):
        (folder / "photos" / f"more{number}.png").write_bytes(picture(number))
    words = ("--image", "photos", "--write", "txt", "--batch-size", "2", "--method", "greedy")
    assert command(*words)[0] == 0
    assert counts["decoded"] == counts["searched"] == 25
    assert counts["ahead"] <= 2 * 2 + 3 * 2 + 1
