"""Checkpoints travel to and from the Hub: the real client, over HTTP, against a local server."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from captioning.sharing import repository
from tests.helpers.fake_hub import (
    OWNER_TOKEN,
    READER_TOKEN,
    Commit,
    FakeHub,
    Fault,
    Repository,
    running_hub,
)
from tests.helpers.small_runs import arguments, write_data, write_encoder

ROOT = Path(__file__).parents[2]
REPO = "me/captioner"
AT = "from captioning.sharing.repository import resolve_checkpoint; "
LOAD = f"{AT}print(resolve_checkpoint({REPO!r}))"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running_hub() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint folder like those of a run, with weights of a megabyte."""
    return make_folder(tmp_path / "run" / "best", seed=1)


def make_folder(path: Path, seed: int) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name in (
        "checkpoint.json",
        "tokenizer.json",
        "preprocessor_config.json",
        "metrics.json",
        "optimizer.safetensors",
        "trainer_state.json",
    ):
        (path / name).write_text(json.dumps({"seed": seed, "CIDEr": 0.5 + seed / 10}))
    (path / "config.toml").write_text(f"RANDOM_SEED = {seed}\n")
    (path / "README.md").write_text("---\nlicense: other\n---\n\n# A captioner \u00e9\r\n", "utf-8")
    (path / "model.safetensors").write_bytes(bytes([seed]) * 3 + os.urandom(1_000_000))
    return path


def travelling(folder: Path) -> dict[str, bytes]:
    left_behind = ("optimizer.safetensors", "trainer_state.json")
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in left_behind}


def run_client(
    hub: FakeHub | None, tmp_path: Path, code: str, *, token: str = "", **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process whose Hub is `hub`, as a user would."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HF_") and not name.lower().endswith("_proxy")
    }
    environment |= {
        "HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(ROOT),
        **({"HF_TOKEN": token} if token else {}),
        **settings,
    }
    first = "from captioning.system.errors import run_command"
    guarded = f"{first}\ndef main():\n{indented(code)}\n    return 0\n"
    return subprocess.run(
        [sys.executable, "-c", f"{guarded}run_command(main)"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )


def indented(code: str) -> str:
    return "\n".join(f"    {line}" for line in code.splitlines())


def upload(
    hub: FakeHub, tmp_path: Path, folder: Path, *flags: str, token: str = OWNER_TOKEN
) -> subprocess.CompletedProcess[str]:
    argv = ["upload", str(folder), REPO, *flags]
    return run_client(hub, tmp_path, f"import hub; hub.main({argv!r})", token=token)


def loaded(result: subprocess.CompletedProcess[str]) -> dict[str, bytes]:
    assert result.returncode == 0, result.stderr
    found = Path(result.stdout.strip().splitlines()[-1])
    return {path.name: path.read_bytes() for path in found.iterdir()}


def test_what_arrives_is_the_folder_and_what_is_loaded_too(
    hub: FakeHub, tmp_path: Path, folder: Path
) -> None:
    result = upload(hub, tmp_path, folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == f"{hub.url}/{REPO}"
    (commit,) = hub.repositories[REPO].commits
    assert commit.files == travelling(folder)
    assert commit.message == "Checkpoint: CIDEr 0.600"
    assert not hub.repositories[REPO].private
    assert loaded(run_client(hub, tmp_path, LOAD)) == travelling(folder)


def test_with_xet_installed_small_folders_travel_too(
    hub: FakeHub, tmp_path: Path, folder: Path
) -> None:
    hub.large_suffixes = ()
    code = f"import hub; hub.main(['upload', {str(folder)!r}, {REPO!r}])"
    result = run_client(hub, tmp_path, code, token=OWNER_TOKEN, HF_HUB_DISABLE_XET="0")
    assert result.returncode == 0, result.stderr
    assert [commit.files for commit in hub.repositories[REPO].commits] == [travelling(folder)]
    assert loaded(run_client(hub, tmp_path, LOAD, HF_HUB_DISABLE_XET="0")) == travelling(folder)


def test_uploading_again_is_one_commit_of_what_changed(
    hub: FakeHub, tmp_path: Path, folder: Path
) -> None:
    upload(hub, tmp_path, folder, "--private")
    upload(hub, tmp_path, folder)
    assert len(hub.repositories[REPO].commits) == 1
    assert hub.repositories[REPO].private
    make_folder(folder, seed=2)
    assert upload(hub, tmp_path, folder, "--message", "better").returncode == 0
    newest = hub.repositories[REPO].commits[1:]
    assert [(commit.message, commit.files) for commit in newest] == [("better", travelling(folder))]
    assert loaded(run_client(hub, tmp_path, LOAD, token=OWNER_TOKEN)) == travelling(folder)


def test_a_revision_stays_what_it_was(hub: FakeHub, tmp_path: Path, folder: Path) -> None:
    upload(hub, tmp_path, folder)
    first = travelling(folder)
    upload(hub, tmp_path, make_folder(folder, seed=2))
    oid = hub.repositories[REPO].commits[0].oid
    code = f"{AT}print(resolve_checkpoint({REPO!r}, revision={oid!r}))"
    assert loaded(run_client(hub, tmp_path, code)) == first
    missing = run_client(hub, tmp_path, f"{AT}resolve_checkpoint({REPO!r}, revision='v9')")
    assert missing.returncode == 2
    assert "has no revision 'v9'" in missing.stderr


@pytest.mark.slow
def test_a_cached_checkpoint_loads_offline(hub: FakeHub, tmp_path: Path, folder: Path) -> None:
    upload(hub, tmp_path, folder)
    run_client(hub, tmp_path, LOAD)
    assert loaded(run_client(None, tmp_path, LOAD)) == travelling(folder)
    assert loaded(run_client(None, tmp_path, LOAD, HF_HUB_OFFLINE="1")) == travelling(folder)
    hub.faults.append(Fault("GET /api", status=500, times=99))
    assert loaded(run_client(hub, tmp_path, LOAD)) == travelling(folder)


@pytest.mark.parametrize("settings", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_without_hub_and_cache_one_sentence(tmp_path: Path, settings: dict[str, str]) -> None:
    result = run_client(None, tmp_path, LOAD, **settings)
    assert result.returncode == 2
    assert "its cache does not hold it whole; check the name" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_half_fetched_checkpoint_is_not_used_offline(
    hub: FakeHub, tmp_path: Path, folder: Path
) -> None:
    upload(hub, tmp_path, folder)
    hub.faults.append(Fault("resolve/.*safetensors", status=403, times=99))
    broken = run_client(hub, tmp_path, LOAD)
    assert broken.returncode == 2
    offline = run_client(None, tmp_path, LOAD, HF_HUB_OFFLINE="1")
    assert offline.returncode == 2
    assert "its cache does not hold it whole" in offline.stderr


@pytest.mark.parametrize(
    ("token", "status", "sentence"),
    [
        ("", 0, "There is no Hub token"),
        ("hf_of_nobody", 0, "does not accept your token"),
        (READER_TOKEN, 0, "one with the right to write"),
        (OWNER_TOKEN, 404, "Check the name"),
        (OWNER_TOKEN, 429, "too many requests"),
        (OWNER_TOKEN, 500, "failed with status 500"),
    ],
)
def test_a_refused_upload_is_one_sentence(
    hub: FakeHub, tmp_path: Path, folder: Path, token: str, status: int, sentence: str
) -> None:
    if status:
        hub.faults.append(Fault("POST /api/repos/create", status=status, times=99))
    result = upload(hub, tmp_path, folder, token=token)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("token", "status", "sentence"),
    [
        ("", 0, "no such repository"),
        ("hf_of_nobody", 0, "does not accept your token"),
        (OWNER_TOKEN, 0, "no such repository"),
        (OWNER_TOKEN, 403, "Your token may not"),
        (OWNER_TOKEN, 429, "too many requests"),
        (OWNER_TOKEN, 500, "failed with status 500"),
    ],
)
def test_a_refused_download_is_one_sentence(
    hub: FakeHub, tmp_path: Path, token: str, status: int, sentence: str
) -> None:
    if status:
        hub.faults.append(Fault("GET /api/models", status=status, times=99))
    result = run_client(hub, tmp_path, LOAD, token=token)
    assert result.returncode == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_passing_trouble_is_ridden_out(hub: FakeHub, tmp_path: Path, folder: Path) -> None:
    hub.faults += [
        Fault("preupload", status=429, headers={"Retry-After": "0"}),
        Fault("PUT /large-files", cut_after=1000),
    ]
    assert upload(hub, tmp_path, folder).returncode == 0
    assert hub.repositories[REPO].files == travelling(folder)
    hub.faults.append(Fault("GET .*/resolve/.*safetensors", cut_after=300_000))
    assert loaded(run_client(hub, tmp_path, LOAD)) == travelling(folder)
    assert not any(fault.times for fault in hub.faults)


def test_only_checkpoints_are_taken(hub: FakeHub, tmp_path: Path, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    result = upload(hub, tmp_path, folder)
    assert result.returncode == 2
    assert "it has no model.safetensors" in result.stderr
    assert hub.requests == []


@pytest.mark.parametrize(
    ("address", "revision"),
    [
        ("https://huggingface.co/me/captioner", None),
        ("https://huggingface.co/me/captioner/tree/v9?a=b", "v9"),
        ("https://hf.co/me/captioner/", None),
        ("hf://me/captioner", None),
    ],
)
def test_the_address_of_a_repository_is_its_name(
    address: str, revision: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None]] = []

    def fetch(name: str, *, revision: str | None, **_: object) -> str:
        asked.append((name, revision))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert repository.resolve_checkpoint(address) == folder
    assert asked == [(REPO, revision)]
    with pytest.raises(ValueError, match="user/name, or its address"):
        repository.resolve_checkpoint("https://example.org/me/captioner")


def test_a_folder_is_itself(folder: Path) -> None:
    from captioning.sharing.repository import resolve_checkpoint

    assert resolve_checkpoint(str(folder)) == folder
    with pytest.raises(ValueError, match="has no revision"):
        resolve_checkpoint(str(folder), revision="main")
    with pytest.raises(ValueError, match="neither a folder nor"):
        resolve_checkpoint("no/such/folder")
    with pytest.raises(ValueError, match=r"is a file; name the folder that it lies in: .*best$"):
        resolve_checkpoint(str(folder / "config.toml"))


BACKGROUND = """
import os, shutil, sys
from pathlib import Path
from urllib.request import urlopen
from captioning.sharing.uploader import BestUploader
def ask(path):
    urlopen(os.environ["HF_ENDPOINT"] + path).read()
folder = Path({folder!r})
uploader = BestUploader({repo!r}, left_out=(), retry_delays_seconds=(0.01, 0.01))
"""


def background(
    hub: FakeHub, tmp_path: Path, folder: Path, code: str, *, token: str = OWNER_TOKEN
) -> subprocess.CompletedProcess[str]:
    start = BACKGROUND.format(folder=str(folder), repo=REPO)
    return run_client(hub, tmp_path, start + code, token=token)


def test_the_best_is_uploaded_as_it_was_when_submitted(
    hub: FakeHub, tmp_path: Path, folder: Path
) -> None:
    expected = travelling(folder)
    make_folder(folder.parent / ".uploads" / "of-a-killed-run", seed=9)
    hub.faults.append(Fault("preupload", waits=True))
    code = """
uploader.submit(folder)
shutil.rmtree(folder)
ask("/test/release")
print(uploader.finish(timeout_seconds=60), uploader.url)
"""
    result = background(hub, tmp_path, folder, code)
    assert result.stdout == f"True {hub.url}/{REPO}\n", result.stderr
    (commit,) = hub.repositories[REPO].commits
    assert commit.files == expected
    assert commit.message == "Checkpoint: CIDEr 0.600"
    assert not (folder.parent / ".uploads").exists()


def test_of_those_that_wait_the_newest_wins(hub: FakeHub, tmp_path: Path, folder: Path) -> None:
    hub.faults.append(Fault("preupload", waits=True))
    code = """
uploader.submit(folder)
ask("/test/until-waiting")
for score in (0.2, 0.3, 0.4):
    (folder / "metrics.json").unlink()
    (folder / "metrics.json").write_text(f'{{"CIDEr": {score}}}')
    uploader.submit(folder)
ask("/test/release")
print(uploader.finish(timeout_seconds=60))
"""
    assert background(hub, tmp_path, folder, code).stdout == "True\n"
    commits = hub.repositories[REPO].commits
    assert [commit.message[-5:] for commit in commits] == ["0.600", "0.400"]
    assert commits[-1].files["metrics.json"] == b'{"CIDEr": 0.4}'


def test_a_failed_upload_is_tried_again(hub: FakeHub, tmp_path: Path, folder: Path) -> None:
    hub.faults += [
        Fault("POST /api/repos/create", status=500, times=2),
        Fault("/commit/main", cut_after=0),  # committed, but the answer is lost
    ]
    code = "uploader.submit(folder)\nprint(uploader.finish(timeout_seconds=60))"
    result = background(hub, tmp_path, folder, code)
    assert result.stdout == "True\n", result.stderr
    assert len(hub.repositories[REPO].commits) == 1
    assert hub.repositories[REPO].files == travelling(folder)


def test_a_refused_background_upload_is_told_early_with_the_command(
    hub: FakeHub, tmp_path: Path, folder: Path
) -> None:
    code = """
uploader.submit(folder)
print(uploader.finish(timeout_seconds=60))
"""
    result = background(hub, tmp_path, folder, code, token=READER_TOKEN)
    early, _, late = result.stderr.partition("\n")
    assert early.startswith("Uploads may fail.")
    assert late.count("Upload failed.") == 1
    assert late.endswith(f"python hub.py upload {folder} {REPO}\n")
    assert result.stdout == "False\n"
    assert result.returncode == 0


def test_a_server_that_never_answers_ends_neither_training_nor_the_process(
    hub: FakeHub, tmp_path: Path, folder: Path
) -> None:
    hub.faults.append(Fault("PUT /large-files", waits=True, times=99))
    code = """
uploader.submit(folder)
print(uploader.finish(timeout_seconds=1.5))
"""
    result = background(hub, tmp_path, folder, code)
    assert not hub.is_released.is_set()
    assert result.stdout == "False\n"
    assert "has not ended in 2 s" in result.stderr
    assert f"python hub.py upload {folder} {REPO}\n" in result.stderr
    assert result.returncode == 0


def test_a_folder_that_cannot_be_kept_is_a_sentence(
    hub: FakeHub, tmp_path: Path, folder: Path
) -> None:
    (folder.parent / ".uploads").write_text("a file where a folder should be")
    result = background(hub, tmp_path, folder, "uploader.submit(folder)")
    assert result.returncode == 0
    assert f"{folder} is not uploaded" in result.stderr


def test_no_token_is_one_sentence_at_the_start(hub: FakeHub, tmp_path: Path, folder: Path) -> None:
    result = background(hub, tmp_path, folder, "", token="")
    assert result.returncode == 2
    assert result.stderr.startswith("error: There is no Hub token")
    assert hub.requests == []


@pytest.mark.slow
def test_a_run_uploads_its_best_and_everybody_uses_it_by_name(hub: FakeHub, tmp_path: Path) -> None:
    """Train, upload, then as a stranger: the card's three lines, the commands, offline too."""
    write_data(tmp_path)
    write_encoder(tmp_path)
    words = arguments(tmp_path, NUM_EPOCHS=1, HF_REPO_ID=REPO, HF_UPLOAD_BEST_CHECKPOINTS=True)
    argv = f"sys.argv = ['train.py', *{words!r}]; import train; assert train.main() == 0"
    run = run_client(hub, tmp_path, f"import sys; {argv}", token=OWNER_TOKEN)
    assert run.returncode == 0, run.stderr
    best = tmp_path / "checkpoints" / "run" / "best"
    (commit,) = hub.repositories[REPO].commits
    mine = travelling(best)
    assert commit.files.keys() == mine.keys()
    changed = [name for name in mine if commit.files[name] != mine[name]]
    assert sorted(changed) == ["README.md", "checkpoint.json", "config.toml"]
    for name, content in commit.files.items():
        assert str(tmp_path).encode() not in content, name
    assert str(tmp_path) in (best / "config.toml").read_text()
    assert "CIDEr" in commit.message

    picture = next((tmp_path / "data" / "small" / "test").glob("*.jpg"))
    (tmp_path / "photo.jpg").write_bytes(picture.read_bytes())
    lines = re.search(r"```python\n(.*?)```", (best / "README.md").read_text("utf-8"), re.DOTALL)
    assert lines
    spoken = run_client(hub, tmp_path, lines[1], token=OWNER_TOKEN)
    assert spoken.returncode == 0, spoken.stderr
    caption = spoken.stdout.splitlines()[-1]
    from captioner import Captioner

    assert caption == str(Captioner.from_pretrained(best)(picture))

    at = f"Captioner.from_pretrained({REPO!r}, revision={commit.oid!r})"
    by_revision = f"from generate import Captioner\nprint({at}('photo.jpg'))"
    generate = f"import generate; generate.main(['--checkpoint', {REPO!r}, '--image', 'photo.jpg'])"
    paths = ["--data-dir", str(tmp_path / "data"), "--output", str(tmp_path / "scores")]
    evaluate = f"import evaluate; evaluate.main(['--checkpoint', {REPO!r}, *{paths!r}])"
    for server in (hub, None):  # fetched, and then from the cache without the Hub
        for program in (by_revision, generate):
            result = run_client(server, tmp_path, program, token=OWNER_TOKEN)
            assert result.returncode == 0, result.stderr
            assert result.stdout.splitlines()[-1] == caption
    result = run_client(None, tmp_path, evaluate, HF_HUB_OFFLINE="1")
    assert result.returncode == 0, result.stderr
    scores = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert scores["provenance"]["data"]["sha256"]
    assert scores["CIDEr"] is not None


@pytest.mark.slow
def test_a_run_begins_with_what_the_repositories_held(hub: FakeHub, tmp_path: Path) -> None:
    write_data(tmp_path)
    files = {path.name: path.read_bytes() for path in write_encoder(tmp_path).iterdir()}
    first, second = "1" * 40, "2" * 40
    encoder = hub.repositories["me/encoder"] = Repository(False, [Commit(first, "", files)])

    def train(**changes: object) -> Path:
        words = arguments(tmp_path, NUM_EPOCHS=1, VALIDATION_IMAGES=1, **changes)
        result = run_client(hub, tmp_path, f"import train; train.main({words!r})")
        assert result.returncode == 0, result.stderr
        return tmp_path / "checkpoints" / str(changes["RUN_NAME"]) / "best"

    best = train(RUN_NAME="base", ENCODER_MODEL_NAME="me/encoder")
    assert json.loads((best / "checkpoint.json").read_text())["encoder"]["revision"] == first
    assert upload(hub, tmp_path, best).returncode == 0
    (commit,) = hub.repositories[REPO].commits
    encoder.commits.append(Commit(second, "", {}))  # main has moved on since
    hub.repositories[REPO].commits.append(Commit(second, "", {}))
    model = f"{REPO}@{commit.oid}"
    child = train(RUN_NAME="child", ENCODER_MODEL_NAME=None, INIT_CHECKPOINT_PATH=model)
    about = json.loads((child / "checkpoint.json").read_text())
    assert (about["encoder"]["name"], about["encoder"]["revision"]) == ("me/encoder", first)
    assert about["parent"]["name"] == f"https://huggingface.co/{REPO}/tree/{commit.oid}"


def test_a_run_without_token_says_so_before_anything_else(hub: FakeHub, tmp_path: Path) -> None:
    words = ["--HF_REPO_ID", REPO, "--HF_UPLOAD_BEST_CHECKPOINTS", "--DATASET", "demo"]
    result = run_client(hub, tmp_path, f"import train; train.main({words!r})")
    assert result.returncode == 2
    assert result.stderr.startswith("error: There is no Hub token")
    assert [path.name for path in tmp_path.iterdir() if path.name != "hf"] == []
