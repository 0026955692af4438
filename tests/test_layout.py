"""The order of the modules, their sizes, and what stands in none of them."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODULES = {path.stem: path for path in ROOT.glob("*.py")}
MOST_LINES, MOST_FUNCTION_LINES = 380, 60


def imports_of(path: Path) -> set[str]:
    """Our modules that a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names & MODULES.keys()


def readme_order() -> list[str]:
    """Modules in the order of the README's table of files."""
    text = (ROOT / "README.md").read_text()
    table = text.split("<!-- files -->", 1)[1].split("<!-- /files -->", 1)[0]
    return re.findall(r"^\| `(\w+)\.py`", table, re.MULTILINE)


def test_the_readme_names_every_module_once() -> None:
    order = readme_order()
    assert sorted(order) == sorted(MODULES)


def test_a_module_imports_only_modules_above_it() -> None:
    order = {name: place for place, name in enumerate(readme_order())}
    wrong = [
        f"{name} imports {other}"
        for name, path in MODULES.items()
        for other in imports_of(path)
        if order[other] >= order[name]
    ]
    assert not wrong


def test_a_file_can_be_read_in_one_sitting() -> None:
    for name, path in MODULES.items():
        assert len(path.read_text().splitlines()) <= MOST_LINES, name


def test_a_function_fits_on_a_screen() -> None:
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                assert lines <= MOST_FUNCTION_LINES, f"{name}.{node.name}: {lines} lines"


def test_every_module_function_and_class_says_what_it_is() -> None:
    for name, path in MODULES.items():
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), name
        for node in tree.body:
            is_public = isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"
            if is_public:
                assert ast.get_docstring(node), f"{name}.{node.name}"  # type: ignore[arg-type]


def test_nothing_is_pickled_or_unpickled() -> None:
    forbidden = re.compile(
        r"torch\.(load|save)\(|\bpickle\b|\bjoblib\b|allow_pickle=True|strict=False\)"
    )
    scripts = [path for folder in ("benchmarks", "docs") for path in (ROOT / folder).glob("*.py")]
    for path in (*MODULES.values(), *scripts):
        code = "\n".join(
            line
            for line in path.read_text().splitlines()
            if not line.lstrip().startswith(("#", '"""')) and "zip(" not in line
        )
        code = re.sub(r'"""(.|\n)*?"""', "", code)
        assert not forbidden.search(code), path.name


def test_nothing_is_left_undone() -> None:
    for name, path in MODULES.items():
        assert not re.search(
            r"TODO|FIXME|XXX|NotImplementedError|pragma: no cover", path.read_text()
        ), name


def test_no_module_hides_the_standard_library_or_a_dependency() -> None:
    import sys

    dependencies = {"datasets", "tokenizers", "transformers", "wandb", "torch", "evaluation_lib"}
    assert not MODULES.keys() & (set(sys.stdlib_module_names) | dependencies)
