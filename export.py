"""Write a trained model in a form that runs elsewhere, and check that it captions as before.

    python export.py --checkpoint checkpoints/demo/best --output demo-onnx
    python export.py --checkpoint checkpoints/demo/best --output demo-int8 --int8
    python export.py --checkpoint checkpoints/demo/best --output demo-web --format web
    python export.py --checkpoint checkpoints/demo/best --output demo-hf --format transformers
    python demo-onnx/caption.py photo.jpg                # no torch, nothing of this project

`onnx` is two graphs, the vocabulary and a program, `caption.py`, that needs onnxruntime,
tokenizers, numpy and Pillow alone; `web` is a page that captions in the browser. Some pictures are
captioned both ways before the folder gets its name: where captions differ, nothing is left but a
sentence.
"""

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from captioning.export.checking import (
    Said,
    Speaker,
    check_same,
    pictures_to_check,
    share_equal,
)
from captioning.sharing.repository import resolve_checkpoint
from captioning.system.errors import EXIT_DONE, UserError, run_command
from captioning.system.files import sha256_of
from captioning.system.folders import EXPORT_MANIFEST, is_ours, written_whole
from captioning.system.options import parse_options
from captioning.system.privacy import shareable
from captioning.tracking.provenance import code_version, package_versions

if TYPE_CHECKING:
    from PIL import Image

    from captioner import Captioner

GRAPHS = ("onnx", "web")
"""Formats that are made of ONNX graphs."""
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""What these need besides the project's own packages: the extra `export`."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to export, and how."""

    output: str
    """Folder to write; an export that stands there is replaced."""
    checkpoint: str = ""
    """Checkpoint folder or Hub repository ("" = the newest `best` under output-dir)."""
    revision: str = ""
    """Branch, tag or commit of the Hub repository."""
    output_dir: str = "checkpoints"
    """Where to look for the newest `best`."""
    format: Literal["onnx", "web", "transformers"] = "onnx"
    """onnx: graphs and caption.py; web: a page that captions in the browser; transformers: a folder
    that `AutoModel.from_pretrained` opens."""
    int8: bool = False
    """Weights of 8 bits: a third of the size; captions may differ a little."""
    runtime: str = ""
    """Folder of the npm package onnxruntime-web, for the page ("" = npm fetches it)."""
    pictures: str = ""
    """Folder of pictures that the export is checked with ("" = scenes, drawn on the spot)."""
    trust_remote_code: bool = False
    """Run code that the encoder's repository brings along. Only for repositories you trust."""


def main(argv: Sequence[str] | None = None) -> int:
    """Load a model, write it, caption both ways, give the folder its name."""
    options = parse_options(
        ExportOptions,
        sys.argv[1:] if argv is None else argv,
        description="Write a trained model in a form that runs elsewhere.",
    )
    check_options(options)
    pictures = pictures_to_check(options.pictures)
    from captioner import Captioner
    from checkpoint import newest_best

    folder = resolve_checkpoint(
        options.checkpoint or os.fspath(newest_best(Path(options.output_dir))),
        revision=options.revision,
    )
    captioner = Captioner.from_pretrained(
        folder, device="cpu", precision="fp32", trust_remote_code=options.trust_remote_code
    )
    output = Path(options.output)
    about = about_export(captioner, folder, options)
    with written_whole(output, about, manifest=EXPORT_MANIFEST) as unfinished:
        theirs = FORMATS[options.format](captioner, unfinished, options)
        ours, beams = speaker_of(captioner), captioner.config.BEAM_SIZE
        print(check_same(ours, theirs, pictures, beams=[beams]), file=sys.stderr)
        if options.int8:
            from captioning.export.folder import quantise, speaker_of_folder

            rounded = quantise(unfinished, pictures)
            found = share_equal(ours, speaker_of_folder(unfinished), pictures, beams)
            print(f"int8: {rounded}; {found}", file=sys.stderr)
    print(output)
    if options.format == "onnx":
        words = shlex.join(["python", str(output / "caption.py"), "PHOTO.jpg"])
        print(f"Next: {words}", file=sys.stderr)
    return EXIT_DONE


def check_options(options: ExportOptions) -> None:
    """Raise `UserError` for what can be told before a model is loaded."""
    if options.int8 and options.format == "transformers":
        raise UserError(
            "--int8 is of the formats onnx and web; transformers makes weights smaller when it "
            "loads them. Leave it out."
        )
    output = Path(options.output)
    if os.path.lexists(output) and not is_ours(output, EXPORT_MANIFEST):
        raise UserError(
            f"{output} is there and is no export, so nothing is put in its place. Move it away, or "
            "name another folder: --output FOLDER"
        )
    if options.runtime and options.format != "web":
        raise UserError("--runtime is for --format web; leave it out.")
    if options.runtime:
        from captioning.export.web import runtime_folder

        runtime_folder(options.runtime)
    missing = [name for name in PACKAGES if options.format in GRAPHS and find_spec(name) is None]
    if missing:
        raise UserError(
            f"--format {options.format} needs {', '.join(missing)}; install them with: "
            "pip install -e '.[export]' -c constraints.txt"
        )


def about_export(captioner: "Captioner", folder: Path, options: ExportOptions) -> dict[str, Any]:
    """What the manifest says: of which checkpoint it is, and what it was made with."""
    weights, encoder = folder / "model.safetensors", captioner.pipeline.encoder
    return {
        "format": options.format,
        "int8": options.int8,
        "checkpoint": sha256_of(weights) if weights.is_file() else "",
        "encoder": {**shareable({"name": encoder.name}), "fingerprint": encoder.fingerprint()},
        "code": code_version(Path(__file__).parent),
        "packages": package_versions(),
    }


def speaker_of(captioner: "Captioner") -> Speaker:
    """The checkpoint itself, as `check_same` asks it."""
    from captioning.decoding import SearchOptions

    def say(pictures: Sequence["Image.Image"], beams: int) -> list[Said]:
        search = SearchOptions.of_beams(beams, length_penalty=captioner.config.LENGTH_PENALTY)
        found = captioner.captions(pictures, search)
        return [Said(captions[0].text, captions[0].log_probability) for captions in found]

    return say


def write_onnx(captioner: "Captioner", folder: Path, options: ExportOptions) -> Speaker:
    """Graphs, vocabulary, settings and `caption.py`."""
    from captioning.export.folder import add_program, speaker_of_folder

    write_graphs(captioner, folder)
    add_program(folder)
    return speaker_of_folder(folder)


def write_web(captioner: "Captioner", folder: Path, options: ExportOptions) -> Speaker:
    """The page and what it reads; its graphs are checked as those of `onnx` are."""
    from captioning.export.folder import speaker_of_folder
    from captioning.export.web import add_page

    write_graphs(captioner, folder)
    add_page(folder, options.runtime)
    return speaker_of_folder(folder)


def write_graphs(captioner: "Captioner", folder: Path) -> None:
    """Graphs, vocabulary and settings."""
    from captioning.export.folder import write_captioner

    pipeline, config = captioner.pipeline, captioner.config
    write_captioner(
        folder,
        encoder=pipeline.encoder,
        model=pipeline.model,
        tokenizer_json=pipeline.tokenizer.to_json(),
        rules=pipeline.rules(),
        early_stop=pipeline.usual.early_stop,
        beam_size=config.BEAM_SIZE,
        length_penalty=config.LENGTH_PENALTY,
    )


def write_transformers(captioner: "Captioner", folder: Path, options: ExportOptions) -> Speaker:
    """A folder that `AutoModel.from_pretrained` opens, with the one file of code that it takes."""
    from captioning.export.transformers_folder import (
        generation_config,
        transformers_speaker,
        write_transformers,
    )

    pipeline, config = captioner.pipeline, captioner.config
    generation = generation_config(
        pipeline.tokenizer,
        pipeline.rules(),
        pipeline.usual,
        beam_size=config.BEAM_SIZE,
        length_penalty=config.LENGTH_PENALTY,
    )
    encoder = pipeline.encoder
    state = encoder.plain_state()
    write_transformers(folder, pipeline.model, encoder, state, pipeline.tokenizer, generation)
    return transformers_speaker(folder, config.LENGTH_PENALTY)


FORMATS: dict[str, Callable[["Captioner", Path, ExportOptions], Speaker]] = {
    "onnx": write_onnx,
    "web": write_web,
    "transformers": write_transformers,
}
"""What writes each format into an unfinished folder, and gives how to caption with it."""


if __name__ == "__main__":
    run_command(main)
