"""The README says what is: generated parts are fresh, what it names exists, numbers are read."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from config import Config
from docs import refresh_readme

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BENCHMARKS = (ROOT / "BENCHMARKS.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "tests" / "README.md"])
MOST_BYTES = 14_000
NO_SETTINGS = {
    "CAPTION_TEST_DATA",
    "HF_HUB_OFFLINE",
    "OMP_NUM_THREADS",
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT",
}
"""Names of the environment."""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", refresh_readme.PAGES)
def test_the_generated_parts_are_fresh(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert "<!-- /" in text
    assert refresh_readme.refreshed(text) == text, "run: make readme"


def test_each_generated_part_stands_on_one_page() -> None:
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in refresh_readme.PAGES)
    for part in refresh_readme.PARTS:
        assert text.count(f"<!-- {part} -->") == text.count(f"<!-- /{part} -->") == 1, part


def test_the_readme_is_short() -> None:
    assert len(README.encode()) <= MOST_BYTES


def test_the_readme_names_every_room() -> None:
    rooms = {path.parent.name for path in (ROOT / "captioning").glob("*/__init__.py")}
    assert set(refresh_readme.ROOMS) == rooms
    assert len(refresh_readme.ROOMS) == len(rooms)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", text):
        if target.startswith("http"):
            continue
        file = page.parent / target if target else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", one).lower().replace(" ", "-") for one in headings]
            assert anchor in slugs, f"{target}#{anchor}"
    for preset in re.findall(r"presets/[\w-]+\.toml", text):
        assert (ROOT / preset).exists(), preset
    for path in re.findall(r"`((?:captioning|tests|docs|presets|examples)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_settings_that_pages_name_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if page.name == "CHANGELOG.md":
        text = re.sub(r"^\| (?!old).*? \|", "|", text, flags=re.MULTILINE)  # old names
        text = text.replace("`HF_PRIVATE`", "")
    if page.name == "BENCHMARKS.md":
        pytest.skip("it measures settings that have gone, too")
    words = {word for code in re.findall(r"`([^`]+)`", text) for word in re.findall(r"\w+", code)}
    named = {word for word in words if re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+", word)}
    assert named - {field.name for field in fields(Config)} - NO_SETTINGS == set()


@pytest.mark.parametrize(
    "command",
    [
        *("train", "generate", "evaluate", "compare", "prepare_dataset"),
        *("features", "tokenizer", "export", "hub", "app"),
    ],
)
def test_each_command_shows_its_help_without_heavy_imports(command: str) -> None:
    program = (
        f"import sys, {command}\n"
        f"try: {command}.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'wandb'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stdout
    assert len(done.stdout) > 200


def test_flags_that_pages_type_exist() -> None:
    shown = ""
    commands = "train generate evaluate compare prepare_dataset export hub app".split()
    for command in commands:
        words = ["upload"] if command == "hub" else []
        shown += (
            subprocess.run(
                [sys.executable, f"{command}.py", *words, "--help"],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            )
            .stdout.replace("_", "-")
            .lower()
        )
    # What people type stands in the prose, not in the generated tables; torchrun has its own flags.
    pages = [README, *(path.read_text("utf-8") for path in (ROOT / "docs").glob("[!m]*.md"))]
    prose = re.sub(r"<!-- (\w+) -->.*?<!-- /\1 -->", "", "".join(pages), flags=re.DOTALL)
    prose = prose.replace("torchrun --nproc-per-node", "")
    others = {"config", "help", "no-java", "no-open", "no-draft", "no-cache-dir", "index-url"}
    for flag in set(re.findall(r"--([A-Za-z][\w-]+)", prose)) - others:
        assert f"--{flag.replace('_', '-').lower()}" in shown, flag


def test_the_demos_numbers_are_those_that_were_measured() -> None:
    path = ROOT / "docs" / "demo.json"
    demo = json.loads(path.read_text(encoding="utf-8"))
    assert demo["truth"]["objects_and_colours"] >= 0.9
    assert min(demo["truth"]["place"], demo["truth"]["time"]) >= 0.95
    assert f"{demo['truth']['objects_and_colours']:.1%}" in README


def test_the_readmes_other_numbers_are_read_from_the_benchmarks() -> None:
    generation = BENCHMARKS.split("## Generation", 1)[1].split("\n## ", 1)[0]
    for search, shown in (("greedy, 1 ", "145 ms (greedy)"), ("beam 5, 1 ", "248 ms (five beams)")):
        (row,) = (line for line in generation.splitlines() if line.startswith(f"| {search}|"))
        assert shown in README
        assert shown.split(" (")[0] in row
    assert "31.0 M" in README
    assert "| 0: frozen, pictures live | 6.25 | 1 | 1,258 | 31.0 M |" in BENCHMARKS
    assert "94.0 % of objects and colours right" in README
    assert "objects and colours right in 94.0 % of the scenes" in BENCHMARKS
    encoders = json.loads((ROOT / "docs" / "encoders.json").read_text(encoding="utf-8"))
    assert f"{len(encoders)} families" in README
    scenes = (ROOT / "captioning" / "scenes" / "__init__.py").read_text(encoding="utf-8")
    assert "DEFAULT_COUNT = 3000" in scenes
    assert "draws 3,000 scenes" in README


def test_the_version_is_the_same_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    newest = re.search(r"^## \[(.+?)\] - ([\d-]+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert newest is not None
    assert newest.groups() == (version, str(citation["date-released"]))
    assert citation["version"] == version


def test_the_workflow_does_what_is_done_before_a_change_lands() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert ".ci/run" in [step.get("run") for step in workflow["jobs"]["test"]["steps"]]
    assert workflow["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml")))
def test_a_template_of_issues_asks_for_something(path: Path) -> None:
    template = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= template.keys()
    assert any(part.get("validations", {}).get("required") for part in template["body"])


def test_every_folder_and_helper_of_the_tests_is_explained() -> None:
    text = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "tests").glob("*/__init__.py"):
        assert f"`{path.parent.name}/`" in text, path
    for path in (ROOT / "tests" / "helpers").glob("[!_]*.py"):
        assert ast.get_docstring(ast.parse(path.read_text()))
        assert f"`{path.stem}`" in text, path


def test_the_project_speaks_of_itself_alone() -> None:
    forbidden = re.compile(
        r"/work/|/tmp/venv|\bhelper-\d|\bthis session\b|farm-|claude|anthropic", re.I
    )
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    spoken = {".py", ".md", ".toml", ".txt", ".html", ".js", ".css", ".ipynb", ".yml", ".cff", ""}
    for path in (ROOT / name for name in files if name != "tests/project/test_readme.py"):
        if path.suffix in spoken and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            assert not forbidden.search(text), path
