"""Encodes each picture of a data set once and keeps the features on disk, for `train.py` to read.

    python features.py                                   Flickr30k with CLIP
    python features.py --config presets/demo.toml
    torchrun --nproc-per-node 8 features.py              several GPUs share the work

Reads a prepared data set; writes DATA_DIR/<name>/features/<encoder>-<fingerprint>/<split>.bin and
.json. What is there and right is used, what is missing is made; an interrupted call goes on where
it was. `train.py` does the same by itself. Where the encoder is trained too, its features change,
and what is kept instead is the pixels that it reads.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from captioning.sources.records import METADATA_NAME, SPLITS, Record, read_records
from captioning.system.errors import EXIT_DONE, UserError, run_command
from captioning.system.files import refuse_links
from captioning.system.processes import ending_together, worker_count
from config import Config, parse_config

if TYPE_CHECKING:
    from captioning.store.building import Contents, RowMaker
    from captioning.store.rows import FeatureStore, LivePictures
    from captioning.store.views import TrainingPictures
    from captioning.streaming.cache import StreamFeatures
    from captioning.system.runtime import Runtime
    from captioning.vision.augmentation import Draws
    from encoder import VisionEncoder

CPU_BATCH_SIZE, GPU_BATCH_SIZE = 32, 256
"""Pictures encoded together."""


def open_stores(
    config: Config,
    encoder: "VisionEncoder",
    runtime: "Runtime",
    records: Mapping[str, Sequence[Record]],
) -> dict[str, "FeatureStore | LivePictures"]:
    """What gives the rows of each split's pictures; `records` are those of the splits wanted.

    Stores, of which all that is missing is made first: of features, or of pixels where part of the
    encoder is trained. With FEATURE_CACHE off, pictures that are decoded each time.
    """
    from captioning.store.building import RowMaker
    from captioning.store.rows import LivePictures

    images = {split: [record.image for record in part] for split, part in records.items()}
    if config.FEATURE_CACHE == "off":
        return {split: LivePictures(part, encoder.preprocessor) for split, part in images.items()}
    contents: Contents = "pixels" if config.ENCODER_TRAINED_BLOCKS else "features"
    maker = RowMaker(encoder.to(runtime.device), runtime, contents=contents)
    return {split: _store(config, maker, part, label=split) for split, part in images.items()}


def training_pictures(
    config: Config,
    encoder: "VisionEncoder",
    runtime: "Runtime",
    records: Sequence[Record],
    plain: "FeatureStore | LivePictures",
    *,
    epoch: int = 0,
) -> "TrainingPictures":
    """What training reads of `records` from `epoch` on; `plain` is what `open_stores` gave.

    Views of the pictures, and the features that epochs before ENCODER_START_EPOCH read, are made
    first where they are missing.
    """
    from captioning.store.building import RowMaker
    from captioning.store.views import TrainingPictures
    from captioning.vision.augmentation import Augmentation
    from captioning.vision.mirroring import mirrored_records

    images = [record.image for record in records]
    start = 0 if config.FEATURE_CACHE == "off" else config.ENCODER_START_EPOCH
    maker = RowMaker(encoder.to(runtime.device), runtime, contents="features")
    early = _store(config, maker, images, label="train") if epoch < start else None
    pictures = TrainingPictures(
        plain, seed=config.RANDOM_SEED, early=early, start_epoch=config.ENCODER_START_EPOCH
    )
    kinds = config.AUGMENTATION
    if kinds == "none":
        return pictures
    may_flip = mirrored_records(records)[1] if "flip" in kinds else [False] * len(records)
    if config.FEATURE_VIEWS == 1:
        seed = config.RANDOM_SEED
        return replace(pictures, augmentation=Augmentation(kinds, seed=seed, may_flip=may_flip))
    # Views are the same for every seed, so that runs share them; which is read is the seed's.
    augmentation = Augmentation(kinds, seed=0, may_flip=may_flip)
    draws = tuple(augmentation.draws(view) for view in range(1, config.FEATURE_VIEWS))
    views = tuple(
        _store(
            config,
            maker,
            images,
            label=f"train-{kinds.replace(',', '-')}-{view}",
            draws=one,
        )
        for view, one in enumerate(draws, start=1)
    )
    return replace(pictures, views=views, view_draws=draws)


def stream_features(
    config: Config, encoder: "VisionEncoder", runtime: "Runtime"
) -> "StreamFeatures | None":
    """What keeps features of a stream's pictures, if FEATURE_CACHE names room for them."""
    from captioning.store.building import RowMaker
    from captioning.streaming.cache import StreamFeatures

    if not config.feature_cache_bytes:
        return None
    maker = RowMaker(encoder, runtime)
    folder = _features_dir(config, maker) / "stream"
    refuse_links(folder.parent)
    return StreamFeatures(folder, maker, config.feature_cache_bytes)


def _store(
    config: Config,
    maker: "RowMaker",
    images: Sequence[Path],
    *,
    label: str,
    draws: "Draws | None" = None,
) -> "FeatureStore":
    from captioning.store.building import build_features

    return build_features(
        images,
        maker,
        _features_dir(config, maker),
        label=label,
        num_workers=worker_count(config.NUM_WORKERS),
        batch_size=CPU_BATCH_SIZE if maker.runtime.device.type == "cpu" else GPU_BATCH_SIZE,
        draws=draws,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Build the stores of all splits and say where they are."""
    config = parse_config(argv, description="Encode each picture of a data set once.")
    if config.FEATURE_CACHE == "off":
        raise UserError("FEATURE_CACHE is off, which leaves nothing to build; leave it out.")
    if config.INIT_CHECKPOINT_PATH:
        raise UserError(
            "INIT_CHECKPOINT_PATH names a model for train.py, which makes the features of its "
            "encoder by itself; leave it out."
        )
    mend = f"python prepare_dataset.py --DATASET {shlex.quote(config.DATASET)}"
    folder = config.dataset_dir
    splits = [split for split in SPLITS if (folder / split / METADATA_NAME).exists()] or SPLITS
    records = {split: read_records(folder / split, mend=mend) for split in splits}
    from captioning.store.rows import FeatureStore
    from captioning.system.runtime import Runtime
    from captioning.training.guards import plain_faults
    from encoder import VisionEncoder

    runtime = Runtime.create(config.DEVICE, config.PRECISION)
    with ending_together(), plain_faults(folder, go_on="give the same command again"):
        encoder = VisionEncoder.from_settings(config)
        stores = open_stores(config, encoder, runtime, records)
        made = list(stores.items())
        if "train" in stores:
            part = training_pictures(config, encoder, runtime, records["train"], stores["train"])
            made += [(view.path.stem, view) for view in part.views]
        for split, store in made:
            if runtime.is_main and isinstance(store, FeatureStore):
                print(f"{split}\t{store.path}\t{len(store):,} pictures\t{store.nbytes:,} bytes")
    return EXIT_DONE


def _features_dir(config: Config, maker: "RowMaker") -> Path:
    refuse_links(config.dataset_dir / "features")
    encoder = re.split(r"[/\\:]", config.encoder[0].rstrip("/\\"))[-1]
    return config.dataset_dir / "features" / f"{encoder}-{maker.key[:12]}"


if __name__ == "__main__":
    run_command(main)
