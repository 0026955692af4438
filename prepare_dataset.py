"""Pictures and captions of any source become a prepared data set: `DATA_DIR/<name>`.

    python prepare_dataset.py                                         # Flickr30k from the Hub
    python prepare_dataset.py --DATASET flickr30k --DATASET_SOURCE flickr30k.zip
    python prepare_dataset.py --DATASET mine --IMAGE_DIR pictures --CAPTIONS_FILE captions.csv

Reads a source (`captioning.sources.origins`) or draws the demo (`captioning.scenes`); writes what
`captioning.sources.prepared` describes. All is made in `DATA_DIR/<name>.partial`, from which an
interrupted call goes on, and renamed when it is whole. A second call finds nothing to do.
"""

import difflib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from captioning.sources.captions_beside import WITH_PICTURES, captions_paths
from captioning.sources.folder_source import files_source
from captioning.sources.origins import (
    Source,
    files_fingerprint,
    holds_tables_of_pictures,
    hub_source,
)
from captioning.sources.prepared import (
    Summary,
    prepare_folder,
    summary_of,
    write_prepared,
)
from captioning.sources.records import SPLITS
from captioning.streaming.held_out import held_out_source
from captioning.streaming.shards import find_sources
from captioning.system.errors import EXIT_DONE, UserError, run_command
from captioning.system.privacy import mask_urls
from captioning.system.processes import worker_count
from captioning.system.progress import Progress
from config import Config, parse_config, split_revision


@dataclass(frozen=True)
class HubPlace:
    """Where the Hub has a data set."""

    names: tuple[str, ...]
    revision: str = ""


KNOWN = {
    "flickr30k": HubPlace(("nlphuji/flickr30k",), "refs/convert/parquet"),
    "flickr8k": HubPlace(("jxie/flickr8k",)),
    "coco": HubPlace(tuple(f"Multimodal-Fatima/COCO_captions_{split}" for split in SPLITS)),
}
"""With Karpathy's splits, COCO's `restval` in train: 29,000 / 1,014 / 1,000 pictures, 6,000 / 1,000
/ 1,000, and 113,287 / 5,000 / 5,000."""
DEMO = "demo"


def prepare_dataset(config: Config) -> Summary:
    """Make the data set of `config` if it is not there, and print what it holds.

    Raises `UserError` for a source that cannot be used.
    """
    is_drawn = config.DATASET == DEMO and not config.IMAGE_DIR
    try:
        return prepare_folder(
            config.dataset_dir,
            partial(draw_demo if is_drawn else write_source, config),
            settings=_settings(config),
            names_source=bool(config.IMAGE_DIR or config.DATASET_SOURCE or _hub_place(config)[1]),
        )
    except OSError as error:
        raise UserError(
            f"{config.dataset_dir} could not be made: {error}. Mend that and give the same command "
            "again; it goes on from there."
        ) from error


def write_source(config: Config, folder: Path) -> Summary:
    """The pictures and captions of a source, with splits by picture."""
    return write_prepared(
        folder,
        source_of(config),
        seed=config.RANDOM_SEED,
        held_out_fraction=config.HELD_OUT_FRACTION,
        max_bad_fraction=config.MAX_BAD_FRACTION,
        workers=worker_count(config.NUM_WORKERS),
    )


def draw_demo(config: Config, folder: Path) -> Summary:
    """Drawn scenes, without any download; their splits are by scene."""
    from captioning.scenes import DEFAULT_COUNT, write_scenes

    for split in SPLITS:  # of a call that was interrupted
        shutil.rmtree(folder / split, ignore_errors=True)
    with Progress("scenes", DEFAULT_COUNT, unit="scenes", has_lines=False) as bar:
        write_scenes(folder, seed=config.RANDOM_SEED, progress=bar.advance)
    return replace(summary_of(folder, "drawn scenes"), has_own_splits=True)


def source_of(config: Config) -> Source:
    """One's own pictures, a data set known by name, the first pictures of a stream, for validation
    and test, or any data set of the Hub with a column of pictures and one of captions."""
    name = config.dataset[0]
    if config.IMAGE_DIR:
        return files_source(config.IMAGE_DIR, config.CAPTIONS_FILE, *_columns(config))
    if name in KNOWN:
        return _published(config, KNOWN[name])
    if config.STREAM:
        return held_out_source(find_sources(config.STREAM), config.HELD_OUT_FRACTION)
    if "/" not in name and not config.DATASET_SOURCE:
        close = difflib.get_close_matches(name, (*KNOWN, DEMO), n=1)
        raise UserError(
            f"There is no data set {name} in {config.DATA_DIR}, and it is none of "
            f"{', '.join((*KNOWN, DEMO))}; {f'did you mean {close[0]}? Else ' if close else ''}"
            "name a Hub data set (user/name), or your own pictures with --IMAGE_DIR and "
            "--CAPTIONS_FILE."
        )
    return _published(config, HubPlace((name,)))


def _settings(config: Config) -> dict[str, Any]:
    """What decides the content of a prepared data set, as prepared.json keeps it."""
    where, revision = _hub_place(config)
    is_file = config.CAPTIONS_FILE not in WITH_PICTURES
    captions = captions_paths(config.CAPTIONS_FILE) if is_file else []
    places = list(map(mask_urls, (config.IMAGE_DIR, config.CAPTIONS_FILE, where)))
    paths = [os.path.abspath(place) if os.path.exists(place) else place for place in places]
    columns = [column for column in (config.IMAGE_COLUMN, config.CAPTION_COLUMN) if column]
    fingerprint = files_fingerprint(config.IMAGE_DIR, *captions, where)
    return {
        "source": [*paths, revision, fingerprint, *([*_columns(config)] if columns else [])],
        "splits": [config.RANDOM_SEED, *[config.HELD_OUT_FRACTION] * 2],
    }


def _columns(config: Config) -> tuple[str, str]:
    """The columns of pictures and of captions that the user names, "" where they are found."""
    return config.IMAGE_COLUMN, config.CAPTION_COLUMN


def _published(config: Config, place: HubPlace) -> Source:
    """DATASET_SOURCE, on disk or on the Hub, or the usual place on the Hub."""
    where, revision = _hub_place(config)
    where = os.path.expanduser(where)
    path = Path(where)
    if not where:
        is_known = place in KNOWN.values()
        revision = revision or place.revision
        return hub_source(place.names, revision, *_columns(config), is_known=is_known)
    if path.is_dir() and holds_tables_of_pictures(path):
        return hub_source([where], "", *_columns(config))
    is_path = path.is_absolute() or where.startswith(".") or where.count("/") != 1
    if path.exists() or is_path or path.suffix == ".zip":
        return files_source(where, "", *_columns(config))
    return hub_source([where], revision, *_columns(config))


def _hub_place(config: Config) -> tuple[str, str]:
    """DATASET_SOURCE ("" = the usual place of DATASET) and the revision that either names."""
    where, revision = split_revision(config.DATASET_SOURCE)
    return where, revision or config.dataset[1]


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    prepare_dataset(parse_config(argv, description="Prepare a data set for training."))
    return EXIT_DONE


if __name__ == "__main__":
    run_command(main)
