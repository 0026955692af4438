"""Writes the generated parts of the README and of the pages in `docs/`.

    python docs/refresh_readme.py            `make readme` calls it

    README.md           the files of the story, the demo's results
    CONTRIBUTING.md     the rooms behind the story
    docs/settings.md    every setting
    docs/encoders.md    the families of encoders

What a file or a room is for is the first paragraph of its docstring; a setting's meaning is its
docstring in `config.py`. The demo's results are read from `docs/demo.json`, which `make
readme-demo` copies from an evaluation, shapes of encoders from `docs/encoders.json`. A test
compares the pages with what this gives.
"""

import ast
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from captioning.system.options import described_fields  # noqa: E402
from config import Config  # noqa: E402

PAGES = ("README.md", "CONTRIBUTING.md", "docs/settings.md", "docs/encoders.md")
STORY = (
    "config prepare_dataset tokenizer encoder features dataset model optimization pipeline "
    "checkpoint captioner validation trainer beginning train generate evaluate compare export "
    "hub app"
).split()
"""The files at the root in reading order: each imports only those before it."""
ROOMS = (
    "system sources scenes metrics vision gpt2 store streaming training decoding tracking sharing "
    "reports writing rivals comparison export app"
).split()
"""The folders of `captioning/`, in the order in which the story enters them."""


def purpose(path: Path) -> str:
    """The first paragraph of a module's docstring, in one line."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split("\n\n", 1)[0].split())


def story() -> str:
    """The table of the files at the root; commands are marked with a star."""
    lines = ["| file | what it is |", "|---|---|"]
    for path in (ROOT / f"{name}.py" for name in STORY):
        is_command = 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
        lines.append(f"| `{path.name}`{' *' if is_command else ''} | {purpose(path)} |")
    return "\n".join(lines)


def settings() -> str:
    """The settings with defaults and docstrings, a Markdown table a group."""
    lines: list[str] = []
    heading = None
    for one in described_fields(Config):
        if one.heading != heading:
            heading = one.heading
            lines += ["", f"## {heading}", "", "| setting | default | meaning |", "|---|---|---|"]
        default = getattr(Config, one.name)
        shown = json.dumps(default) if isinstance(default, str | bool) else f"{default:g}"
        meaning = one.meaning.replace("|", "\\|")
        lines.append(f"| `{one.name}` | `{shown}` | {meaning} |")
    return "\n".join(lines).strip()


def rooms() -> str:
    """The table of the rooms."""
    lines = ["| room | what is in it |", "|---|---|"]
    for name in ROOMS:
        lines.append(f"| `{name}` | {purpose(ROOT / 'captioning' / name / '__init__.py')} |")
    return "\n".join(lines)


def results() -> str:
    """What the demo was measured to reach."""
    path = ROOT / "docs" / "demo.json"
    if not path.exists():
        return "Not measured yet."
    demo = json.loads(path.read_text(encoding="utf-8"))
    truth = demo["truth"]
    rows = [
        ("object and colour right", f"{truth['objects_and_colours']:.1%}"),
        ("place right", f"{truth['place']:.1%}"),
        ("time of day right", f"{truth['time']:.1%}"),
        ("relation right, where there are two objects", f"{truth['relation']:.1%}"),
        (
            "attention of an object's word peaks inside its box (by chance: "
            f"{truth['attention_inside_by_chance']:.1%})",
            f"{truth['attention_inside_object']:.1%}",
        ),
        ("CIDEr", f"{demo['CIDEr']:.3f}"),
        ("BLEU-4", f"{demo['BLEU-4']:.3f}"),
        ("training", f"{demo['trained_minutes']:.1f} minutes"),
    ]
    head = (
        f"The demo, {demo['num_images']} held-out scenes, `make demo` on {demo['machine']}, "
        f"{demo['date']}, seed {demo['seed']} (read from `docs/demo.json`):"
    )
    return "\n".join([head, "", "| | |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)])


def encoders() -> str:
    """The families of encoders, as `docs/encoder_table.py` computed them."""
    lines = [
        "| family | an example | features | grid + before it | trained on | test |",
        "|---|---|---|---|---|---|",
    ]
    for row in json.loads((ROOT / "docs" / "encoders.json").read_text(encoding="utf-8")):
        rows, columns = row["grid"]
        trained_on = "pictures and text" if row["is_multimodal"] else "pictures"
        lines.append(
            f"| {row['family']} | `{row['name']}` | {row['tokens']} x {row['width']} | "
            f"{rows} x {columns} + {row['prefix']} | {trained_on} | {row['test']} |"
        )
    return "\n".join(lines)


PARTS: dict[str, Callable[[], str]] = {
    "files": story,
    "rooms": rooms,
    "results": results,
    "encoders": encoders,
    "settings": settings,
}


def refreshed(text: str) -> str:
    """A page with its generated parts, each between two comments with its name, made anew."""
    for name, make in PARTS.items():
        pattern = re.compile(f"<!-- {name} -->.*?<!-- /{name} -->", re.DOTALL)
        if pattern.search(text):
            part = f"<!-- {name} -->\n{make()}\n<!-- /{name} -->"
            text = pattern.sub(lambda _, part=part: part, text)
    return text


if __name__ == "__main__":
    for page in (ROOT / name for name in PAGES):
        page.write_text(refreshed(page.read_text(encoding="utf-8")), encoding="utf-8")
