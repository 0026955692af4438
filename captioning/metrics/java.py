"""METEOR and SPICE, which only Java computes, where Java and their files are there.

Run the programs that the package `pycocoevalcap` brings (`pip install -e .[java]`), with a time
limit, in a temporary folder, without its Python code, which hangs, downloads or leaves files
behind where something is amiss. Whatever goes wrong becomes a reason in one line.
"""

import contextlib
import importlib.util
import json
import math
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from captioning.metrics import tokenize_captions
from captioning.metrics.ngrams import FloatArray

METEOR_JAR = "meteor/meteor-1.5.jar"
METEOR_PARAPHRASES = "meteor/data/paraphrase-en.gz"
SPICE_JAR = "spice/spice-1.0.jar"
SPICE_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
TIMEOUT_SECONDS = 900.0
SEPARATOR = " ||| "


@dataclass(frozen=True)
class JavaScores:
    """What a Java program gave, or why it gave nothing."""

    corpus: float | None
    per_image: FloatArray | None
    """In the order of the candidates; [N]."""
    skipped: str | None = None
    """The reason in one line, where there are no scores."""


class _UnavailableError(Exception):
    """The program cannot run, or did not do its work; the text is the reason."""


def meteor(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> JavaScores:
    """METEOR 1.5 (Denkowski and Lavie, 2014) of one caption a picture, as coco-caption has it."""
    captions, others = _tokenized(candidates, references)
    try:
        jar = _package_file(METEOR_JAR)
        _package_file(METEOR_PARAPHRASES)
        command = [
            *("-Xmx2G", "-Dfile.encoding=UTF-8", "-jar", str(jar)),
            *("-", "-", "-stdio", "-l", "en", "-norm"),
        ]
        with _java(command, timeout_seconds) as process:
            values = _converse_with_meteor(process, captions, others)
    except _UnavailableError as reason:
        return JavaScores(None, None, f"METEOR did not run: {reason}")
    return JavaScores(values[-1], np.array(values[:-1]))


def spice(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> JavaScores:
    """SPICE 1.0 (Anderson et al., 2016) of one caption a picture, as coco-caption has it."""
    captions, others = _tokenized(candidates, references)
    try:
        jar = _package_file(SPICE_JAR)
        for model in SPICE_MODELS:
            _package_file(f"spice/lib/{model}")
        with tempfile.TemporaryDirectory(prefix="spice-") as folder:
            rows = [
                {"image_id": row, "test": caption, "refs": texts}
                for row, (caption, texts) in enumerate(zip(captions, others, strict=True))
            ]
            asked, answered = Path(folder, "captions.json"), Path(folder, "scores.json")
            asked.write_text(json.dumps(rows), encoding="utf-8")
            command = [
                *("-Xmx8G", "-Dfile.encoding=UTF-8", "-jar", str(jar), str(asked)),
                *("-out", str(answered), "-subset", "-silent"),
            ]
            with _java(command, timeout_seconds) as process:
                process.communicate()
            values = _read_spice(answered, len(captions))
    except _UnavailableError as reason:
        return JavaScores(None, None, f"SPICE did not run: {reason}")
    return JavaScores(float(np.mean(values)), values)


def _tokenized(
    candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    captions = tokenize_captions(list(candidates.values()))
    return captions, [tokenize_captions(references[picture]) for picture in candidates]


def _package_file(name: str) -> Path:
    """A file of pycocoevalcap, which is found but never imported."""
    package = importlib.util.find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        raise _UnavailableError("pycocoevalcap is not installed; pip install -e .[java]")
    path = Path(package.submodule_search_locations[0], name)
    if not path.is_file():
        raise _UnavailableError(f"{path} is missing; put it there, it is never downloaded")
    return path


@contextlib.contextmanager
def _java(arguments: Sequence[str], timeout_seconds: float) -> Iterator[subprocess.Popen[str]]:
    """A running Java; `_UnavailableError` where it is missing, fails, or takes too long."""
    java = shutil.which("java")
    if java is None:
        raise _UnavailableError("there is no command `java`; install Java 8 or newer")
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:
        try:
            process = subprocess.Popen(
                [java, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                encoding="utf-8",
                start_new_session=True,
            )
        except OSError as error:
            raise _UnavailableError(f"{java} cannot be started: {error.strerror}") from None
        expired = threading.Event()

        def give_up() -> None:
            expired.set()
            _kill(process)

        timer = threading.Timer(timeout_seconds, give_up)
        timer.start()
        failure = ""
        try:
            yield process
            if process.returncode:
                failure = f"exit code {process.returncode}"
        except (OSError, ValueError) as error:
            failure = str(error)
        finally:
            timer.cancel()
            _kill(process)
            _close_pipes(process)
        if expired.is_set():
            raise _UnavailableError(f"it took longer than {timeout_seconds:g} seconds")
        if failure:
            raise _UnavailableError(_last_line(complaints) or failure)


def _kill(process: subprocess.Popen[str]) -> None:
    """End Java and whatever it started: the command `java` may be a script."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _close_pipes(process: subprocess.Popen[str]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            # What was not read by Java cannot be flushed any more.
            with contextlib.suppress(OSError):
                pipe.close()


def _last_line(complaints: IO[str]) -> str:
    complaints.seek(0)
    lines = [line.strip() for line in complaints if line.strip()]
    return lines[-1][:200] if lines else ""


def _converse_with_meteor(
    process: subprocess.Popen[str], captions: Sequence[str], others: Sequence[Sequence[str]]
) -> list[float]:
    """The score of each caption, and of all at the end; `ValueError` for what is no number."""
    statistics = []
    for caption, texts in zip(captions, others, strict=True):
        parts = (text.replace(SEPARATOR.strip(), "") for text in (*texts, caption))
        statistics.append(_ask(process, SEPARATOR.join(("SCORE", *parts))))
    values = [float(_ask(process, SEPARATOR.join(("EVAL", *statistics))))]
    values += [float(_answer(process)) for _ in captions]
    if not all(map(math.isfinite, values)):
        raise ValueError("it gave a score that is not a number")
    return values


def _ask(process: subprocess.Popen[str], line: str) -> str:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return _answer(process)


def _answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise ValueError("it ended without an answer")
    return line.strip()


def _read_spice(path: Path, size: int) -> FloatArray:
    """The F-scores that SPICE wrote, in the order asked; [size]."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        values = {int(row["image_id"]): float(row["scores"]["All"]["f"]) for row in rows}
        scores = np.array([values[row] for row in range(size)])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _UnavailableError(f"it wrote no scores that can be read ({error!r})") from None
    if not np.isfinite(scores).all():
        raise _UnavailableError("it gave a score that is not a number")
    return scores
