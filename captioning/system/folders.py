"""Folders that are written whole or not at all, with a manifest that proves it.

A folder is written beside its place, each file flushed to disk, its manifest last
(`checkpoint.json` of a checkpoint, `export.json` of an export); then it is renamed. The manifest
names every file with its size and SHA-256, so a file that was cut short or changed is found by name
before anything is read from it.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from captioning.system.errors import UserError
from captioning.system.files import read_json, sha256_of, write_json
from captioning.system.reading import JSON_BYTES, check_regular
from captioning.system.terminal import one_line

FORMAT_VERSION = 1
MANIFEST = "checkpoint.json"
EXPORT_MANIFEST = "export.json"
UNCHECKED = "README.md"  # the one file that people edit
ENCODER_TYPES = {"name": str, "revision": str, "fingerprint": str, "in_checkpoint": bool}
FILE_TYPES = {"size": int, "sha256": str}
WEIGHTS_SUFFIX = ".safetensors"
CHECKPOINT_SUFFIXES = {".safetensors", ".json", ".toml", ".md", ".png", ".tmp"}
EXPORT_SUFFIXES = {".onnx", ".py", ".txt", ".html", ".css", ".js", ".mjs", ".wasm"}
WRITTEN_SUFFIXES = {
    MANIFEST: CHECKPOINT_SUFFIXES,
    EXPORT_MANIFEST: CHECKPOINT_SUFFIXES | EXPORT_SUFFIXES,
}
"""What the files of such folders end with, unfinished ones too."""
LONGEST_NAME = 10_000
"""Letters of a parent's name."""
REPLACED_SUFFIX, UNFINISHED_SUFFIX = ".replaced", ".unfinished"


@contextmanager
def written_whole(
    folder: Path,
    about: Mapping[str, Any],
    *,
    keep_replaced_as: Path | None = None,
    manifest: str = MANIFEST,
) -> Iterator[Path]:
    """Give a folder to fill; when the block ends well it takes the place of `folder`.

    The `manifest` holds `about` besides the checksums; only a folder that has one of that name is
    replaced. What stood in the place stays until then; `keep_replaced_as` renames it instead of
    deleting it. After an error nothing has changed.
    """
    if os.path.lexists(folder) and not is_ours(folder, manifest):
        raise FileExistsError(errno.EEXIST, "it is there and is no checkpoint", str(folder))
    unfinished = folder.with_name(folder.name + UNFINISHED_SUFFIX)
    remove(unfinished, manifest)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        _write_manifest(unfinished, about, manifest)
    except BaseException:
        remove(unfinished, manifest)
        raise
    _put_in_place(unfinished, folder, keep_replaced_as, manifest)


def is_ours(folder: Path, manifest: str = MANIFEST) -> bool:
    """Whether a folder was written by `written_whole`, or begun by it: one that may be removed.

    No link is, and none that holds anything but files.
    """
    if folder.is_symlink() or not folder.is_dir():
        return False
    paths = list(folder.iterdir())
    is_begun = folder.name.endswith(UNFINISHED_SUFFIX) and all(
        path.suffix in WRITTEN_SUFFIXES[manifest] for path in paths
    )
    return (is_begun or (folder / manifest).is_file()) and all(
        path.is_symlink() or not path.is_dir() for path in paths
    )


def refuse_other(folder: Path) -> None:
    """Raise `UserError` where a folder that is to be replaced was not written here."""
    if os.path.lexists(folder) and not is_ours(folder):
        raise UserError(
            f"{folder} is there and is no checkpoint, so nothing is put in its place. Move it "
            "away, or begin another run: --RUN_NAME NAME"
        )


def remove(folder: Path, manifest: str = MANIFEST) -> None:
    """Remove a folder that was written here; any other stays."""
    if is_ours(folder, manifest):
        shutil.rmtree(folder, ignore_errors=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """`checkpoint.json` of a folder. Raises `UserError` where it is no checkpoint of ours."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(
            f"{folder} is not a checkpoint: {MANIFEST} is missing. {instead_of(folder)}"
        )
    manifest = read_json(path)
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {version!r}; this program reads {FORMAT_VERSION}. "
            "Use the version of the program that wrote it."
        )
    if not (_fits(manifest.get("encoder"), ENCODER_TYPES) and _are_files(manifest.get("files"))):
        raise UserError(f"{path} is damaged: its files or its encoder are not as they are written.")
    return manifest


def instead_of(folder: Path) -> str:
    """What to name instead of a folder that is no checkpoint, in a sentence."""
    inside = [folder / name for name in ("best", "last") if (folder / name / MANIFEST).is_file()]
    if inside:
        return f"It is the folder of a run; name a checkpoint in it: {inside[0]}"
    if (folder / EXPORT_MANIFEST).is_file():
        return "It is an export, made to be used elsewhere; name the checkpoint that it is of."
    return "Name a folder such as checkpoints/RUN/best, or make one with: python train.py"


def parent_in(manifest: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """What a checkpoint says of the model that its run began with; it goes onto model cards."""
    parent = manifest.get("parent", {})
    if parent == {}:
        return {}
    name, sha256 = (
        parent.get(key) if isinstance(parent, dict) else 0 for key in ("name", "sha256")
    )
    is_hash = isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256)
    if not (isinstance(name, str) and len(name) <= LONGEST_NAME and is_hash):
        raise UserError(f"{folder / MANIFEST} is damaged: its parent is {parent!r:.80}.")
    return {"name": one_line(name), "sha256": str(sha256)}


def check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise `UserError` naming the first file that is not as it was written.

    All sizes are compared before any content is read, and links lead to no other place.
    """
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and not _stays(path.resolve(), folder.resolve()):
            raise UserError(
                f"{path} is a link that leads out of the checkpoint. Put the file there instead."
            )
    for name, expected in manifest["files"].items():
        path = folder / name
        with _named(path, folder):
            size = check_regular(path, most_bytes=_most_bytes(name)).st_size
        if size != expected["size"]:
            raise UserError(
                f"{path} is damaged: it has {size:,} bytes, written were {expected['size']:,}."
            )
    for name, expected in manifest["files"].items():
        path = folder / name
        with _named(path, folder):
            sha256 = sha256_of(path)
        if sha256 != expected["sha256"]:
            raise UserError(f"{path} is damaged: its SHA-256 is not the one that was written.")


def _stays(target: Path, folder: Path) -> bool:
    """Whether a link leads to a file of its folder, or of its repository in the Hub's cache."""
    is_cached = folder.parent.name == "snapshots"
    return target.is_relative_to(folder.parents[1] / "blobs" if is_cached else folder)


@contextmanager
def _named(path: Path, folder: Path) -> Iterator[None]:
    """Make a sentence of what keeps a file from being read."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} is missing, though {folder / MANIFEST} names it.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None


def _most_bytes(name: str) -> int | None:
    """Bytes that a file may have: weights as many as they like, what describes them few."""
    return None if name.endswith(WEIGHTS_SUFFIX) else JSON_BYTES


def _are_files(files: object) -> bool:
    return isinstance(files, dict) and all(
        # What cannot be printed, a zero or half of a letter, no file system takes.
        Path(name).name == name and name.isprintable() and _fits(entry, FILE_TYPES)
        for name, entry in files.items()
    )


def _fits(entry: object, types: Mapping[str, type]) -> bool:
    return isinstance(entry, dict) and all(
        type(entry.get(name)) is expected for name, expected in types.items()
    )


def _write_manifest(folder: Path, about: Mapping[str, Any], manifest: str) -> None:
    paths = sorted(folder.iterdir())
    files = {
        path.name: {"size": path.stat().st_size, "sha256": sha256_of(path)}
        for path in paths
        if path.name != UNCHECKED
    }
    for path in paths:
        _flush(path)
    write_json(folder / manifest, {"format_version": FORMAT_VERSION, **about, "files": files})
    _flush(folder)


def _put_in_place(
    finished: Path, folder: Path, keep_replaced_as: Path | None, manifest: str
) -> None:
    """Swap folders. Killed between the two renames, the replaced one is still found by `auto`."""
    replaced = keep_replaced_as or folder.with_name(folder.name + REPLACED_SUFFIX)
    if folder.exists():
        remove(replaced, manifest)
        os.rename(folder, replaced)
    os.rename(finished, folder)
    _flush(folder.parent)
    remove(folder.with_name(folder.name + REPLACED_SUFFIX), manifest)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
