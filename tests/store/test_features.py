"""Rows are what the encoder gives; a store is used when it is right, and only then."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from captioning.sources.images import load_image
from captioning.sources.records import SPLITS, Record, write_records
from captioning.store import files as feature_files
from captioning.store.building import Contents, RowMaker, build_features
from captioning.store.files import StoreContent, StoreFiles
from captioning.store.rows import FeatureStore, LivePictures
from captioning.system.errors import UserError
from captioning.system.runtime import Runtime
from config import Config
from features import _features_dir, main
from tests.helpers.small_encoder import SmallEncoder, write_pictures
from tests.helpers.tiny_encoders import FAMILIES

ROOT = Path(__file__).parents[2]
COUNT = 21
CHUNK = 8
"""Rows of a chunk in these tests: two whole chunks and five rows."""
CPU = Runtime(torch.device("cpu"))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_files, "CHUNK_ROWS", CHUNK)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return write_pictures(tmp_path / "pictures", COUNT)


def build(
    images: list[Path],
    encoder: SmallEncoder,
    folder: Path,
    *,
    contents: Contents = "features",
    dtype: torch.dtype = torch.float16,
    runtime: Runtime = CPU,
    num_workers: int = 0,
) -> FeatureStore:
    maker = RowMaker(encoder, runtime, contents=contents, dtype=dtype)
    return build_features(
        images, maker, folder, label="train", num_workers=num_workers, batch_size=5
    )


def expected_rows(images: list[Path], encoder: SmallEncoder) -> torch.Tensor:
    with torch.no_grad():
        pixels = torch.stack([encoder.preprocessor(load_image(image)) for image in images])
        return encoder(pixels)


def all_rows(store: FeatureStore) -> torch.Tensor:
    return store.rows(torch.arange(len(store)))


@pytest.mark.parametrize(
    ("dtype", "rounding"),
    [(torch.float32, 1e-6), (torch.float16, 2**-11), (torch.bfloat16, 2**-8)],
)
def test_rows_are_what_the_encoder_gives(
    images: list[Path], tmp_path: Path, dtype: torch.dtype, rounding: float
) -> None:
    encoder = SmallEncoder()
    store = build(images, encoder, tmp_path, dtype=dtype)
    order = torch.tensor([20, 0, 7, 8, 8, 13])
    rows = store.rows(order)
    assert rows.dtype is dtype
    assert rows.shape == (6, 4, 6)
    expected = expected_rows(images, encoder)[order]
    torch.testing.assert_close(rows.float(), expected, rtol=rounding, atol=1e-5)
    assert len(store) == COUNT
    assert store.shape == (COUNT, 4, 6)
    assert store.nbytes == (tmp_path / "train.bin").stat().st_size == COUNT * 24 * dtype.itemsize


def test_rows_that_are_not_there_are_refused(images: list[Path], tmp_path: Path) -> None:
    store = build(images, SmallEncoder(), tmp_path)
    for wrong in (-1, COUNT):
        with pytest.raises(IndexError, match="21 rows"):
            store.rows(torch.tensor([0, wrong]))


def test_held_rows_equal_mapped_rows(images: list[Path], tmp_path: Path) -> None:
    store = build(images, SmallEncoder(), tmp_path)
    mapped = all_rows(store)
    assert not store.hold_on_device(), "a CPU's page cache holds the rows already"
    assert not store.hold_on_device(limit_bytes=store.nbytes - 1)
    assert store.hold_on_device(limit_bytes=store.nbytes)
    (tmp_path / "train.bin").write_bytes(bytes(store.nbytes))
    assert torch.equal(all_rows(store), mapped)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("hold", [False, True])
def test_rows_on_a_gpu(images: list[Path], tmp_path: Path, hold: bool) -> None:
    encoder = SmallEncoder().cuda()
    store = build(images, encoder, tmp_path, runtime=Runtime(torch.device("cuda", 0)))
    assert store.hold_on_device(store.nbytes if hold else 0) == hold
    rows = store.rows(torch.tensor([3, 1]))
    assert rows.is_cuda
    expected = expected_rows([images[3], images[1]], SmallEncoder())
    torch.testing.assert_close(rows.float().cpu(), expected, rtol=1e-2, atol=1e-2)


def test_pixels_are_stored_exactly_and_whatever_the_weights(
    images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = SmallEncoder()
    store = build(images, encoder, tmp_path, contents="pixels")
    live = LivePictures(images, encoder.preprocessor)
    assert store.rows(torch.tensor([2])).dtype is torch.uint8
    assert torch.equal(all_rows(store), live.rows(torch.arange(COUNT)))
    assert encoder.encoded == 0
    capsys.readouterr()
    build(images, SmallEncoder(seed=1), tmp_path, contents="pixels")
    assert not capsys.readouterr().err
    build(images, SmallEncoder(brightness=9), tmp_path, contents="pixels")
    assert "another encoder or image processor" in capsys.readouterr().err


def test_live_pictures_travel_to_workers(images: list[Path]) -> None:
    live = LivePictures(images, SmallEncoder().preprocessor)
    copy = pickle.loads(pickle.dumps(live))
    assert len(copy) == COUNT
    assert torch.equal(copy.rows(torch.tensor([4, 2])), live.rows(torch.tensor([4, 2])))


def test_workers_change_nothing(images: list[Path], tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    alone = build(images, SmallEncoder(), tmp_path / "0")
    helped = build(images, SmallEncoder(), tmp_path / "2", num_workers=2)
    assert alone.path.read_bytes() == helped.path.read_bytes()
    assert torch.equal(torch.random.get_rng_state(), state), "other random numbers from here on"


def test_a_whole_store_is_used_as_it_is(
    images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = build(images, SmallEncoder(), tmp_path)
    assert "does not exist yet; building it" in capsys.readouterr().err
    encoder = SmallEncoder()
    again = build(images, encoder, tmp_path)
    assert encoder.encoded == 0
    assert torch.equal(all_rows(again), all_rows(first))
    assert not capsys.readouterr().err


def touch_picture(images: list[Path]) -> None:
    status = images[3].stat()
    os.utime(images[3], ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def shorten_rows(folder: Path) -> None:
    os.truncate(folder / "train.bin", 100)


def shorten_description(folder: Path) -> None:
    os.truncate(folder / "train.json", 30)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: touch_picture(sorted((folder / "pictures").iterdir())), "changed since"),
        (shorten_rows, "has 100 bytes instead of 1,008"),
        (lambda folder: (folder / "train.bin").unlink(), "does not exist yet"),
        (shorten_description, ".json is damaged"),
        (lambda folder: (folder / "train.json").write_text("[]"), ".json is damaged"),
        (lambda folder: (folder / "train.json").unlink(), "is unfinished"),
    ],
)
def test_a_store_that_is_not_right_is_built_anew(
    images: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], object],
    reason: str,
) -> None:
    rows = all_rows(build(images, SmallEncoder(), tmp_path))
    damage(tmp_path)
    capsys.readouterr()
    encoder = SmallEncoder()
    again = build(images, encoder, tmp_path)
    assert encoder.encoded == COUNT
    assert torch.equal(all_rows(again), rows)
    assert reason in capsys.readouterr().err


def test_whatever_decides_features_makes_them_anew(
    images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = replace(CPU, dtype=torch.bfloat16)
    requests: list[tuple[list[Path], SmallEncoder, dict[str, Any], str]] = [
        (images, SmallEncoder(seed=1), {}, "another encoder or image processor"),
        (images, SmallEncoder(brightness=9), {}, "another encoder or image processor"),
        (images[1:], SmallEncoder(), {}, "another number of pictures"),
        ([*images[1:], images[0]], SmallEncoder(), {}, "other pictures"),
        (images, SmallEncoder(), {"runtime": half}, "computed in another precision"),
        (images, SmallEncoder(), {"dtype": torch.float32}, "stored in another precision"),
        (images, SmallEncoder(), {"contents": "pixels"}, "something else"),
    ]
    for pictures, encoder, settings, reason in requests:
        build(images, SmallEncoder(), tmp_path)
        capsys.readouterr()
        store = build(pictures, encoder, tmp_path, **settings)
        assert reason in capsys.readouterr().err
        assert encoder.encoded == (0 if settings.get("contents") else len(pictures))
        fresh = build(pictures, encoder, tmp_path / "fresh" / reason, **settings)
        assert torch.equal(all_rows(store), all_rows(fresh))


def test_an_open_store_keeps_its_rows_while_a_new_one_is_built(
    images: list[Path], tmp_path: Path
) -> None:
    first = build(images, SmallEncoder(), tmp_path)
    before = all_rows(first)
    second = build(images[:9], SmallEncoder(seed=1), tmp_path)
    assert torch.equal(all_rows(first), before)
    assert not torch.equal(all_rows(second), before[:9])


SLOW_BUILD = """
import sys, time
from pathlib import Path
import torch
from captioning.store import files as feature_files
from captioning.store.building import RowMaker, build_features
from captioning.system.runtime import Runtime
from tests.helpers.small_encoder import SmallEncoder

class Slow(SmallEncoder):
    def forward(self, pixels):
        if self.encoded >= 16:
            time.sleep(600)
        return super().forward(pixels)

feature_files.CHUNK_ROWS = 8
folder = Path(sys.argv[1])
maker = RowMaker(Slow(), Runtime(torch.device("cpu")))
images = sorted((folder / "pictures").iterdir())
build_features(images, maker, folder, label="train", num_workers=2, batch_size=5)
"""


def start_python(code: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """A Python process with our modules; its standard input and output are pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.02)


def test_a_killed_build_goes_on_where_it_was(
    images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = build(images, SmallEncoder(), tmp_path / "whole")
    progress = tmp_path / "train.progress"

    def two_chunks_are_done() -> bool:
        return progress.exists() and any(progress.read_bytes()[64:96])

    with start_python(SLOW_BUILD, tmp_path) as process:
        wait_for(two_chunks_are_done)
        process.send_signal(signal.SIGKILL)
    capsys.readouterr()
    encoder = SmallEncoder()
    store = build(images, encoder, tmp_path)
    assert "going on after 16 of 21 pictures" in capsys.readouterr().err
    assert encoder.encoded == 5
    assert store.path.read_bytes() == whole.path.read_bytes()
    assert not progress.exists()


def test_rows_lost_by_an_interrupted_build_are_made_again(
    images: list[Path], tmp_path: Path
) -> None:
    whole = build(images, SmallEncoder(), tmp_path / "whole")
    with start_python(SLOW_BUILD, tmp_path) as process:
        wait_for(lambda: (tmp_path / "train.progress").exists())
        wait_for(lambda: any((tmp_path / "train.progress").read_bytes()[32:64]))
        process.kill()
    os.truncate(tmp_path / "train.bin", 500)
    encoder = SmallEncoder()
    store = build(images, encoder, tmp_path)
    assert encoder.encoded == COUNT
    assert store.path.read_bytes() == whole.path.read_bytes()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unreadable_picture_is_named_and_costs_its_own_chunk(
    images: list[Path], tmp_path: Path, num_workers: int
) -> None:
    whole = build(images, SmallEncoder(), tmp_path / "whole")
    content = images[17].read_bytes()
    images[17].write_bytes(content[:60])
    with pytest.raises(UserError, match=r"0017\.png cannot be read") as caught:
        build(images, SmallEncoder(), tmp_path, num_workers=num_workers)
    assert "Traceback" not in str(caught.value)
    images[17].write_bytes(content)
    encoder = SmallEncoder()
    store = build(images, encoder, tmp_path)
    assert encoder.encoded == 5
    assert store.path.read_bytes() == whole.path.read_bytes()


@pytest.mark.slow
def test_a_picture_that_changes_while_a_build_is_interrupted_is_encoded_again(
    images: list[Path], tmp_path: Path
) -> None:
    content = images[17].read_bytes()
    images[17].write_bytes(b"")
    with pytest.raises(UserError):
        build(images, SmallEncoder(), tmp_path)
    images[17].write_bytes(content)
    Image.new("RGB", (9, 9), "red").save(images[2])
    encoder = SmallEncoder()
    store = build(images, encoder, tmp_path)
    assert encoder.encoded == 8 + 5, "the chunk of picture 2, and the one that was missing"
    fresh = build(images, SmallEncoder(), tmp_path / "fresh")
    assert store.path.read_bytes() == fresh.path.read_bytes()


def test_missing_picture(images: list[Path], tmp_path: Path) -> None:
    images[1].unlink()
    with pytest.raises(UserError, match=r"0001\.png cannot be read: No such file"):
        build(images, SmallEncoder(), tmp_path)


@pytest.mark.parametrize("value", [float("nan"), 70_000.0])
def test_features_that_cannot_be_stored_are_refused(
    images: list[Path], tmp_path: Path, value: float
) -> None:
    class Spoilt(SmallEncoder):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            features = super().forward(pixels)
            if 10 < self.encoded <= 13:  # the first of two batches of a chunk
                features[2, 1, 1] = value
            return features

    with pytest.raises(UserError, match=r"small gives features of \S*0010\.png"):
        build(images, Spoilt(), tmp_path)
    assert not (tmp_path / "train.json").exists()
    encoder = SmallEncoder()
    build(images, encoder, tmp_path)
    assert encoder.encoded == CHUNK, "the chunk that they are in, and no other"


def test_too_little_disk_space_is_said_before_anything_is_written(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match="--FEATURE_CACHE off"):
        build(images, SmallEncoder(), tmp_path)
    assert not (tmp_path / "train.bin").exists()


@pytest.mark.parametrize("name", ["train.lock", "train.bin", "train.progress", "."])
def test_no_store_is_built_through_links(images: list[Path], tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    store = tmp_path / "store"
    if name == ".":
        victim.mkdir()
        store.symlink_to(victim)
    else:
        store.mkdir()
        victim.write_text("years")
        (store / name).symlink_to(victim)
    with pytest.raises(UserError, match="is a link to"):
        build(images, SmallEncoder(), store)
    assert not list(victim.iterdir()) if name == "." else victim.read_text() == "years"


def test_the_folder_of_features_is_no_link(tmp_path: Path) -> None:
    config = Config(DATA_DIR=str(tmp_path), DATASET="mine")
    maker = RowMaker(SmallEncoder(), CPU)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "features").symlink_to(tmp_path)
    with pytest.raises(UserError, match="features is a link"):
        _features_dir(config, maker)


HOLD_LOCK = """
import sys
from pathlib import Path
from captioning.store.files import StoreFiles

with StoreFiles(Path(sys.argv[1]), "train").locked():
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_two_builds_do_not_write_at_once_and_a_dead_one_holds_nothing(
    images: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    built: list[FeatureStore] = []
    with start_python(HOLD_LOCK, tmp_path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        encoder = SmallEncoder()
        thread = threading.Thread(target=lambda: built.append(build(images, encoder, tmp_path)))
        thread.start()
        said = ""

        def it_waits() -> bool:
            nonlocal said
            said += capfd.readouterr().err
            return "Waiting for another process" in said

        wait_for(it_waits)
        assert encoder.encoded == 0
        assert not (tmp_path / "train.bin").exists()
        holder.kill()
        thread.join(timeout=60)
    assert torch.equal(all_rows(built[0]), expected_rows(images, encoder).half())


SHARED_BUILD = """
import sys, time
from pathlib import Path
from captioning.store import files as feature_files
from captioning.store.building import RowMaker, build_features
from captioning.system.runtime import Runtime
from tests.helpers.small_encoder import SmallEncoder

feature_files.CHUNK_ROWS = 8
folder = Path(sys.argv[1])
runtime = Runtime.create("cpu")
encoder = SmallEncoder()
missing_chunks = feature_files.StoreFiles.missing_chunks

def missing_chunks_late(files, content):
    time.sleep(runtime.rank)
    return missing_chunks(files, content)

feature_files.StoreFiles.missing_chunks = missing_chunks_late
images = sorted((folder / "pictures").iterdir())
store = build_features(
    images, RowMaker(encoder, runtime), folder, label="train", num_workers=1, batch_size=5
)
(folder / f"encoded.{runtime.rank}").write_text(f"{encoder.encoded} {len(store)}")
"""


def test_two_processes_share_the_work_and_give_the_same_bytes(
    images: list[Path], tmp_path: Path
) -> None:
    alone = build(images, SmallEncoder(), tmp_path / "alone")
    script = tmp_path / "shared_build.py"
    script.write_text(SHARED_BUILD, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    subprocess.run(
        [*command, "--nproc-per-node", "2", str(script), str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        timeout=300,
    )
    assert (tmp_path / "train.bin").read_bytes() == alone.path.read_bytes()
    assert json.loads((tmp_path / "train.json").read_text()) == json.loads(
        alone.path.with_suffix(".json").read_text()
    )
    assert (tmp_path / "encoded.0").read_text() == f"13 {COUNT}"
    assert (tmp_path / "encoded.1").read_text() == f"8 {COUNT}"


def anonymous_bytes() -> int:
    """Memory of this process that is not a file's."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (kibibytes,) = (line.split()[1] for line in lines if line.startswith("RssAnon:"))
    return int(kibibytes) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_reading_rows_takes_no_memory_for_the_others(tmp_path: Path) -> None:
    content = StoreContent(
        contents="features",
        source="",
        arithmetic="float32",
        dtype="float16",
        row_shape=(50, 768),
        rows=4000,
        chunk_digests=(),
    )
    path = StoreFiles(tmp_path, "train").rows
    with path.open("wb") as file:
        file.truncate(content.nbytes)
    before = anonymous_bytes()
    store = FeatureStore(path, content, CPU.device)
    for indices in torch.randperm(len(store)).view(-1, 50):
        store.rows(indices)
    assert anonymous_bytes() - before < 0.1 * store.nbytes


def test_the_command_builds_every_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    FAMILIES["vit"].save(tmp_path / "tiny-vit")
    for split in SPLITS:
        folder = tmp_path / "data" / "mine" / split
        pictures = write_pictures(folder, 4 + len(split))
        write_records(folder, [Record(picture, ("A picture.",)) for picture in pictures])
    flags = ["--DATASET", "mine", "--DATA_DIR", str(tmp_path / "data"), "--NUM_WORKERS", "0"]
    flags += ["--ENCODER_MODEL_NAME", str(tmp_path / "tiny-vit"), "--DEVICE", "cpu"]
    assert main(flags) == 0
    printed = capsys.readouterr().out
    (folder,) = (tmp_path / "data" / "mine" / "features").iterdir()
    assert folder.name.startswith("tiny-vit-")
    for split in SPLITS:
        size = (4 + len(split)) * 17 * 16 * 2
        assert (
            f"{split}\t{folder / split}.bin\t{4 + len(split)} pictures\t{size:,} bytes" in printed
        )
        assert (folder / f"{split}.bin").stat().st_size == size
    times = [path.stat().st_mtime_ns for path in sorted(folder.iterdir())]
    assert main(flags) == 0
    assert [path.stat().st_mtime_ns for path in sorted(folder.iterdir())] == times

    assert main([*flags, "--ENCODER_TRAINED_BLOCKS", "1"]) == 0
    assert len(list(folder.parent.iterdir())) == 2, "pixels lie beside features"


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    flags = ["--DATASET", "mine", "--DATA_DIR", str(tmp_path)]
    with pytest.raises(UserError, match=r"prepare_dataset\.py --DATASET mine"):
        main(flags)
    with pytest.raises(UserError, match="FEATURE_CACHE is off, which leaves nothing"):
        main([*flags, "--FEATURE_CACHE", "off"])
