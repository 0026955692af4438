"""METEOR and SPICE: the real METEOR where Java is, and every failure as one line."""

import gzip
import importlib.util
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from captioning.metrics.java import SPICE_MODELS, JavaScores, meteor, spice

CANDIDATES = {"x": "a dog", "y": "a cat"}
REFERENCES = {"x": ["a dog runs"], "y": ["two cats", "the cat"]}
GIVES_METEOR = """
for line in sys.stdin:
    if line.startswith("SCORE"):
        print("1.0 2.0", flush=True)
    else:
        print("0.25\\n0.75\\n0.5", flush=True)
"""
GIVES_SPICE = """
rows = [{"image_id": row, "scores": {"All": {"f": 0.5 - row / 4}}} for row in (1, 0)]
open(sys.argv[sys.argv.index("-out") + 1], "w").write(json.dumps(rows))
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for pycocoevalcap with all of its files."""
    folder = tmp_path / "site" / "pycocoevalcap"
    names = ["meteor/meteor-1.5.jar", "meteor/data/paraphrase-en.gz", "spice/spice-1.0.jar"]
    for name in [*names, *(f"spice/lib/{model}" for model in SPICE_MODELS)]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(folder.parent)
    return folder


@pytest.fixture
def java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a Python program in the place of Java."""

    def install(program: str) -> None:
        script = tmp_path / "bin" / "java"
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!{sys.executable}\nimport json, os, sys, time\n{program}")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(script.parent))

    return install


def reason(scores: JavaScores) -> str:
    assert scores.corpus is None
    assert scores.per_image is None
    assert scores.skipped is not None
    assert "\n" not in scores.skipped
    return scores.skipped


def test_meteor_equals_pycocoevalcap(real_data: Path) -> None:
    if not shutil.which("java") or not importlib.util.find_spec("pycocoevalcap"):
        pytest.skip("Java or pycocoevalcap is missing; pip install -e .[java]")
    name = "metrics/case_flickr30k_validation_human.json.gz"
    with gzip.open(real_data / name, "rt", encoding="utf-8") as file:
        case = json.load(file)
    scores = meteor(case["candidates"], case["references"])
    assert scores.skipped is None
    assert scores.corpus == 0.19377010890809657
    assert scores.per_image is not None
    assert scores.per_image.shape == (len(case["candidates"]),)


def test_answers_are_read_in_order(package: Path, java: Callable[[str], None]) -> None:
    java(GIVES_METEOR)
    scores = meteor(CANDIDATES, REFERENCES)
    assert scores.skipped is None
    assert scores.corpus == 0.5
    assert scores.per_image is not None
    assert scores.per_image.tolist() == [0.25, 0.75]
    java(GIVES_SPICE)
    scores = spice(CANDIDATES, REFERENCES)
    assert scores.skipped is None
    assert scores.corpus == 0.375
    assert scores.per_image is not None
    assert scores.per_image.tolist() == [0.5, 0.25]


@pytest.mark.parametrize("metric", [meteor, spice])
def test_java_is_missing(
    package: Path, metric: Callable[..., JavaScores], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(package))
    assert "install Java" in reason(metric(CANDIDATES, REFERENCES))


@pytest.mark.parametrize("metric", [meteor, spice])
def test_the_package_is_missing(
    metric: Callable[..., JavaScores], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install -e .[java]" in reason(metric(CANDIDATES, REFERENCES))


def test_models_are_asked_for_not_downloaded(
    package: Path, java: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    java("sys.exit('Java was started')")
    (package / "spice/lib" / SPICE_MODELS[1]).unlink()
    assert SPICE_MODELS[1] in reason(spice(CANDIDATES, REFERENCES))


@pytest.mark.parametrize("metric", [meteor, spice])
@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("print('Exception: no memory', file=sys.stderr); sys.exit(1)", "Exception: no memory"),
        ("sys.exit(3)", ""),
        ("for line in sys.stdin: print('what?', flush=True)", ""),
        ("os.close(0); os.close(1)", ""),
        ("sys.stdout.buffer.write(b'\\xff\\n')", ""),
    ],
)
def test_java_fails(
    package: Path,
    java: Callable[[str], None],
    metric: Callable[..., JavaScores],
    program: str,
    said: str,
) -> None:
    java(program)
    assert said in reason(metric(CANDIDATES, REFERENCES))


@pytest.mark.parametrize("metric", [meteor, spice])
def test_java_hangs_and_its_children_with_it(
    package: Path, java: Callable[[str], None], metric: Callable[..., JavaScores]
) -> None:
    java("os.fork(); time.sleep(60)")
    start = time.monotonic()
    said = reason(metric(CANDIDATES, REFERENCES, timeout_seconds=0.3))
    assert "longer than 0.3 seconds" in said
    assert time.monotonic() - start < 30


def test_scores_that_are_no_numbers_are_refused(package: Path, java: Callable[[str], None]) -> None:
    java(GIVES_METEOR.replace("0.75", "NaN"))
    assert "not a number" in reason(meteor(CANDIDATES, REFERENCES))
    java(GIVES_SPICE.replace("0.5 - row / 4", "None"))
    assert "no scores that can be read" in reason(spice(CANDIDATES, REFERENCES))


@pytest.mark.parametrize("metric", [meteor, spice])
def test_nothing_is_left_in_the_package(
    package: Path, java: Callable[[str], None], metric: Callable[..., JavaScores]
) -> None:
    before = sorted(package.rglob("*"))
    java("sys.exit(1)")
    reason(metric(CANDIDATES, REFERENCES))
    assert sorted(package.rglob("*")) == before
