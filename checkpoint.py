"""Self-contained checkpoint folders: safetensors, JSON and TOML, written whole or not at all.

    config.toml               the settings of the run
    model.safetensors         projection and decoder; the encoder too where it was trained, ever
    tokenizer.json            the vocabulary
    preprocessor_config.json  the image processor
    encoder_config.json       the encoder's architecture, where its weights are in the checkpoint
    decoder_config.json       the decoder's architecture, where it is a GPT-2
    metrics.json              the scores at that step
    README.md                 the model card
    checkpoint.json           format version, the encoder's name and fingerprint, checksums, and
                              which model the run began with
    optimizer.safetensors     to go on training: AdamW's moments   (`last` only)
    adapters.safetensors      to go on training: LoRA adapters     (`last` only)
    trainer_state.json        to go on training: step, order, best (`last` only)
    average.safetensors       to go on training: the weights' average, with EMA_DECAY (`last` only)

A folder or repository of a ViT-GPT2, as transformers saves one, is read like a checkpoint too
(`captioning.gpt2`); it holds a model alone.

How a folder is kept whole is in `captioning.system.folders`. Nothing in it is pickled, nothing is
executed.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captioning.decoding import Usual
from captioning.gpt2.architecture import GPT2Architecture, read_architecture
from captioning.gpt2.folder import ViTGPT2, is_foreign, open_captioner
from captioning.sources.images import load_image
from captioning.sources.prepared import read_marker
from captioning.system.errors import UserError
from captioning.system.files import read_json, write_json, write_text
from captioning.system.folders import (
    MANIFEST,
    UNFINISHED_SUFFIX,
    check_files,
    parent_in,
    read_manifest,
    remove,
    written_whole,
)
from captioning.system.privacy import mask_urls
from captioning.system.runtime import Runtime
from captioning.system.tensors import (
    built_within,
    fill_tensors,
    read_tensors,
    save_tensors,
    tensor_shapes,
)
from captioning.tracking.provenance import PROVENANCE_NAME, data_fingerprint
from captioning.training.sharding import full_tensor, part_like
from captioning.training.train_state import (
    OLDER_NAME,
    STATE,
    TrainState,
    older_name,
    read_state,
)
from captioning.training.weight_average import WeightAverage
from captioning.vision.tower_features import FeatureChoice
from config import Config, dump_config, load_config, split_revision
from encoder import VisionEncoder
from model import CaptionModel, DecoderState
from pipeline import CaptionPipeline
from tokenizer import CaptionTokenizer

SPARE_NUMBERS = 10**6
"""More than a file holds may be asked of it, so that what is missing is told by name."""
MOST_SCORE = 1e15
METRICS_OF_TEXT = ("tokenizer",)
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
DECODER = "decoder_config.json"
ADAPTERS, AVERAGE = "adapters.safetensors", "average.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder that has been read and found whole; weights are not loaded yet."""

    folder: Path
    config: Config
    tokenizer: CaptionTokenizer
    encoder_name: str
    encoder_revision: str
    encoder_fingerprint: str
    has_encoder: bool
    """Whether the encoder's weights are in the checkpoint."""
    sha256: str
    """Of `model.safetensors`."""
    decoder: GPT2Architecture | None = None
    """The decoder, where it is a GPT-2."""
    vit_gpt2: ViTGPT2 | None = None
    """The captioner of transformers in the folder, where it is no checkpoint of ours."""
    metrics: dict[str, Any] = field(default_factory=dict)
    state: TrainState | None = None
    parent: dict[str, str] = field(default_factory=dict)
    """Name and `sha256` of the model that its run began with; empty without any."""


def save_checkpoint(
    folder: Path,
    pipeline: CaptionPipeline,
    config: Config,
    *,
    metrics: Mapping[str, Any],
    card: str,
    examples: Mapping[str, Path] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    average: WeightAverage | None = None,
    state: TrainState | None = None,
    keep: int = 0,
    data: str = "",
    parent: Mapping[str, str] | None = None,
) -> None:
    """Write a checkpoint to `folder`; what stood there stays until the new one is whole.

    All processes call it together; the main one writes. `examples` are pictures that the card
    shows, by the name that it gives them. The newest `keep` of the checkpoints that were replaced
    stay beside it as `step-N`. `data` is the hash of the data set, `parent` as in `Checkpoint`.
    Raises `OSError` where the disk does not take the files; the old checkpoint is then still there.
    """
    weights = {name: full_tensor(tensor) for name, tensor in _weights(pipeline).items()}
    moments = _optimizer_tensors(optimizer, pipeline) if optimizer is not None else {}
    if not pipeline.runtime.is_main:
        return
    encoder, is_saved = pipeline.encoder, pipeline.encoder.is_own
    about_encoder = {
        "name": encoder.name,
        "revision": encoder.revision,
        "fingerprint": "" if is_saved else encoder.fingerprint(),
        "in_checkpoint": is_saved,
    }
    about = {"encoder": about_encoder, "data": data} | ({"parent": parent} if parent else {})
    older = older_name(folder) if keep else None
    with written_whole(folder, about, keep_replaced_as=older) as unfinished:
        save_tensors(weights, unfinished / MODEL)
        if is_saved:
            write_json(unfinished / "encoder_config.json", encoder.config_dict())
        if pipeline.model.gpt2 is not None:
            write_json(unfinished / DECODER, pipeline.model.gpt2.to_values())
        write_json(unfinished / "preprocessor_config.json", encoder.preprocessor.settings())
        write_json(unfinished / "metrics.json", dict(metrics))
        write_text(unfinished / "config.toml", mask_urls(dump_config(config)))
        write_text(unfinished / "README.md", card)
        pipeline.tokenizer.save(unfinished / "tokenizer.json")
        for name, picture in (examples or {}).items():
            load_image(picture).save(unfinished / name)
        if optimizer is not None and state is not None:
            save_tensors(moments, unfinished / OPTIMIZER)
            if adapters := encoder.adapter_state():
                save_tensors(adapters, unfinished / ADAPTERS)
            write_json(unfinished / STATE, asdict(state))
            if average is not None:
                save_tensors(average.tensors, unfinished / AVERAGE)
    if keep:
        older_ones = [path for path in folder.parent.iterdir() if OLDER_NAME.fullmatch(path.name)]
        for path in sorted(older_ones, key=lambda path: int(path.name[5:]))[:-keep]:
            remove(path)


def read_checkpoint(folder: Path, name: str = "") -> Checkpoint:
    """Check a folder file by file and read what is small. Raises `UserError` naming the file.

    `name` is what the user calls a captioner that is not ours: its repository, with its revision.
    """
    if is_foreign(folder):
        return _read_vit_gpt2(folder, name or str(folder))
    manifest = read_manifest(folder)
    unchecked = sorted({"config.toml", MODEL, "tokenizer.json"} - manifest["files"].keys())
    if unchecked:
        raise UserError(f"{folder / MANIFEST} is damaged: it does not name {unchecked[0]}.")
    check_files(folder, manifest)
    tokenizer = CaptionTokenizer.load(folder)
    encoder = manifest["encoder"]
    state_file = folder / STATE
    return Checkpoint(
        folder=folder,
        config=load_config(folder / "config.toml", to_train=False),
        tokenizer=tokenizer,
        encoder_name=encoder["name"],
        encoder_revision=encoder["revision"],
        encoder_fingerprint=encoder["fingerprint"],
        has_encoder=encoder["in_checkpoint"],
        sha256=manifest["files"][MODEL]["sha256"],
        decoder=read_architecture(folder / DECODER) if DECODER in manifest["files"] else None,
        metrics=_read_metrics(folder / "metrics.json"),
        state=read_state(state_file) if state_file.exists() else None,
        parent=parent_in(manifest, folder),
    )


def _read_vit_gpt2(folder: Path, name: str) -> Checkpoint:
    """A captioner of transformers as if it were a checkpoint: its settings are those by which it
    captions, the rest is as for training from scratch."""
    captioner = open_captioner(folder, name)
    # Of the Hub: its encoder is known to others by that name, at the commit that was fetched.
    repository = "" if Path(name).is_dir() else split_revision(name)[0]
    return Checkpoint(
        folder=folder,
        config=Config(**captioner.settings),
        tokenizer=CaptionTokenizer(captioner.vocabulary),
        encoder_name=repository or str(folder),
        encoder_revision=folder.name if repository else "",
        encoder_fingerprint="",
        has_encoder=False,
        sha256="",
        decoder=captioner.architecture,
        vit_gpt2=captioner,
    )


def _read_metrics(path: Path) -> dict[str, Any]:
    """The scores of a checkpoint. Raises `UserError` where one is no number."""
    metrics = read_json(path)
    for name, value in metrics.items():
        is_number = type(value) in (int, float) and not abs(value) > MOST_SCORE
        is_text = name in METRICS_OF_TEXT and isinstance(value, str) and len(value) < 100
        if not (value is None or is_number or is_text):
            raise UserError(f"{path} is damaged: {name!r:.80} is {value!r:.80}.")
    return metrics


def load_encoder(
    checkpoint: Checkpoint, *, training: Config | None = None, trust_remote_code: bool = False
) -> VisionEncoder:
    """The encoder that a checkpoint was trained with, from the checkpoint or by its name.

    `training` says which of its blocks are to be trained, else those that were.
    Raises `UserError` where the named encoder is not the one that it was trained with.
    """
    folder, config = checkpoint.folder, training or checkpoint.config
    if checkpoint.has_encoder:
        prefix = "encoder.tower."
        shapes = tensor_shapes(folder / MODEL, prefix=prefix)
        encoder = VisionEncoder.from_config(
            read_json(folder / "encoder_config.json"),
            read_json(folder / "preprocessor_config.json"),
            name=checkpoint.encoder_name,
            weights={name.removeprefix(prefix): shape for name, shape in shapes.items()},
            choice=FeatureChoice.from_settings(config),
            trained_blocks=config.ENCODER_TRAINED_BLOCKS,
            is_own=True,
        )
        load_weights(encoder, folder / MODEL, prefix="encoder.")
        return encoder
    encoder = VisionEncoder.from_settings(
        config,
        name=checkpoint.encoder_name,
        revision=checkpoint.encoder_revision,
        trust_remote_code=trust_remote_code,
    )
    if checkpoint.vit_gpt2 is None and encoder.fingerprint() != checkpoint.encoder_fingerprint:
        raise UserError(
            f"{folder} was trained with another {checkpoint.encoder_name} than the one found now "
            f"(fingerprint {checkpoint.encoder_fingerprint[:12]}, found "
            f"{encoder.fingerprint()[:12]}). Restore that encoder's files, or train again."
        )
    return encoder


def load_pipeline(
    checkpoint: Checkpoint,
    runtime: Runtime,
    *,
    training: Config | None = None,
    trust_remote_code: bool = False,
) -> CaptionPipeline:
    """Encoder, model and tokenizer of a checkpoint, on the device, in evaluation mode.

    `training` makes the encoder ready to be trained on, as those settings say.
    """
    encoder = load_encoder(checkpoint, training=training, trust_remote_code=trust_remote_code)
    if training is not None:
        encoder.prepare_training(training)
        _load_adapters(encoder, checkpoint.folder / ADAPTERS)
    return load_model(checkpoint, encoder, runtime, training or checkpoint.config)


def load_model(
    checkpoint: Checkpoint,
    encoder: VisionEncoder,
    runtime: Runtime,
    config: Config,
    *,
    has_new_projection: bool = False,
) -> CaptionPipeline:
    """The model of a checkpoint behind an encoder, as `load_pipeline` gives it.

    With another encoder than its own it has a projection with random weights.
    """
    weights, captioner = checkpoint.folder / MODEL, checkpoint.vit_gpt2
    shapes = captioner.shapes if captioner else tensor_shapes(weights, prefix="model.")
    spare, kept = SPARE_NUMBERS, ""
    if has_new_projection:
        spare += (encoder.num_tokens + encoder.feature_dim) * config.PROJECTION_DIM
        kept = "model.projection."
    with built_within(shapes, str(weights), spare=spare):
        model = CaptionModel.from_config(
            config,
            patches=encoder.num_tokens,
            feature_dim=encoder.feature_dim,
            vocab_size=len(checkpoint.tokenizer),
            gpt2=checkpoint.decoder,
        )
    if captioner is None:
        load_weights(model, weights, prefix="model.", without=kept)
    else:
        captioner.fill(model.decoder.state_dict(), has_cross_attention=True)
        if not has_new_projection:
            captioner.fill_projection(model.projection.state_dict())
    start_id = checkpoint.tokenizer.start_id
    features = torch.zeros(1, encoder.num_tokens, encoder.feature_dim)
    _check_it_speaks(model.eval(), features, start_id, weights)
    if runtime.int8:
        model.decoder.multiply_in_integers()
    return CaptionPipeline(
        encoder.to(runtime.device).eval(),
        model.to(runtime.device).eval(),
        checkpoint.tokenizer,
        runtime,
        config.MAX_SEQ_LEN,
        captioner.generation.usual if captioner else Usual(),
    )


@torch.no_grad()
def _check_it_speaks(model: CaptionModel, features: Tensor, start_id: int, path: Path) -> None:
    """Raise `UserError` where weights are so large that nothing comes of them but NaN."""
    start = torch.tensor([[start_id]])
    if not DecoderState(model.decoder, model.encode_memory(features)).step(start).isfinite().all():
        raise UserError(
            f"{path} is no model to go on with: it gives numbers that are none (NaN or infinity). "
            "Take another checkpoint, or train again with a lower LEARNING_RATE."
        )


def load_weights(module: nn.Module, path: Path, *, prefix: str, without: str = "") -> None:
    """Fill a module with the tensors under `prefix`; every name and shape must agree. Those whose
    names begin with `without` stay as they are."""
    tensors = {prefix + name: tensor for name, tensor in module.state_dict().items()}
    fill_tensors(tensors, path, prefix=prefix, without=without)


def _load_adapters(encoder: VisionEncoder, path: Path) -> None:
    if encoder.adapter_state() and not encoder.load_adapter_state(read_tensors(path)):
        raise UserError(
            f"{path} holds other adapters than the settings train. Go on with the settings of the "
            "checkpoint's config.toml."
        )


def load_optimizer(
    optimizer: torch.optim.Optimizer, pipeline: CaptionPipeline, folder: Path
) -> None:
    """Give the optimizer back the moments that `save_checkpoint` wrote."""
    path = folder / OPTIMIZER
    tensors = read_tensors(path)
    if not tensors:  # saved before the first step
        return
    names = _trained_names(pipeline)
    has_begun = any(name.split("/")[1].startswith("encoder.") for name in tensors)
    parameters = [
        parameter
        for group in optimizer.param_groups
        for parameter in group["params"]
        if has_begun or not group["is_encoder"]
    ]
    expected = {
        f"{kind}/{names[parameter]}": () if kind == "step" else tuple(parameter.shape)
        for parameter in parameters
        for kind in MOMENTS
    }
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        different = sorted(dict(found.items() ^ expected.items()))[0]
        raise UserError(
            f"{path} holds other parameters than the settings train ({different} among them). "
            "Go on with the settings of the checkpoint's config.toml."
        )
    for parameter in parameters:
        optimizer.state[parameter] = {
            kind: part_like(tensors[f"{kind}/{names[parameter]}"], parameter) for kind in MOMENTS
        }


def data_folder(name: str, config: Config, wanted: str = "") -> Path:
    """Where the prepared data sets of a checkpoint (its folder or repository) lie: where they are
    `wanted`, else as in training, or in the usual place, wherever the data of training are.

    It may be somebody else's, so that it alone does not choose what is read. Raises `UserError`.
    """
    if wanted:
        return Path(wanted)
    usual = Path(Config.DATA_DIR)
    if config.DATA_DIR == Config.DATA_DIR or not Path(name).is_dir():
        return usual
    known = read_manifest(Path(name)).get("data") or _data_of_run(Path(name).parent)
    for place in (Path(config.DATA_DIR), usual):
        if known == data_fingerprint(place / config.dataset_name)["sha256"]:
            return place
    raise UserError(
        f"{name} names {config.dataset_dir}, which does not hold the data that it was trained on, "
        f"as far as can be told. If you mean that folder, say so: --data-dir {config.DATA_DIR}"
    )


def _data_of_run(run_dir: Path) -> object:
    """The hash of a run's data, of which its checkpoints said nothing up to version 0.2.0."""
    path = run_dir / PROVENANCE_NAME
    try:
        return read_json(path)["sessions"][-1]["data"]["sha256"] if path.is_file() else None
    except (KeyError, TypeError, IndexError):
        return None


def fingerprint_of(dataset_dir: Path) -> str:
    """The hash of a prepared data set, by which a checkpoint knows it again."""
    marker = read_marker(dataset_dir)  # a folder that was found prepared has none
    return marker[0].fingerprint if marker else str(data_fingerprint(dataset_dir)["sha256"])


def newest_checkpoint(run_dir: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint of a run that can be trained on, and what is wrong with newer."""
    folders = {path.parent for path in run_dir.glob(f"*/{STATE}")} | set(run_dir.glob("last"))
    problems = []
    found = []
    for folder in folders:
        if folder.name.endswith(UNFINISHED_SUFFIX):
            continue
        try:
            found.append((read_state(folder / STATE).step, folder))
        except UserError as error:
            problems.append(str(error))
    for _, folder in sorted(found, key=lambda one: (one[0], one[1].name), reverse=True):
        try:
            read_checkpoint(folder)
        except UserError as error:
            problems.append(str(error))
            continue
        return folder, problems
    return None, problems


def newest_best(output_dir: Path) -> Path:
    """The `best` folder under OUTPUT_DIR that was written last."""
    found = sorted(output_dir.glob(f"*/best/{MANIFEST}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(
            f"there is no trained model under {output_dir}. Train one with: python train.py, or "
            "name one: --checkpoint FOLDER_OR_REPO"
        )
    return found[-1].parent


def _trained_names(pipeline: CaptionPipeline) -> dict[Tensor, str]:
    parts = (("model", pipeline.model), ("encoder", pipeline.encoder))
    return {
        parameter: f"{part}.{name}"
        for part, module in parts
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def _optimizer_tensors(
    optimizer: torch.optim.Optimizer, pipeline: CaptionPipeline
) -> dict[str, Tensor]:
    names = _trained_names(pipeline)
    return {
        f"{kind}/{names[parameter]}": full_tensor(value)
        for parameter, state in optimizer.state.items()
        for kind, value in state.items()
    }


def _weights(pipeline: CaptionPipeline) -> dict[str, Tensor]:
    tensors = {f"model.{name}": tensor for name, tensor in pipeline.model.state_dict().items()}
    if pipeline.encoder.is_own:
        encoder = pipeline.encoder.plain_state()
        tensors |= {f"encoder.{name}": tensor for name, tensor in encoder.items()}
    return tensors
