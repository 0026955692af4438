"""The house: the story at the root, the parts in rooms; sizes, and what stands in no file."""

import ast
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from model import CaptionModel
from tests.helpers.small_runs import run

ROOT = Path(__file__).parents[2]
STORY = {path.stem: path for path in ROOT.glob("*.py")}
PARTS = sorted((ROOT / "captioning").rglob("*.py"))
ROOMS = (
    "system sources metrics vision scenes tracking store decoding gpt2 training sharing reports "
    "streaming writing rivals comparison export app"
).split()
"""In their order: a room knows only rooms before it."""
MOST_LINES, MOST_FUNCTION_LINES, MOST_STORY_FILES = 490, 60, 21


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports_of(path: Path) -> Iterator[str]:
    """The modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def readme_order() -> list[str]:
    """Modules in the order of the README's table of files."""
    text = (ROOT / "README.md").read_text()
    table = text.split("<!-- files -->", 1)[1].split("<!-- /files -->", 1)[0]
    return re.findall(r"^\| `(\w+)\.py`", table, re.MULTILINE)


def test_the_readme_tells_the_whole_story_in_its_order() -> None:
    order = readme_order()
    assert sorted(order) == sorted(STORY)
    assert len(order) <= MOST_STORY_FILES
    place = {name: number for number, name in enumerate(order)}
    wrong = [
        f"{name} imports {other}"
        for name, path in STORY.items()
        for other in imports_of(path)
        if place.get(other, -1) >= place[name]
    ]
    assert not wrong


def test_the_parts_know_nothing_of_the_story_but_the_settings() -> None:
    wrong = [
        f"{name_of(path)} imports {other}"
        for path in PARTS
        for other in imports_of(path)
        if other in STORY and other != "config"
    ]
    assert not wrong


def test_rooms_make_no_circle() -> None:
    folders = {path.parent.name for path in PARTS if path.parent.parent.name == "captioning"}
    assert folders == set(ROOMS)
    order = {room: number for number, room in enumerate(ROOMS)}
    wrong = [
        f"{name_of(path)} imports {other}"
        for path in PARTS
        for other in imports_of(path)
        if (room := re.match(r"captioning\.(\w+)", other))
        and order.get(room[1], -1) > order.get(path.parent.name, -1)
    ]
    assert not wrong


@pytest.mark.parametrize("path", [*STORY.values(), *PARTS], ids=name_of)
def test_a_file_and_its_functions_can_be_read_in_one_sitting(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= MOST_FUNCTION_LINES, f"{node.name}: {lines} lines"


@pytest.mark.parametrize("path", [*STORY.values(), *PARTS], ids=name_of)
def test_every_module_function_and_class_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
            assert ast.get_docstring(node), node.name


def test_no_test_imports_another() -> None:
    wrong = [
        f"{name_of(path)} imports {other}"
        for path in (ROOT / "tests").rglob("*.py")
        for other in imports_of(path)
        if re.search(r"(^|\.)(test_\w+|conftest)$", other) and other.startswith("tests")
    ]
    assert not wrong  # what several of them need is in tests/helpers


def test_nothing_is_pickled_or_unpickled() -> None:
    forbidden = re.compile(
        r"torch\.(load|save)\(|\bpickle\b|\bjoblib\b|allow_pickle=True|strict=False\)"
    )
    scripts = [path for folder in ("benchmarks", "docs") for path in (ROOT / folder).glob("*.py")]
    for path in (*STORY.values(), *PARTS, *scripts):
        code = "\n".join(
            line
            for line in path.read_text().splitlines()
            if not line.lstrip().startswith(("#", '"""')) and "zip(" not in line
        )
        code = re.sub(r'"""(.|\n)*?"""', "", code)
        assert not forbidden.search(code), path.name


def test_nothing_is_left_undone() -> None:
    for path in (*STORY.values(), *PARTS):
        assert not re.search(
            r"TODO|FIXME|XXX|NotImplementedError|pragma: no cover", path.read_text()
        ), path


def test_no_module_hides_the_standard_library_or_a_dependency() -> None:
    dependencies = {"datasets", "tokenizers", "transformers", "wandb", "torch", "evaluation_lib"}
    assert not STORY.keys() & (set(sys.stdlib_module_names) | dependencies)


def test_the_way_from_the_command_to_the_forward_pass_is_straight(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most nine calls in four files, the first of them `train.main`."""
    ways: list[list[tuple[str, str]]] = []
    forward = CaptionModel.forward

    def noted(self: CaptionModel, *arguments: Any) -> Any:
        frames = [
            (Path(frame.filename).name, frame.name)
            for frame in traceback.extract_stack()
            if Path(frame.filename).is_relative_to(ROOT)
            and not Path(frame.filename).is_relative_to(ROOT / "tests")
            and ".venv" not in frame.filename
        ]
        if self.training:
            ways.append([*frames, ("model.py", "forward")])
        return forward(self, *arguments)

    monkeypatch.setattr(CaptionModel, "forward", noted)
    run(place, RUN_NAME="straight", NUM_EPOCHS=1)
    assert ways
    for way in ways:
        assert way[0] == ("train.py", "main")
        assert len(way) <= 9, way
        assert len({file for file, _ in way}) <= 4, way
