"""Pictures and captions of any source become a prepared data set: `DATA_DIR/<name>`.

    python prepare_dataset.py                                         # Flickr30k from the Hub
    python prepare_dataset.py --DATASET flickr30k --DATASET_SOURCE flickr30k.zip
    python prepare_dataset.py --DATASET mine --IMAGE_DIR pictures --CAPTIONS_FILE captions.csv

Reads a source (`sources.py`) or draws the demo (`scenes.py`); writes what `prepared.py` describes.
All is made in `DATA_DIR/<name>.partial`, from which an interrupted call goes on, and renamed when
it is whole. A second call finds nothing to do.
"""

import difflib
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from captioning.sources.origins import Source, files_fingerprint, files_source, hub_source
from captioning.sources.prepared import (
    PREPARED_NAME,
    PROBLEMS_NAME,
    SplitRules,
    Summary,
    read_marker,
    summary_of,
    write_marker,
    write_prepared,
)
from captioning.sources.records import SPLITS
from captioning.streaming.held_out import held_out_source
from captioning.streaming.shards import find_sources
from captioning.system.errors import EXIT_DONE, UserError, run_command
from captioning.system.progress import Progress
from config import Config, parse_config, split_revision


@dataclass(frozen=True)
class HubPlace:
    """Where the Hub has a data set."""

    names: tuple[str, ...]
    revision: str = ""


FLICKR30K = HubPlace(("nlphuji/flickr30k",), "refs/convert/parquet")
FLICKR8K = HubPlace(("jxie/flickr8k",))
COCO = HubPlace(tuple(f"Multimodal-Fatima/COCO_captions_{split}" for split in SPLITS))


def prepare_dataset(config: Config) -> Summary:
    """Make the data set of `config` if it is not there, and print what it holds.

    Raises `UserError` for a source that cannot be used.
    """
    if config.IMAGE_DIR:
        return prepare_files(config)
    others = prepare_held_out if config.STREAM else prepare_hub
    return PREPARERS.get(config.dataset[0], others)(config)


def prepare_flickr30k(config: Config) -> Summary:
    """Flickr30k with Karpathy's splits: 29,000 / 1,014 / 1,000 pictures."""
    return _prepare(config, lambda folder: _write(config, folder, _published(config, FLICKR30K)))


def prepare_flickr8k(config: Config) -> Summary:
    """Flickr8k with its splits: 6,000 / 1,000 / 1,000 pictures."""
    return _prepare(config, lambda folder: _write(config, folder, _published(config, FLICKR8K)))


def prepare_coco(config: Config) -> Summary:
    """COCO with Karpathy's splits, `restval` in train: 113,287 / 5,000 / 5,000 pictures."""
    return _prepare(config, lambda folder: _write(config, folder, _published(config, COCO)))


def prepare_hub(config: Config) -> Summary:
    """Any data set of the Hub with a column of pictures and one of captions."""
    return _prepare(config, lambda folder: _write(config, folder, _by_hub_name(config)))


def prepare_files(config: Config) -> Summary:
    """One's own pictures: IMAGE_DIR with CAPTIONS_FILE."""
    return _prepare(
        config,
        lambda folder: _write(config, folder, files_source(config.IMAGE_DIR, config.CAPTIONS_FILE)),
    )


def prepare_held_out(config: Config) -> Summary:
    """The first pictures of a stream, for validation and test."""

    def hold_out(folder: Path) -> Summary:
        source = held_out_source(find_sources(config.STREAM), config.HELD_OUT_FRACTION)
        return _write(config, folder, source)

    return _prepare(config, hold_out)


def prepare_demo(config: Config) -> Summary:
    """Drawn scenes, without any download; their splits are by scene."""

    def draw(folder: Path) -> Summary:
        from captioning.scenes import DEFAULT_COUNT, write_scenes

        shutil.rmtree(folder, ignore_errors=True)
        with Progress("scenes", DEFAULT_COUNT, unit="scenes", has_lines=False) as bar:
            write_scenes(folder, seed=config.RANDOM_SEED, progress=bar.advance)
        return replace(summary_of(folder, "drawn scenes"), has_own_splits=True)

    return _prepare(config, draw)


PREPARERS: dict[str, Callable[[Config], Summary]] = {
    "flickr30k": prepare_flickr30k,
    "flickr8k": prepare_flickr8k,
    "coco": prepare_coco,
    "demo": prepare_demo,
}


def _prepare(config: Config, make: Callable[[Path], Summary]) -> Summary:
    """`make` the data set unless it is there.

    One that is there is used as it is, unless settings name a source (IMAGE_DIR, DATASET_SOURCE,
    a revision) and that is another one than it was made from, or its files have changed.
    """
    try:
        return _prepare_unless_done(config, make)
    except OSError as error:
        raise UserError(
            f"{config.dataset_dir} could not be made: {error}. Mend that and give the same command "
            "again; it goes on from there."
        ) from error


def _prepare_unless_done(config: Config, make: Callable[[Path], Summary]) -> Summary:
    folder = config.dataset_dir
    names_source = bool(config.IMAGE_DIR or config.DATASET_SOURCE or _hub_place(config)[1])
    prepared = read_marker(folder)
    settings = _settings(config)
    if prepared and (not names_source or prepared[1]["source"] == settings["source"]):
        print(_nothing_to_do(folder, *prepared, settings))
        return prepared[0]
    if (folder / PREPARED_NAME).exists():
        reason = "was made from something else" if prepared else "is no longer whole"
        print(f"{folder} {reason}; it stays until the new one is made.", file=sys.stderr)
    elif folder.exists() and any(folder.iterdir()):
        return _adopt(folder, names_source)
    partial = folder.with_name(f"{folder.name}.partial")
    summary = make(partial)
    write_marker(partial, summary, settings)
    _replace_folder(partial, folder)
    print(_report(folder, summary, config.RANDOM_SEED))
    return summary


def _settings(config: Config) -> dict[str, Any]:
    """What decides the content of a prepared data set, as prepared.json keeps it."""
    where, revision = _hub_place(config)
    places = [config.IMAGE_DIR, config.CAPTIONS_FILE, where]
    paths = [os.path.abspath(place) if os.path.exists(place) else place for place in places]
    return {
        "source": [*paths, revision, files_fingerprint(*paths)],
        "splits": [config.RANDOM_SEED, *[config.HELD_OUT_FRACTION] * 2],
    }


def _nothing_to_do(
    folder: Path, summary: Summary, made: dict[str, Any], asked: dict[str, Any]
) -> str:
    text = f"{folder} is prepared, nothing to do: {summary}."
    if summary.has_own_splits and made["splits"] != asked["splits"]:
        seed, *shares = made["splits"]
        text += (
            f"\nIts splits stay as they were drawn, with RANDOM_SEED {seed} and HELD_OUT_FRACTION "
            f"{max(shares):g}; remove {folder} to draw them anew."
        )
    return text


def _adopt(folder: Path, names_source: bool) -> Summary:
    """A folder that somebody else has put there is used, or left alone."""
    summary = None if names_source else summary_of(folder, "as it was found")
    if not summary or not summary.pictures:
        raise UserError(
            f"{folder} holds files that this command did not write; remove it, or choose another "
            "DATASET or DATA_DIR."
        )
    print(f"{folder} is used as it was found: {summary}.")
    return summary


def _published(config: Config, place: HubPlace) -> Source:
    """DATASET_SOURCE, on disk or on the Hub, or the usual place on the Hub."""
    where, revision = _hub_place(config)
    where = os.path.expanduser(where)
    path = Path(where)
    if not where:
        return hub_source(place.names, revision or place.revision)
    if path.is_dir() and next(path.rglob("*.parquet"), None):
        return hub_source([where])
    is_path = path.is_absolute() or where.startswith(".") or where.count("/") != 1
    if path.exists() or is_path or path.suffix == ".zip":
        return files_source(where)
    return hub_source([where], revision)


def _hub_place(config: Config) -> tuple[str, str]:
    """DATASET_SOURCE ("" = the usual place of DATASET) and the revision that either names."""
    where, revision = split_revision(config.DATASET_SOURCE)
    return where, revision or config.dataset[1]


def _by_hub_name(config: Config) -> Source:
    if "/" not in config.DATASET and not config.DATASET_SOURCE:
        close = difflib.get_close_matches(config.DATASET, PREPARERS, n=1)
        raise UserError(
            f"There is no data set {config.DATASET} in {config.DATA_DIR}, and it is none of "
            f"{', '.join(PREPARERS)}; {f'did you mean {close[0]}? Else ' if close else ''}name a "
            "Hub data set (user/name), or your own pictures with --IMAGE_DIR and --CAPTIONS_FILE."
        )
    return _published(config, HubPlace((config.dataset[0],)))


def _write(config: Config, folder: Path, source: Source) -> Summary:
    rules = SplitRules(config.RANDOM_SEED, *[config.HELD_OUT_FRACTION] * 2)
    workers = min(8, os.cpu_count() or 1) if config.NUM_WORKERS < 0 else config.NUM_WORKERS
    return write_prepared(
        folder, source, rules, max_bad_fraction=config.MAX_BAD_FRACTION, workers=workers
    )


def _replace_folder(made: Path, folder: Path) -> None:
    """Put `made` where `folder` is, with everything on the disk before the name changes."""
    if hasattr(os, "sync"):
        os.sync()
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(made, folder)
    shutil.rmtree(old, ignore_errors=True)


def _report(folder: Path, summary: Summary, seed: int) -> str:
    lines = [f"{folder}: {summary}, from {summary.source}."]
    if summary.has_own_splits:
        lines.append(f"Splits were drawn here, by picture, with RANDOM_SEED {seed}.")
    check = "Split check: no picture, compared by content, is in two splits"
    if summary.left_out:
        check += f"; {summary.left_out:,} that the source has in two were left out of one"
    lines.append(f"{check}.")
    if summary.problems:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in summary.problems.items())
        lines.append(f"Not used: {kinds}; see {folder / PROBLEMS_NAME}.")
    if summary.unused:
        lines.append(f"{summary.unused:,} picture files have no captions and were left aside.")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    prepare_dataset(parse_config(argv, description="Prepare a data set for training."))
    return EXIT_DONE


if __name__ == "__main__":
    run_command(main)
