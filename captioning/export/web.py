"""The page of `--format web`: the templates, and ONNX Runtime's files beside them.

The runtime is the npm package `onnxruntime-web`: of it, one module and the WebAssembly program that
the module starts. They come from a folder that the user names, or through `npm pack`, and are part
of the export, so that the page asks no other server for anything.
"""

import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from captioning.export.folder import TEMPLATES, note_sizes
from captioning.reports.report import TEMPLATES_DIR
from captioning.system.errors import UserError
from captioning.system.files import write_text

PAGE = (
    *(TEMPLATES_DIR / one for one in ("palette.css", "camera.js")),  # other pages have them too
    *(
        TEMPLATES / one
        for one in ("index.html", "page.css", "page.js", "worker.js", "captioner.js")
    ),
)
RUNTIME_PACKAGE = "onnxruntime-web@1.30.0"
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
PATIENCE_SECONDS = 300


def add_page(folder: Path, runtime: str = "") -> None:
    """Put the page into a folder with graphs, and the runtime's files from the folder `runtime`,
    or from npm. Raises `UserError` where they cannot be had."""
    for path in PAGE:
        write_text(folder / path.name, path.read_text(encoding="utf-8"))
    if runtime:
        _copy(runtime_folder(runtime), folder)
    else:
        with tempfile.TemporaryDirectory() as place:
            _copy(_from_npm(Path(place)), folder)
    note_sizes(folder)


def runtime_folder(named: str) -> Path:
    """Where in a folder that the user names the runtime's files lie: there, or in its `dist`."""
    places = (Path(named), Path(named) / "dist", Path(named) / "package" / "dist")
    for place in places:
        if all((place / name).is_file() for name in RUNTIME):
            return place
    raise UserError(
        f"{named} does not hold {', '.join(RUNTIME)}. Name the folder of the npm package "
        "onnxruntime-web, or leave --runtime out where npm is installed."
    )


def _from_npm(place: Path) -> Path:
    """The package's files, unpacked into `place`."""
    advice = f"Unpack the npm package {RUNTIME_PACKAGE} and name its folder: --runtime FOLDER"
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"npm is not installed, which brings the files of ONNX Runtime. {advice}")
    try:
        subprocess.run(
            [npm, "pack", RUNTIME_PACKAGE, "--silent"],
            cwd=place,
            check=True,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"npm has not answered for {PATIENCE_SECONDS} seconds. {advice}") from None
    except subprocess.CalledProcessError as error:
        reason = " ".join(error.stderr.split())[:200] or f"exit code {error.returncode}"
        raise UserError(f"npm could not fetch {RUNTIME_PACKAGE}: {reason}. {advice}") from None
    (archive,) = place.glob("*.tgz")
    with tarfile.open(archive) as files:
        for name in RUNTIME:
            content = files.extractfile(f"package/dist/{name}")
            assert content is not None
            (place / name).write_bytes(content.read())
    return place


def _copy(source: Path, folder: Path) -> None:
    for name in RUNTIME:
        shutil.copyfile(source / name, folder / name)
