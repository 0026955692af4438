"""The two ONNX graphs of a captioner.

    encoder.onnx   pixels, uint8 (pictures, 3, height, width)
                   -> memory.L.keys, memory.L.values  (pictures, heads, patches, d) of each layer L
    decoder.onnx   tokens (pictures, width), the newest of each row
                   rows   (pictures, width), the old row that each row goes on from
                   memory.L.keys, memory.L.values     as the encoder gives them
                   past.L.keys, past.L.values         (old rows, heads, length, d)
                   -> log_probabilities (pictures, width, vocabulary) of the token that follows
                   -> cache.L.keys, cache.L.values    (rows, heads, length + 1, d): the next past

Everything between is inside: scale and shift of pixels, the projection, memory layers. A picture's
keys and values are shared by its rows, which are its beams; rows are numbered over all pictures, so
that one input reorders the cache, grows one row to many and drops finished ones. At first there is
one row a picture and the past has length 0. All named axes are free; both graphs are traced from
the model itself.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captioning.decoding.attention import KeysValues
from captioning.system.errors import UserError
from captioning.training.packing import Packing

ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
OPSET = 18
"""Of the graphs; onnxruntime has it in the browser, too."""
MOST_BYTES_IN_ONE = 2**31 - 2**20
"""A file of this format holds no more; weights beyond lie beside it."""
PARTS = ("keys", "values")
Pairs = Sequence[tuple[Tensor, Tensor]]


class EncoderGraph(nn.Module):
    """Pixels -> what cross-attention of each layer reads."""

    def __init__(self, encoder: nn.Module, model: nn.Module) -> None:
        super().__init__()
        self.encoder, self.model = encoder, model

    def forward(self, pixels: Tensor) -> list[tuple[Tensor, Tensor]]:
        """uint8 (B, 3, H, W) -> L x 2 (B, H, P, d)."""
        model: Any = self.model
        return [tuple(layer) for layer in model.encode_memory(self.encoder(pixels).float())]


class DecoderGraph(nn.Module):
    """One token a row: log-probabilities of the next, and the cache with the newest in it."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, tokens: Tensor, rows: Tensor, memory: Pairs, past: Pairs
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """(B, W) tokens and rows, L x 2 (B, H, P, d) and (R, H, T, d) -> (B, W, V), the cache."""
        decoder: Any = self.decoder
        caches = [_GivenCache(*layer, rows.flatten()) for layer in past]
        ids = tokens.flatten()
        position = torch.zeros_like(ids) + past[0][0].shape[2]
        packing = Packing(rows=tokens.shape[0] * tokens.shape[1], length=1)
        layers = [KeysValues(*layer) for layer in memory]
        hidden = decoder(ids, position, packing, layers, caches)
        log_probabilities = decoder.exact_logits(hidden).log_softmax(-1)
        return log_probabilities.view(*tokens.shape, -1), [cache.newest for cache in caches]


class _GivenCache:
    """Keys and values of one layer that come from outside and go back there."""

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor) -> None:
        self._past = keys.index_select(0, rows), values.index_select(0, rows)
        self.newest = self._past

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append (R, H, 1, d) of the newest token; returns all (R, H, T, d)."""
        self.newest = torch.cat([self._past[0], keys], 2), torch.cat([self._past[1], values], 2)
        return self.newest


def write_encoder(encoder: Any, model: Any, path: Path) -> None:
    """Write `encoder.onnx`. Raises `UserError` with the encoder's name where it cannot be."""
    height, width = encoder.preprocessor.size
    pixels = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    layers = len(model.decoder.blocks)
    try:
        _write(
            EncoderGraph(encoder, model),
            (pixels,),
            path,
            inputs=["pixels"],
            outputs=names("memory", layers),
            axes=({0: "pictures"},),
        )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise UserError(
            f"{encoder.name} cannot be written as ONNX by torch {torch.__version__}: {reason}. "
            "Its captioner runs from a clone of this project alone; another encoder of "
            "docs/encoders.md may be exported."
        ) from None


def write_decoder(decoder: Any, memory: Pairs, path: Path) -> None:
    """Write `decoder.onnx`; `memory` is that of two pictures, for its shapes."""
    layers = len(memory)
    tokens, rows = (torch.zeros(2, 3, dtype=torch.long) for _ in range(2))
    _, heads, _, width = memory[0][0].shape
    past = [tuple(torch.zeros(5, heads, 4, width) for _ in PARTS) for _ in range(layers)]
    pictures_and_width = {0: "pictures", 1: "width"}
    _write(
        DecoderGraph(decoder),
        (tokens, rows, [tuple(layer) for layer in memory], past),
        path,
        inputs=["tokens", "rows", *names("memory", layers), *names("past", layers)],
        outputs=["log_probabilities", *names("cache", layers)],
        axes=(
            pictures_and_width,
            pictures_and_width,
            [({0: "pictures"},) * 2] * layers,
            [({0: "old_rows", 2: "length"},) * 2] * layers,
        ),
    )


def names(what: str, layers: int) -> list[str]:
    """`memory.0.keys`, `memory.0.values`, `memory.1.keys` ..."""
    return [f"{what}.{layer}.{part}" for layer in range(layers) for part in PARTS]


def axes_of(path: Path) -> dict[str, dict[str, list[int | str]]]:
    """Shapes of a graph's inputs and outputs; an axis with a name may have any length."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    return {
        what: {
            value.name: [
                axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim
            ]
            for value in values
        }
        for what, values in (("inputs", graph.input), ("outputs", graph.output))
    }


def check_graph(path: Path) -> None:
    """Raise where a graph does not pass ONNX' own checker."""
    import onnx

    onnx.checker.check_model(path, full_check=True)


def _write(
    module: nn.Module,
    example: tuple[Any, ...],
    path: Path,
    *,
    inputs: list[str],
    outputs: list[str],
    axes: tuple[Any, ...],
) -> None:
    with _quietly(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            example,
            dynamo=True,
            dynamic_shapes=axes,
            input_names=inputs,
            output_names=outputs,
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    weights = sum(one.nbytes for one in module.state_dict().values())
    program.save(path, external_data=weights > MOST_BYTES_IN_ONE)
    check_graph(path)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what the exporter says of packages that are not needed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
