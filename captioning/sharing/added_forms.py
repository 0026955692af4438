"""What `export.py` wrote of a checkpoint, as files beside it in one repository.

The folder for transformers lies at the root, where `AutoModel` looks; its weights are those of the
checkpoint and of the encoder, so that they stand in for the checkpoint's. ONNX lies in `onnx/`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from captioning.system.errors import UserError
from captioning.system.files import read_json
from captioning.system.folders import EXPORT_MANIFEST, check_files

PLACES = {"transformers": "", "onnx": "onnx/"}
"""Where each format of `export.py` lies in a repository."""
WEIGHTS, CODE = "model.safetensors", "modeling_captioner.py"
SHARED_FILES = ("tokenizer.json", "preprocessor_config.json")
"""Files for transformers that say what the checkpoint's own of the same names say."""


def form_files(
    export: Path, folder: Path, manifest: Mapping[str, Any]
) -> tuple[str, dict[str, Path]]:
    """The format of an export and its files by their names in the repository.

    `manifest` is that of the checkpoint in `folder`. Raises `UserError` for what is no export, is
    damaged, or was made of another checkpoint.
    """
    if not (export / EXPORT_MANIFEST).is_file():
        raise UserError(
            f"{export} is no folder that export.py wrote: it has no {EXPORT_MANIFEST}. Make one "
            f"with: python export.py --checkpoint {folder} --output FOLDER --format transformers"
        )
    about = read_json(export / EXPORT_MANIFEST)
    form, files = about.get("format"), about.get("files")
    if form not in PLACES:
        raise UserError(
            f"{export} has the format {form!r:.80}; beside a checkpoint lie {' and '.join(PLACES)}."
        )
    if about.get("checkpoint") != manifest["files"][WEIGHTS]["sha256"]:
        raise UserError(
            f"{export} was made of another checkpoint than {folder}. Make it anew: python "
            f"export.py --checkpoint {folder} --output {export} --format {form}"
        )
    if form == "transformers" and CODE not in (files or ()):
        raise UserError(
            f"{export} is a ViT-GPT2 as transformers itself has it, whose weights have other names "
            f"than the checkpoint's. Upload it alone: hf upload USER/NAME {export}"
        )
    if not isinstance(files, dict):
        raise UserError(f"{export / EXPORT_MANIFEST} is damaged: it names no files.")
    check_files(export, about)
    left_out = SHARED_FILES if form == "transformers" else ()
    names = [name for name in (*files, EXPORT_MANIFEST) if name not in left_out]
    return form, {PLACES[form] + name: export / name for name in names}
