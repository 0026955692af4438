"""Where a result comes from: settings, code, packages, data, hardware, times, command line.

`run folder/provenance.json` holds `{"sessions": [...]}`, one record for each time that the run was
started or resumed. Environment variables are never recorded, what looks like a secret in a setting
or on the command line is masked, and of absolute paths the last part is kept: the record goes to
W&B and into reports.
"""

import hashlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from captioning.sources.records import METADATA_NAME, SPLITS
from captioning.system.files import read_json, write_json
from captioning.system.privacy import shareable, shareable_words
from captioning.system.reading import read_regular

PROVENANCE_NAME = "provenance.json"
PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "huggingface_hub",
    "safetensors",
    "numpy",
    "pillow",
    "wandb",
)
"""Packages whose version can change a result."""
PUBLIC_REPOSITORY = re.compile(r"https://[\w.-]+/[\w./-]+")


def provenance(
    settings: Mapping[str, Any],
    *,
    device: str = "",
    data: Mapping[str, Any] | None = None,
    parent: Mapping[str, str] | None = None,
    argv: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The record of what starts now; `finish` completes it. It can be written as JSON.

    `device` is `Runtime.description`, `data` what `data_fingerprint` gives, `parent` the model that
    a run began with, if it did, and `argv` `sys.argv` by default.
    """
    begun_with = {"parent": dict(parent)} if parent else {}
    return begun_with | {
        "started": _now(),
        "finished": None,
        "command": shareable_words(sys.argv if argv is None else argv),
        "settings": shareable(settings),
        "code": code_version(Path(__file__).parents[2]),
        "python": platform.python_version(),
        "packages": package_versions(),
        "data": dict(data or {}),
        "hardware": {"device": device, **hardware()},
    }


def finish(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with the time at which it ended."""
    return {**record, "finished": _now()}


def write_provenance(run_dir: Path, record: Mapping[str, Any], *, resumed: bool) -> Path:
    """Write a session's record to the run's folder, or its newer state; whole or not at all.

    Earlier sessions of a resumed run are kept.
    """
    path = run_dir / PROVENANCE_NAME
    found = read_json(path).get("sessions") if path.exists() else []
    sessions = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    is_same = bool(sessions) and sessions[-1].get("started") == record["started"]
    kept = sessions[:-1] if is_same else sessions if resumed else []
    run_dir.mkdir(parents=True, exist_ok=True)
    write_json(path, {"sessions": [*kept, record]})
    return path


def data_fingerprint(dataset_dir: Path) -> dict[str, Any]:
    """SHA-256 over the splits' `metadata.jsonl` (file names and captions), and pictures a split."""
    digest = hashlib.sha256()
    pictures = {}
    for split in SPLITS:
        path = dataset_dir / split / METADATA_NAME
        content = read_regular(path) if path.exists() else b""
        digest.update(f"{split} {len(content)}\n".encode() + content)
        pictures[split] = sum(bool(line.strip()) for line in content.split(b"\n"))
    return {"name": dataset_dir.name, "sha256": digest.hexdigest(), "pictures": pictures}


def code_version(folder: Path) -> dict[str, Any] | None:
    """Commit of the git repository whose root is `folder`, whether files differ from it, and where
    it was cloned from, if that is a plain https address.

    None where the folder is no clone, or git is missing.
    """
    root = _git(folder, "rev-parse", "--show-toplevel")
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    if root is None or commit is None or changes is None or not folder.samefile(root):
        return None
    found: dict[str, Any] = {"commit": commit, "dirty": bool(changes)}
    remote = _git(folder, "config", "--get", "remote.origin.url") or ""
    if PUBLIC_REPOSITORY.fullmatch(remote):  # without a name or a token in it
        found["repository"] = remote
    return found


def package_versions() -> dict[str, str]:
    """Versions of those of `PACKAGES` that are installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def hardware() -> dict[str, Any]:
    """The processor, its cores that we may use, and memory in bytes (None where not told)."""
    try:
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        memory_bytes = None
    has_affinity = hasattr(os, "sched_getaffinity")
    return {
        "processor": _processor_name(),
        "cores": len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count(),
        "memory_bytes": memory_bytes,
        "system": platform.platform(),
    }


def _git(folder: Path, *words: str) -> str | None:
    """What git prints about `folder` itself, whatever GIT_DIR says; None where it fails."""
    environment = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def _processor_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = [line for line in file if line.startswith("model name")]
    except OSError:
        lines = []
    return lines[0].partition(":")[2].strip() if lines else platform.processor()


def _now() -> str:
    """UTC in ISO 8601, to the microsecond: it also tells sessions apart."""
    return datetime.now(UTC).isoformat()
