"""Whether training and captioning are right on a GPU: checks that `benchmarks/gpu.py` runs.

    python benchmarks/gpu_right.py --check step --device cuda --json step.json

Each check is a function of the options that gives what it measured, and under `right` whether it
may be believed. All data is drawn, all weights are random or trained on the spot.
"""

import itertools
import json
import math
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.flags import last_of_each
from benchmarks.training import (
    PATCHES,
    DrawnRows,
    decoder_gradients,
    drawn_records,
    make_model,
    make_optimizer,
    step_of,
)
from captioning.scenes import write_scenes
from captioning.sources.records import Record, read_records
from captioning.store.rows import LivePictures
from captioning.system.errors import UserError, run_command
from captioning.system.options import parse_options
from captioning.system.runtime import Runtime
from captioning.training.sharding import clip_gradients, full_tensor, shard
from config import Config
from dataset import CaptionDataset, StepDataset
from encoder import VisionEncoder
from model import CaptionModel
from optimization import BatchTooLargeError, CrossEntropy, Gradients
from tokenizer import train_tokenizer

ROOT = Path(__file__).parent.parent
LARGEST_ERROR = {"fp32": 5e-3, "bf16": 5e-2}
"""Of a gradient, relative to its norm; fp32 products are TF32 on a GPU."""
NO_GPU = {"right": None, "why": "needs a CUDA device"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to check, and where."""

    check: Literal[
        "step", "captions", "resume", "memory", "workers", "sharding", "self-critical"
    ] = "step"
    """Which check."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1."""
    toy: bool = False
    """Everything tiny: whether the check runs, not what it finds."""
    json: str = ""
    """File for the findings as JSON."""


@dataclass(frozen=True)
class Size:
    """How much is drawn and trained."""

    scenes: int
    epochs: int
    settings: tuple[str, ...]


def size_of(options: Options) -> Size:
    """Small enough for a minute on a GPU; tiny as a toy."""
    if options.toy:
        tiny = "--DECODER_EMBED_DIM 16 --PROJECTION_DIM 16 --DECODER_LAYERS 1 --DECODER_HEADS 2"
        return Size(24, 2, (*tiny.split(), "--BATCH_SIZE", "16", "--VALIDATION_IMAGES", "3"))
    return Size(600, 3, ("--VALIDATION_IMAGES", "30"))


def check_step(options: Options) -> dict[str, Any]:
    """Loss and gradients of a step against float32 on the CPU; and a step that is replayed with
    dropout against the same when it was not recorded yet."""
    is_gpu = options.device.startswith("cuda")
    exact_loss, exact = gradients_of(options, "cpu", "fp32")[0]
    result: dict[str, Any] = {"loss_cpu": exact_loss}
    for precision, records in itertools.product(LARGEST_ERROR, (False, True)):
        if is_gpu or not records:
            loss, found = gradients_of(options, options.device, precision, records=records)[-1]
            error = float((found - exact).norm() / exact.norm())
            name = f"{precision}, recorded" if records else precision
            result[name] = {"loss": loss, "error": error}
    result["right"] = all(
        result[name]["error"] < LARGEST_ERROR[name[:4]]
        for name in result
        if name[:4] in LARGEST_ERROR
    )
    if is_gpu:
        first, other, again = (
            found
            for _, found in gradients_of(options, options.device, "fp32", records=True, dropout=0.1)
        )
        result["replayed with dropout"] = float((again - first).norm() / first.norm())
        result["with other dropout"] = float((other - first).norm() / first.norm())
        result["right"] &= result["replayed with dropout"] < LARGEST_ERROR["fp32"]
        result["right"] &= result["with other dropout"] > 0.01
    return result


def gradients_of(
    options: Options,
    device: str,
    precision: str,
    *,
    records: bool = False,
    dropout: float = 0.0,
) -> list[tuple[float, Tensor]]:
    """Loss and gradients of a step; where it is recorded with a seed, another, and the first."""
    config = Config(DECODER_DROPOUT=dropout, **(TOY_DECODER if options.toy else {}))
    drawn = drawn_records(8 if options.toy else 64)
    tokenizer = train_tokenizer((text for one in drawn for text in one.captions), 10_000)
    captions = CaptionDataset(drawn, tokenizer, config.MAX_SEQ_LEN)
    torch.manual_seed(0)
    rows = DrawnRows(len(drawn), torch.device("cpu"), torch.float32)
    step = step_of(StepDataset(captions, captions.plan(256, seed=0), rows), 0)
    runtime = Runtime.create(device, precision)
    model = make_model(config, PATCHES, 10_000, runtime.device)
    maker = decoder_gradients(model, runtime, 0.1, records=records)
    found = []
    for seed in (0, 1, 0) if records else (0,):
        maker.drop()
        runtime.seed_step(0, seed)
        loss = float(maker.add(step)) / step.num_tokens
        gradients = [p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None]
        found.append((loss, torch.cat(gradients)))
    return found


TOY_DECODER: dict[str, Any] = {
    "PROJECTION_DIM": 32,
    "DECODER_EMBED_DIM": 32,
    "DECODER_LAYERS": 1,
    "DECODER_HEADS": 2,
    "DECODER_FF_DIM": 64,
}


def check_captions(options: Options) -> dict[str, Any]:
    """Captions of a model trained here: float32 and bfloat16 on the device against the CPU."""
    from captioner import Captioner

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        data = draw(place, options)
        end_of(train_process(place, options))
        pictures = [record.image for record in read_records(data / "validation")]
        found = {}
        for name, device, precision in (
            ("cpu", "cpu", "fp32"),
            ("fp32", options.device, "fp32"),
            ("bf16", options.device, "bf16"),
        ):
            captioner = Captioner.from_pretrained(
                place / "runs/run/best", device=device, precision=precision
            )
            found[name] = [str(caption) for caption in captioner(pictures)]
    differing = {
        name: sum(a != b for a, b in zip(found["cpu"], found[name], strict=True))
        for name in ("fp32", "bf16")
    }
    count = len(pictures)
    return {
        "pictures": count,
        "captions_that_differ_from_the_cpu": differing,
        "example": found["fp32"][0],
        "right": differing["fp32"] <= 0.02 * count
        and (options.toy or differing["bf16"] <= 0.1 * count),  # a toy's captions are ties
    }


def check_resume(options: Options) -> dict[str, Any]:
    """A run that was killed by SIGKILL and went on, against one that was not, bit for bit."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        draw(place, options)
        frozen = ("--ENCODER_TRAINED_BLOCKS", "0")  # its features are kept, and steps recorded
        words = (*frozen, "--RUN_NAME", "killed", "--SAVE_INTERVAL", "5")
        killed = train_process(place, options, *words)
        kill_after_a_save(killed, place / "runs/killed/last")
        runs = [
            train_process(place, options, *frozen, "--RUN_NAME", name)
            for name in ("whole", "again")
        ]
        runs.append(train_process(place, options, *words, "--RESUME_CHECKPOINT_PATH", "auto"))
        for run in runs:
            end_of(run)
        whole, again, resumed = (
            weights_of(place / f"runs/{name}/last") for name in ("whole", "again", "killed")
        )
    return {
        "tensors": len(whole),
        "differ_between_two_whole_runs": differing(whole, again),
        "differ_after_a_kill": differing(whole, resumed),
        "right": not differing(whole, resumed),
    }


def check_memory(options: Options) -> dict[str, Any]:
    """A step that does not fit into the device's memory is computed in smaller parts."""
    runtime = Runtime.create(options.device, "auto")
    if runtime.device.type != "cuda":
        return NO_GPU
    records = drawn_records(400)
    tokenizer = train_tokenizer((text for one in records for text in one.captions), 10_000)
    captions = CaptionDataset(records, tokenizer, 64)
    rows = DrawnRows(len(records), runtime.device, torch.bfloat16)
    whole = StepDataset(captions, captions.plan(2000, seed=0), rows)
    model = make_model(Config(DECODER_DROPOUT=0.0), 50, len(tokenizer), runtime.device)
    gradients = decoder_gradients(model, runtime, 0.1, records=True)
    before = torch.cuda.memory_allocated()
    full_loss = float(gradients.add(step_of(whole, 0)))
    gradients.drop()
    needed = torch.cuda.max_memory_allocated() - before
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(runtime.device).total_memory
    torch.cuda.set_per_process_memory_fraction((before + 0.3 * needed + 2**28) / total)
    micro, loss = 0, None
    tried: list[int] = []
    while loss is None and len(tried) < 12:
        steps = StepDataset(captions, captions.plan(2000, seed=0), rows, micro)
        try:
            loss = float(gradients.add(step_of(steps, 0)))
        except BatchTooLargeError as error:
            micro = error.num_captions // 2
            tried.append(micro)
    return {
        "bytes_of_the_whole_step": needed,
        "micro_batches_tried": tried,
        "loss": loss,
        "loss_of_the_whole_step": full_loss,
        "right": bool(tried) and loss is not None and abs(loss / full_loss - 1) < 1e-2,
    }


def check_workers(options: Options) -> dict[str, Any]:
    """Pictures read by workers into pinned memory; SIGTERM saves, ends with 143, and goes on."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        draw(place, options)
        words = ("--NUM_WORKERS", "2", "--AUGMENTATION", "crop", "--SAVE_INTERVAL", "5")
        process = train_process(place, options, *words)
        wait_for(place / "runs/run/last", process)
        process.send_signal(signal.SIGTERM)
        process.wait(120)
        stopped = process.returncode
        end_of(train_process(place, options, *words, "--RESUME_CHECKPOINT_PATH", "auto"))
    return {"exit_code_of_sigterm": stopped, "right": stopped in (143, 0)}


def check_sharding(options: Options) -> dict[str, Any]:
    """An encoder in FSDP2's parts over NCCL, with gradient checkpointing, in bfloat16, against the
    same in one piece; one process stands for many."""
    import torch.distributed as dist
    from torch._C._distributed_c10d import HashStore

    runtime = Runtime.create(options.device, "bf16")
    is_gpu = runtime.device.type == "cuda"
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if is_gpu else "gloo", store=HashStore(), rank=0, world_size=1
    )
    try:
        losses = {name: losses_of_an_encoder(options, runtime, name == "parts") for name in PARTS}
    finally:
        dist.destroy_process_group()
    apart = max(abs(a / b - 1) for a, b in zip(losses["whole"], losses["parts"], strict=True))
    return {"losses": losses, "largest_difference": apart, "right": apart < 2e-2}


PARTS = ("whole", "parts")


class OneOfMany(Runtime):
    """One process that takes itself for one of several."""

    @property
    def is_alone(self) -> bool:
        """No."""
        return False


def losses_of_an_encoder(options: Options, runtime: Runtime, is_sharded: bool) -> list[float]:
    """Losses of four steps that train all of a small ViT."""
    with tempfile.TemporaryDirectory() as folder:
        data = draw(Path(folder), options)
        records = read_records(data / "train")[:20]
        config = Config(
            ENCODER_TRAINED_BLOCKS=-1,
            GRADIENT_CHECKPOINTING=True,
            DECODER_DROPOUT=0.0,
            **TOY_DECODER,
        )
        encoder = small_encoder()
        encoder.prepare_training(config)
        encoder.to(runtime.device).train()
        tokenizer = train_tokenizer((text for one in records for text in one.captions), 500)
        torch.manual_seed(0)
        model = CaptionModel.from_config(
            config,
            patches=encoder.num_tokens,
            feature_dim=encoder.feature_dim,
            vocab_size=len(tokenizer),
        ).to(runtime.device)
        if is_sharded:
            shard(encoder, OneOfMany(runtime.device, runtime.dtype))
        return train_steps(model, encoder, runtime, records, tokenizer)


def small_encoder() -> VisionEncoder:
    """A ViT of 4 blocks with random weights, always the same."""
    import transformers

    config = transformers.ViTConfig(
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=64,
        patch_size=16,
    )
    processor = transformers.ViTImageProcessorPil(size={"height": 64, "width": 64}).to_dict()
    return VisionEncoder.from_config(
        config.to_dict(), processor, name="a small ViT", trained_blocks=-1
    )


def train_steps(
    model: CaptionModel,
    encoder: VisionEncoder,
    runtime: Runtime,
    records: Sequence[Record],
    tokenizer: Any,
) -> list[float]:
    """Four steps with AdamW on the same pictures; the loss of each."""
    optimizer = make_optimizer(
        model, Config(LEARNING_RATE=1e-3, ENCODER_LEARNING_RATE=1e-3), encoder
    )
    captions = CaptionDataset(records, tokenizer, 40)
    pictures = LivePictures([record.image for record in records], encoder.preprocessor)
    step = step_of(StepDataset(captions, captions.plan(captions.num_captions), pictures), 0)
    gradients = Gradients(model, encoder, runtime, CrossEntropy(0.1))
    losses = []
    for _ in range(4):
        losses.append(float(gradients.add(step)) / step.num_tokens)
        clip_gradients([*model.parameters(), *encoder.parameters()], 1.0)
        optimizer.step()
        gradients.drop()
    assert all(bool(full_tensor(p).isfinite().all()) for p in encoder.parameters())
    return losses


def check_self_critical(options: Options) -> dict[str, Any]:
    """Self-critical training in bfloat16 raises the reward of samples."""
    words = ("--SCST_EPOCHS", "1" if options.toy else "3", "--SCST_LEARNING_RATE", "1e-4")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        draw(place, options)
        end_of(train_process(place, options, *words, "--LOG_INTERVAL", "1", "--PRECISION", "bf16"))
        lines = (place / "runs/run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rewards = [line["reward"] for line in map(json.loads, lines) if "reward" in line]
    few = max(1, len(rewards) // 5)
    first, last = (sum(part) / few for part in (rewards[:few], rewards[-few:]))
    is_right = last > first or (options.toy and math.isfinite(last))  # a toy has nothing to reward
    return {
        "steps": len(rewards),
        "reward_first": first,
        "reward_last": last,
        "right": is_right,
    }


def draw(place: Path, options: Options) -> Path:
    """Drawn scenes under `place`; where they lie."""
    data = place / "data" / "scenes"
    if not data.exists():
        write_scenes(data, seed=0, count=size_of(options).scenes, size=64)
    return data


def train_process(place: Path, options: Options, *words: str) -> "subprocess.Popen[bytes]":
    """`train.py` on the drawn scenes, with the demo's encoder and settings; prints where we do."""
    size = size_of(options)
    command = [sys.executable, str(ROOT / "train.py"), "--config", "presets/demo.toml"]
    command += ["--DATASET", "scenes", "--DATA_DIR", str(place / "data"), "--RUN_NAME", "run"]
    command += ["--OUTPUT_DIR", str(place / "runs"), "--DEVICE", options.device]
    command += ["--WANDB_MODE", "disabled", "--NUM_EPOCHS", str(size.epochs), "--NUM_WORKERS", "0"]
    return subprocess.Popen(last_of_each([*command, *size.settings, *words]), cwd=ROOT)


def end_of(process: "subprocess.Popen[bytes]") -> None:
    """Wait until a process ends well."""
    if process.wait():
        raise UserError(f"train.py ended with {process.returncode}; see above.")


def wait_for(path: Path, process: "subprocess.Popen[bytes]", seconds: float = 120) -> None:
    """Until a run has saved, or has ended."""
    end = time.monotonic() + seconds
    while not path.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)


def kill_after_a_save(process: "subprocess.Popen[bytes]", path: Path) -> None:
    """SIGKILL, a moment after the first checkpoint."""
    wait_for(path, process)
    time.sleep(0.3)
    process.kill()
    process.wait()


def weights_of(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint."""
    return {
        f"{path.name}: {name}": tensor
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> int:
    """Tensors that are not the same to the last bit."""
    return len(one.keys() ^ other.keys()) + sum(
        not one[name].equal(other[name]) for name in one.keys() & other.keys()
    )


CHECKS: dict[str, Callable[[Options], dict[str, Any]]] = {
    "step": check_step,
    "captions": check_captions,
    "resume": check_resume,
    "memory": check_memory,
    "workers": check_workers,
    "sharding": check_sharding,
    "self-critical": check_self_critical,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a check, print what it found, write the JSON file."""
    options = parse_options(Options, sys.argv[1:] if argv is None else argv, description=__doc__)
    found = CHECKS[options.check](options)
    print(json.dumps(found, indent=2))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    run_command(main)
