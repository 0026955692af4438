"""What options of the decoder and of its training bring: each against the defaults, seed by seed.

    python prepare_dataset.py --DATASET photos --IMAGE_DIR photos --CAPTIONS_FILE captions.txt
    python benchmarks/decoder_options.py --data data/photos --epochs 8 --json photos.json

A small decoder is trained on the frozen features of a checkpoint's encoder, with the defaults and
with each change, with the same seeds. Each result is written to the JSON file as it comes; the same
command goes on where it stopped. The features are kept beside that file. The validation loss has no
label smoothing and is counted a caption, not a token, so that vocabularies can be compared.
"""

import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from torch import Tensor, nn

from captioning.decoding import SearchOptions
from captioning.decoding.attention import KeysValues, KVCache
from captioning.sources.images import load_image
from captioning.sources.records import Record, read_records
from captioning.store.views import TrainingPictures
from captioning.system.errors import UserError, run_command
from captioning.system.files import write_json
from captioning.system.options import parse_options
from captioning.system.runtime import Runtime
from captioning.system.tensors import read_tensors, save_tensors
from captioning.training.packing import Packing
from captioning.training.weight_average import WeightAverage
from checkpoint import load_encoder, read_checkpoint
from config import Config
from dataset import CaptionDataset, PreparedSteps, Split
from model import (
    CaptionModel,
    DecoderBlock,
    Projection,
    TransformerDecoder,
)
from optimization import (
    CrossEntropy,
    Gradients,
    Schedule,
    build_optimizer,
    set_learning_rate,
    train_step,
)
from pipeline import CaptionPipeline
from tokenizer import train_tokenizer
from validation import validate

SMALL = {
    "PROJECTION_DIM": 128,
    "DECODER_EMBED_DIM": 128,
    "DECODER_LAYERS": 2,
    "DECODER_HEADS": 4,
    "DECODER_FF_DIM": 256,
    "MAX_SEQ_LEN": 128,  # the smallest vocabulary cuts no caption
    "BATCH_SIZE": 64,
    "LEARNING_RATE": 2e-3,
}
"""What makes the model small; all else is as `Config` has it."""
DECAYS = (0.9, 0.99)
BASE = "defaults"
RUNTIME = Runtime(torch.device("cpu"))


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to train on, and how long."""

    data: str = "data/demo"
    """Folder of a prepared data set."""
    checkpoint: str = "checkpoints/demo/best"
    """Its encoder makes the features."""
    epochs: int = 2
    """Epochs of each training."""
    vocabularies: str = "512 300 400"
    """VOCAB_SIZE of the defaults, and those to compare with it."""
    seeds: str = "0 1 2"
    """Seeds of each change."""
    limit: int = 0
    """Trainings of this call at most (0 = all)."""
    json: str = "decoder_options.json"
    """File of the results, which a later call goes on with."""


@dataclass(frozen=True)
class Change:
    """One departure from the defaults."""

    settings: dict[str, Any] = field(default_factory=dict)
    swap: Callable[[CaptionModel], None] = lambda model: None
    """What to change in the new model."""


class PostNormBlock(DecoderBlock):
    """The block of Vaswani et al. (2017): each sum is normalised."""

    def forward(
        self,
        x: Tensor,
        packing: Packing,
        memory: KeysValues,
        cache: KVCache | None = None,
        weights: list[Tensor] | None = None,
    ) -> Tensor:
        """(N, D) -> (N, D)."""
        x = self.norm_self(x + self.dropout(self.self_attention(x, packing, cache)))
        x = self.norm_cross(x + self.dropout(self.cross_attention(x, packing, memory, weights)))
        return self.norm_ff(x + self.dropout(self.feed_forward(x)))


def post_norm(model: CaptionModel) -> None:
    """Normalise after each branch instead of before; the last norm is the last block's."""
    for block in model.decoder.blocks:
        block.__class__ = PostNormBlock
    model.decoder.set_submodule("norm", nn.Identity())


def rms_norm(model: CaptionModel) -> None:
    """RMSNorm (Zhang & Sennrich, 2019) in place of every LayerNorm of the decoder."""
    for module in list(model.decoder.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.LayerNorm):
                setattr(module, name, nn.RMSNorm(child.normalized_shape, eps=child.eps))


class UntiedDecoder(TransformerDecoder):
    """Its logits come of a matrix of their own."""

    output: nn.Linear

    def logits(self, x: Tensor) -> Tensor:
        """(N, D) -> (N, V)."""
        return self.output(x)


class BiasedDecoder(TransformerDecoder):
    """Its logits have a bias."""

    bias: nn.Parameter

    def logits(self, x: Tensor) -> Tensor:
        """(N, D) -> (N, V)."""
        return nn.functional.linear(x, self.embedding.weight, self.bias)


def untied(model: CaptionModel) -> None:
    """A matrix of its own for the output."""
    vocab_size, dim = model.decoder.embedding.weight.shape
    output = nn.Linear(dim, vocab_size, bias=False)
    nn.init.normal_(output.weight, std=dim**-0.5)
    model.decoder.output = output
    model.decoder.__class__ = UntiedDecoder


def output_bias(model: CaptionModel) -> None:
    """A number for each entry of the vocabulary, added to its logit."""
    decoder = model.decoder
    decoder.bias = nn.Parameter(torch.zeros(decoder.embedding.num_embeddings))
    decoder.__class__ = BiasedDecoder


def projection_depth(depth: int) -> Callable[[CaptionModel], None]:
    """A projection of `depth` linear layers with GELU between."""

    def swap(model: CaptionModel) -> None:
        assert isinstance(model.projection, Projection)
        first, last = model.projection.mlp[0], model.projection.mlp[-1]
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        layers: list[nn.Module] = [nn.Linear(first.in_features, last.out_features)]
        for _ in range(depth - 1):
            layers += [nn.GELU(), nn.Linear(last.out_features, last.out_features)]
        model.projection.mlp = nn.Sequential(*layers)

    return swap


def changes(vocabularies: str) -> dict[str, Change]:
    """Every change by its name, the defaults first."""
    usual, *others = map(int, vocabularies.split())
    return {
        BASE: Change({"VOCAB_SIZE": usual}),
        "RMSNorm": Change(swap=rms_norm),
        "post-norm": Change(swap=post_norm),
        "untied embeddings": Change(swap=untied),
        "output bias": Change(swap=output_bias),
        "no label smoothing": Change({"LABEL_SMOOTHING": 0.0}),
        "label smoothing 0.2": Change({"LABEL_SMOOTHING": 0.2}),
        "no dropout": Change({"DECODER_DROPOUT": 0.0}),
        "dropout 0.3": Change({"DECODER_DROPOUT": 0.3}),
        "projection of 1 layer": Change(swap=projection_depth(1)),
        "projection of 3 layers": Change(swap=projection_depth(3)),
        **{f"vocabulary {size}": Change({"VOCAB_SIZE": size}) for size in others},
    }


class Rows:
    """Features in memory."""

    def __init__(self, features: Tensor) -> None:
        self.features = features

    def rows(self, indices: Tensor) -> Tensor:
        """(B, P, F) of row numbers."""
        return self.features[indices]


class Bench:
    """The data with its features, and one training at a time."""

    def __init__(self, options: Options) -> None:
        """Read the records, encode the pictures once."""
        self.options = options
        self.records = {
            split: read_records(Path(options.data) / split, mend="python prepare_dataset.py")
            for split in ("train", "validation")
        }
        self.encoder = load_encoder(read_checkpoint(Path(options.checkpoint)))
        self.encoder.requires_grad_(False)
        self.rows = {split: self._rows(split) for split in self.records}

    @torch.inference_mode()
    def _rows(self, split: str) -> Rows:
        """The features, kept beside the JSON file from one call to the next."""
        path = Path(f"{self.options.json}.{split}.safetensors")
        if not path.exists():
            paths = [record.image for record in self.records[split]]
            encoder = self.encoder.eval()
            parts = []
            for start in range(0, len(paths), 64):
                images = [load_image(one) for one in paths[start : start + 64]]
                parts.append(encoder(torch.stack([encoder.preprocess(one) for one in images])))
            save_tensors({"features": torch.cat(parts)}, path)
        return Rows(read_tensors(path)["features"])

    def train(self, change: Change, seed: int, *, is_base: bool) -> dict[str, Any]:
        """Train once; the numbers of the end, and of averages of the weights where `is_base`."""
        began = time.monotonic()
        usual = changes(self.options.vocabularies)[BASE].settings
        config = Config(**(SMALL | usual | change.settings), RANDOM_SEED=seed)
        records = self.records
        texts = [text for one in records["train"] for text in one.captions]
        tokenizer = train_tokenizer(texts, config.VOCAB_SIZE)
        torch.manual_seed(seed)
        _, patches, width = self.rows["train"].features.shape
        model = CaptionModel.from_config(
            config, patches=patches, feature_dim=width, vocab_size=len(tokenizer)
        )
        change.swap(model)
        pipeline = CaptionPipeline(self.encoder, model, tokenizer, RUNTIME, config.MAX_SEQ_LEN)
        averages = [WeightAverage({"model": model}, decay) for decay in DECAYS if is_base]
        found: dict[str, Any] = {}
        for step, steps in self._steps(pipeline, records["train"], config):
            for average in averages:
                average.update(step)
            if step == steps or (is_base and step == steps // 2):
                point = "end" if step == steps else "half"
                found[point] = self._measure(pipeline, records["validation"], config.BEAM_SIZE)
                for average in averages:
                    with average.applied():
                        found[f"average {average.decay} at {point}"] = self._measure(
                            pipeline, records["validation"], config.BEAM_SIZE
                        )
        return found | {"vocabulary": len(tokenizer), "seconds": time.monotonic() - began}

    def _steps(
        self, pipeline: CaptionPipeline, records: Sequence[Record], config: Config
    ) -> Iterator[tuple[int, int]]:
        """Train; after each update its number and how many there will be."""
        optimizer = build_optimizer(
            pipeline.model,
            pipeline.encoder,
            learning_rate=config.LEARNING_RATE,
            encoder_learning_rate=0.0,
            weight_decay=config.WEIGHT_DECAY,
            betas=(config.ADAM_BETA1, config.ADAM_BETA2),
            eps=config.ADAM_EPS,
        )
        gradients = Gradients(
            pipeline.model, pipeline.encoder, RUNTIME, CrossEntropy(config.LABEL_SMOOTHING)
        )
        data = PreparedSteps(
            records,
            CaptionDataset(records, pipeline.tokenizer, config.MAX_SEQ_LEN),
            TrainingPictures(self.rows["train"], seed=config.RANDOM_SEED),  # type: ignore[arg-type]
            RUNTIME,
            batch_size=config.BATCH_SIZE,
            seed=config.RANDOM_SEED,
            captions_per_step=2,
        )
        epochs = range(self.options.epochs)
        schedule = Schedule(sum(map(data.length, epochs)), config.WARMUP_STEPS)
        pipeline.model.train()
        for number, step in enumerate(step for epoch in epochs for step in data.iterate(epoch)):
            set_learning_rate(optimizer, schedule.factor(number))
            RUNTIME.seed_step(config.RANDOM_SEED, number)
            train_step(gradients, optimizer, step, clip_norm=config.GRAD_CLIP_VALUE)
            yield number + 1, schedule.total_steps

    def _measure(
        self, pipeline: CaptionPipeline, records: Sequence[Record], beam_size: int
    ) -> dict[str, float]:
        """The validation loss a caption, and CIDEr against the captions as people wrote them."""
        captions = CaptionDataset(records, pipeline.tokenizer, pipeline.max_length)
        metrics = validate(
            pipeline,
            Split(self.records["validation"], captions, self.rows["validation"]),
            batch_size=256,
            num_images=-1,
            options=SearchOptions.of_beams(beam_size),
        ).metrics
        texts = [text for one in records for text in one.captions]
        tokens = sum(len(ids) - 1 for ids in pipeline.tokenizer.encode_all(texts))
        return {"loss": metrics["validation_loss"] * tokens / len(texts), "CIDEr": metrics["CIDEr"]}


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is not in the JSON file yet, then print the table."""
    options = parse_options(Options, sys.argv[1:] if argv is None else argv, description=__doc__)
    path = Path(options.json)
    about = asdict(replace(options, limit=0, seeds=""))
    results = json.loads(path.read_text()) if path.exists() else {"about": about, "runs": {}}
    if results["about"] != about:
        raise UserError(f"{path} was made with other options; name another file: --json FILE")
    waiting = [
        (name, seed)
        for seed in options.seeds.split()
        for name in changes(options.vocabularies)
        if seed not in results["runs"].get(name, {})
    ]
    if waiting:
        bench = Bench(options)
    for name, seed in waiting[: options.limit or None]:
        change = changes(options.vocabularies)[name]
        found = bench.train(change, int(seed), is_base=name == BASE)
        results["runs"].setdefault(name, {})[seed] = found
        write_json(path, results)
        print(name, seed, json.dumps(found), flush=True)
    print_table(results["runs"])
    return 0


def print_table(runs: dict[str, dict[str, Any]]) -> None:
    """The defaults in absolute numbers, each change as its difference with the same seed."""
    base = runs.get(BASE, {})
    pairs = {
        name: [(run["end"], base[seed]["end"]) for seed, run in some.items() if seed in base]
        for name, some in runs.items()
        if name != BASE
    }
    for point in ("half", "end"):
        for decay in DECAYS:
            name = f"average {decay} at {point}"
            pairs[name] = [(run[name], run[point]) for run in base.values()]
    print(f"{'mean ± deviation over seeds':30}{'loss a caption':>20}{'CIDEr':>20}  seeds")
    for point in ("half", "end"):
        print_row(f"{BASE} at {point}", [(run[point], None) for run in base.values()])
    for name, some in pairs.items():
        print_row(name, some)


def print_row(name: str, pairs: Sequence[tuple[dict[str, float], dict[str, float] | None]]) -> None:
    """What was found, or how it differs from what it stands beside."""
    cells = []
    for kind in ("loss", "CIDEr"):
        values = [one[kind] - (other[kind] if other else 0.0) for one, other in pairs]
        mean = statistics.mean(values) if values else math.nan
        spread = statistics.stdev(values) if len(values) > 1 else math.nan
        cells.append(f"{mean:+.3f} ± {spread:.3f}")
    print(f"{name:30}{cells[0]:>20}{cells[1]:>20}  {len(pairs)}")


if __name__ == "__main__":
    run_command(main)
