"""A checkpoint's files as they are published: without what is of this machine alone.

Of `config.toml` places and accounts are left out, and of any other absolute path the last part is
kept; the card tells what is known when it leaves (`published_card`); `checkpoint.json` has the
sizes and hashes of what is published. The folder itself stays as it is.
"""

import hashlib
import json
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from captioning.sharing.added_forms import form_files
from captioning.sharing.published_card import published_card
from captioning.system.errors import UserError
from captioning.system.files import read_json, sha256_of
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
    folder: Path,
    repo_id: str,
    *,
    left_out: Collection[str],
    added: Sequence[Path] = (),
    data_license: str = "",
) -> dict[str, Path | bytes]:
    """Name and content of each file for a repository; `left_out` are settings that stay here.

    `added` are folders of `export.py`, `data_license` is that of the pictures. Raises `UserError`
    for a file that is a link, which may lead to anything of this machine.
    """
    files: dict[str, Path | bytes] = {path.name: path for path in checkpoint_files(folder)}
    manifest, forms = read_json(folder / MANIFEST), []
    for export in added:
        form, more = form_files(export, folder, manifest)
        files |= more
        forms.append(form)
    for path in files.values():
        if isinstance(path, Path) and path.is_symlink():
            raise UserError(f"{path} is a link; only files are uploaded. Put the file there.")
    settings = _read_settings(folder / "config.toml")
    kept = {
        name: _shareable(value) for name, value in settings.items() if name.upper() not in left_out
    }
    if kept != settings:
        lines = (f"{name} = {to_toml(value)}\n" for name, value in kept.items())
        files["config.toml"] = "".join(lines).encode()
    changed = _manifest(manifest, folder, files)
    if changed is not None:
        files[MANIFEST] = (json.dumps(changed, indent=2, ensure_ascii=False) + "\n").encode()
    if "README.md" in files:
        card = published_card(
            _card(folder / "README.md", settings),
            folder,
            repo_id,
            dataset=str(kept.get("DATASET", "")),
            forms=forms,
            data_license=data_license,
        )
        files["README.md"] = card.encode()
    return files


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None


def _shareable(value: Any) -> Any:
    return without_places(mask_urls(value)) if isinstance(value, str) else value


def _manifest(
    manifest: dict[str, Any], folder: Path, files: Mapping[str, Path | bytes]
) -> dict[str, Any] | None:
    """The manifest of the published files; None where it is that of the folder."""
    changed = {
        name: _size_and_hash(files[name])
        for name in manifest.get("files", {})
        if files.get(name, folder / name) != folder / name
    }
    about = {
        part: {**manifest[part], "name": _shareable(manifest[part].get("name"))}
        for part in ("encoder", "parent")
        if isinstance(manifest.get(part), dict)
    }
    published = {**manifest, **about}
    if not changed and published == manifest:
        return None
    return {**published, "files": {**manifest.get("files", {}), **changed}}


def _size_and_hash(content: Path | bytes) -> dict[str, Any]:
    if isinstance(content, Path):
        return {"size": content.stat().st_size, "sha256": sha256_of(content)}
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _card(path: Path, settings: Mapping[str, Any]) -> str:
    """The card without places and secrets of the settings."""
    try:
        text = path.read_bytes().decode()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None
    for value in settings.values():
        if isinstance(value, str) and _shareable(value) != value:
            text = text.replace(value, _shareable(value))
    return text
