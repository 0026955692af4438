"""A checkpoint's files as they are published: without what is of this machine alone.

Of `config.toml` places and accounts are left out, and of any other absolute path the last part is
kept; the card names the repository instead of a folder here; `checkpoint.json` has the sizes and
hashes of what is published. The folder itself stays as it is.
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from captioning.sharing.model_card import with_test_scores
from captioning.system.errors import UserError
from captioning.system.files import read_json
from captioning.system.folders import MANIFEST
from captioning.system.privacy import mask_urls, without_places
from captioning.system.toml_files import to_toml

CHECKPOINT_FILES = (
    MANIFEST,
    "config.toml",
    "model.safetensors",
    "tokenizer.json",
    "preprocessor_config.json",
    "encoder_config.json",
    "decoder_config.json",
    "metrics.json",
    "README.md",
)
"""What travels; `encoder_config.json` is there only where the encoder was trained, and
`decoder_config.json` where the decoder is a GPT-2."""
EXAMPLES = "example-*.png"
"""Pictures that the model card shows."""


def checkpoint_files(folder: Path) -> list[Path]:
    """The files of a checkpoint folder that travel."""
    named = [folder / name for name in CHECKPOINT_FILES]
    return [path for path in named if path.is_file()] + sorted(folder.glob(EXAMPLES))


def published_files(
    folder: Path, repo_id: str, *, left_out: Collection[str]
) -> dict[str, Path | bytes]:
    """Name and content of each file for a repository; `left_out` are settings that stay here.

    Raises `UserError` for a file that is a link, which may lead to anything of this machine.
    """
    files: dict[str, Path | bytes] = {}
    for path in checkpoint_files(folder):
        if path.is_symlink():
            raise UserError(f"{path} is a link; only files are uploaded. Put the file there.")
        files[path.name] = path
    settings = _read_settings(folder / "config.toml")
    kept = {
        name: _shareable(value) for name, value in settings.items() if name.upper() not in left_out
    }
    if kept != settings:
        lines = (f"{name} = {to_toml(value)}\n" for name, value in kept.items())
        files["config.toml"] = "".join(lines).encode()
    manifest = _manifest(read_json(folder / MANIFEST), files)
    if manifest is not None:
        files[MANIFEST] = (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode()
    if "README.md" in files:
        card = _card(folder / "README.md", settings, repo_id)
        files["README.md"] = with_test_scores(card, folder).encode()
    return files


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None


def _shareable(value: Any) -> Any:
    return without_places(mask_urls(value)) if isinstance(value, str) else value


def _manifest(manifest: dict[str, Any], files: Mapping[str, Path | bytes]) -> dict[str, Any] | None:
    """The manifest of the published files; None where it is that of the folder."""
    changed = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
        if isinstance(content, bytes) and name in manifest.get("files", {})
    }
    encoder = manifest.get("encoder", {})
    if not changed and encoder.get("name") == _shareable(encoder.get("name")):
        return None
    return {
        **manifest,
        "encoder": {**encoder, "name": _shareable(encoder.get("name"))},
        "files": {**manifest["files"], **changed},
    }


def _card(path: Path, settings: Mapping[str, Any], repo_id: str) -> str:
    """The card with the repository's name where it tells how the model is loaded."""
    try:
        text = path.read_bytes().decode()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None
    text = re.sub(r'(Captioner\.from_pretrained\(")[^"]*', rf"\g<1>{repo_id}", text)
    text = re.sub(r"(generate\.py --checkpoint )('[^']*'|\S+)", rf"\g<1>{repo_id}", text)
    for value in settings.values():
        if isinstance(value, str) and _shareable(value) != value:
            text = text.replace(value, _shareable(value))
    return text
