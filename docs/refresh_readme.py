"""Writes the generated parts of the README: the table of files, of settings, the demo's results.

    python docs/refresh_readme.py            rewrites README.md; `make readme` calls it

What a file is for is the first sentence of its docstring; a setting's meaning is its docstring in
`config.py`; the demo's results are read from `docs/demo.json`, which `make readme-demo` copies from
an evaluation. A test compares the README with what this gives.
"""

import ast
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from captioning.system.options import settings_table  # noqa: E402
from config import Config  # noqa: E402

ORDER = {
    "What is trained": ("config prepare_dataset tokenizer encoder features dataset model"),
    "How": "optimization pipeline checkpoint captioner validation trainer train",
    "What comes of it": "generate evaluate compare hub",
}
"""The modules in reading order: each imports only those above it. Names under a heading."""


def files_table() -> str:
    """The table of files; commands are marked with a star."""
    lines = ["| file | what it is |", "|---|---|"]
    for heading, names in ORDER.items():
        lines.append(f"| **{heading}** | |")
        for name in names.split():
            source = (ROOT / f"{name}.py").read_text(encoding="utf-8")
            first = (ast.get_docstring(ast.parse(source)) or "").split("\n\n", 1)[0]
            is_command = 'if __name__ == "__main__":' in source
            star = " *" if is_command else ""
            lines.append(f"| `{name}.py`{star} | {' '.join(first.split())} |")
    return "\n".join([*lines, "", "\\* has a command line."])


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
            "attention of an object's word peaks inside its box",
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


def refreshed(text: str) -> str:
    """The README with its generated parts made anew."""
    parts = {
        "files": files_table(),
        "settings": settings_table(Config),
        "results": results(),
        "encoders": encoders(),
    }
    for name, part in parts.items():
        pattern = re.compile(f"<!-- {name} -->.*?<!-- /{name} -->", re.DOTALL)
        text = pattern.sub(lambda _, n=name, p=part: f"<!-- {n} -->\n{p}\n<!-- /{n} -->", text)
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(refreshed(readme.read_text(encoding="utf-8")), encoding="utf-8")
