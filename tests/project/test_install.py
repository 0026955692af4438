"""What `pip install .` gives: the rooms as `captioning`, whole, alone, and nothing of the root."""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy
import pytest

ROOT = Path(__file__).parents[2]
STORY = sorted(path.stem for path in ROOT.glob("*.py"))
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "captioning").rglob("*.py")
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the project installed into it, offline, from a copy of its sources."""
    folder = tmp_path_factory.mktemp("install")
    source, target = folder / "source", folder / "target"
    source.mkdir()
    for path in (*ROOT.glob("*.py"), *(ROOT / name for name in ("README.md", "LICENSE"))):
        shutil.copy(path, source)
    shutil.copy(ROOT / "pyproject.toml", source)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "captioning", source / "captioning", ignore=ignored)
    words = "install --no-deps --no-index --no-build-isolation --disable-pip-version-check --quiet"
    subprocess.run(
        [sys.executable, "-m", "pip", *words.split(), "--target", str(target), str(source)],
        check=True,
        cwd=folder,
    )
    return target


def run_alone(installed: Path, program: str) -> None:
    """Run a program that finds the installed package and its dependencies, and no clone."""
    program = f"import sys; sys.path.insert(0, {str(installed)!r})\n" + program
    subprocess.run([sys.executable, "-I", "-c", program], check=True, cwd=installed)


def test_nothing_but_the_package_is_installed(installed: Path) -> None:
    names = {path.name for path in installed.iterdir() if path.suffix != ".dist-info"}
    assert names == {"captioning", "bin"}
    assert [path.name for path in (installed / "bin").iterdir()] == ["caption-scores"]
    for path in (ROOT / "captioning").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:  # templates too
            assert (installed / path.relative_to(ROOT)).read_bytes() == path.read_bytes()


def test_an_empty_environment_scores_captions_with_numpy_alone(
    installed: Path, tmp_path: Path
) -> None:
    venv.create(tmp_path, with_pip=False, symlinks=True)
    (packages,) = (tmp_path / "lib").glob("python*/site-packages")
    shutil.copytree(installed / "captioning", packages / "captioning")
    for path in Path(numpy.__file__).parents[1].glob("numpy*"):
        (packages / path.name).symlink_to(path)
    program = """
from captioning.metrics import score_captions, tokenize_captions
assert tokenize_captions(["A dog's ball."]) == ["a dog 's ball"]
scores = score_captions(
    {"a.jpg": "a dog runs", "b.jpg": "a red boat"},
    {"a.jpg": ["A dog runs ."], "b.jpg": ["The blue boat."]},
)
assert scores.per_image["ROUGE-L"][0] == 1 > scores.per_image["ROUGE-L"][1] > 0
"""
    python = tmp_path / "bin" / "python"
    subprocess.run([python, "-I", "-c", program], check=True, cwd=tmp_path)
    missing = subprocess.run(
        [python, "-I", "-c", "import torch"], capture_output=True, cwd=tmp_path
    )
    assert missing.returncode == 1


def test_every_module_imports_without_the_root(installed: Path) -> None:
    run_alone(
        installed,
        f"""
import importlib, importlib.util
for name in {MODULES}:
    module = importlib.import_module(name)
    assert module.__file__.startswith({str(installed)!r}), module.__file__
found = [name for name in {STORY} if importlib.util.find_spec(name)]
assert not found, found
""",
    )


@pytest.mark.slow
def test_each_module_can_be_the_first_to_be_imported() -> None:
    program = """
import importlib, sys
for first in sys.argv[1:]:
    for name in [name for name in sys.modules if name.startswith("captioning")]:
        del sys.modules[name]
    importlib.import_module(first)
"""
    subprocess.run([sys.executable, "-c", program, *MODULES], check=True, cwd=ROOT)
