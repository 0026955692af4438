"""The README says what is: generated parts are fresh, what it names exists, numbers are read."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_generated_parts_are_fresh() -> None:
    program = "import refresh_readme as r, sys; sys.stdout.write(r.refreshed(sys.stdin.read()))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT / "docs",
        input=README,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == README, "run: make readme"


def test_links_and_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
    for preset in re.findall(r"presets/[\w-]+\.toml", README):
        assert (ROOT / preset).exists(), preset


@pytest.mark.parametrize(
    "command",
    ["train", "generate", "evaluate", "compare", "prepare_dataset", "features", "tokenizer", "hub"],
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


def test_flags_that_the_readme_types_exist() -> None:
    shown = ""
    for command in ("train", "generate", "evaluate", "compare", "prepare_dataset"):
        shown += (
            subprocess.run(
                [sys.executable, f"{command}.py", "--help"],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            )
            .stdout.replace("_", "-")
            .lower()
        )
    # What people type stands in the prose, not in the generated tables.
    prose = re.sub(r"<!-- (\w+) -->.*?<!-- /\1 -->", "", README, flags=re.DOTALL)
    for flag in set(re.findall(r"--([A-Za-z][\w-]+)", prose)) - {"config", "no-java"}:
        assert f"--{flag.replace('_', '-').lower()}" in shown, flag


def test_the_demos_numbers_are_those_that_were_measured() -> None:
    path = ROOT / "docs" / "demo.json"
    demo = json.loads(path.read_text(encoding="utf-8"))
    assert demo["truth"]["objects_and_colours"] >= 0.9
    assert min(demo["truth"]["place"], demo["truth"]["time"]) >= 0.95
    assert f"{demo['truth']['objects_and_colours']:.1%}" in README


def test_the_project_speaks_of_itself_alone() -> None:
    forbidden = re.compile(
        r"/work/|/tmp/venv|\bhelper-\d|\bthis session\b|farm-|claude|anthropic", re.I
    )
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    spoken = {".py", ".md", ".toml", ".txt", ".html", ".js", ".css", ""}
    for path in (ROOT / name for name in files if name != "tests/project/test_readme.py"):
        if path.suffix in spoken and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            assert not forbidden.search(text), path
