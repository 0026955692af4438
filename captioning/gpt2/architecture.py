"""What a GPT-2 is built of, as the config.json of one says it, and whether that is believed."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from captioning.system.errors import UserError
from captioning.system.files import read_json
from captioning.system.rules import WIDEST
from captioning.vision.limits import check_config

MODEL_TYPE = "gpt2"
READ = "Decoders of the GPT-2 family are read (gpt2, distilgpt2 and what was trained from them)"
SAME_ACTIVATION = {"gelu_fast": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "swish": "silu"}
"""Other names of the same function."""
ACTIVATIONS = ("gelu_new", "gelu", "relu", "silu", "tanh")
UNUSUAL = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
}
"""Settings of GPT-2 of which one value is read: that of all models in use."""
SIZES = ("vocab_size", "dim", "layers", "heads", "ff_dim", "max_length")
MOST = {"vocab_size": 500_000, "max_length": 2**16, "layers": 1_000, "ff_dim": 4 * WIDEST}


@dataclass(frozen=True, kw_only=True)
class GPT2Architecture:
    """The sizes of a GPT-2."""

    vocab_size: int
    dim: int
    layers: int
    heads: int
    ff_dim: int
    max_length: int
    """Positions."""
    activation: str = "gelu_new"
    norm_eps: float = 1e-5
    is_plainly_projected: bool = False
    """Whether features come to cross-attention through one linear layer, or as they are where they
    have its width, as in a ViT-GPT2; otherwise through a `Projection` of ours."""

    @classmethod
    def from_values(cls, values: Mapping[str, Any], name: str) -> Self:
        """The architecture that a config.json of `name` describes. Raises `UserError`."""
        kind = values.get("model_type")
        if kind != MODEL_TYPE:
            raise UserError(
                f"{name} is a model of type {kind!r:.80}, and no decoder for captions. {READ}."
            )
        check_config(values, name)
        dim = values.get("n_embd", 768)
        inner = values.get("n_inner")
        activation = values.get("activation_function", "gelu_new")
        found = cls(
            vocab_size=values.get("vocab_size", 50_257),
            dim=dim,
            layers=values.get("n_layer", 12),
            heads=values.get("n_head", 12),
            ff_dim=4 * dim if inner is None and type(dim) is int else inner,  # type: ignore[arg-type]
            max_length=values.get("n_positions", 1_024),
            activation=SAME_ACTIVATION.get(str(activation), activation),
            norm_eps=values.get("layer_norm_epsilon", 1e-5),
            is_plainly_projected=values.get("is_plainly_projected") is True,
        )
        problems = [*found._problems(), *_unusual(values)]
        if problems:
            raise UserError(*(f"{name}: its config has {problem}" for problem in problems))
        return found

    @property
    def sizes(self) -> dict[str, int]:
        """What a `TransformerDecoder` is built of, by its names."""
        return {name: getattr(self, name) for name in SIZES}

    def check_caption(self, longest: int, vocab_size: int) -> None:
        """Raise `UserError` where captions of so many ids, of so many entries, do not fit."""
        if longest > self.max_length:
            raise UserError(
                f"MAX_SEQ_LEN is {longest}; the decoder has positions for {self.max_length:,} "
                f"tokens. Write --MAX_SEQ_LEN {self.max_length} or less."
            )
        if vocab_size > self.vocab_size:
            raise UserError(
                f"The vocabulary has {vocab_size:,} entries, and the decoder embeds "
                f"{self.vocab_size:,}. Take tokenizer and weights of one model."
            )

    def to_values(self) -> dict[str, Any]:
        """A config that `from_values` reads back; transformers' `GPT2Config` reads it too."""
        return {
            "model_type": MODEL_TYPE,
            "vocab_size": self.vocab_size,
            "n_embd": self.dim,
            "n_layer": self.layers,
            "n_head": self.heads,
            "n_inner": self.ff_dim,
            "n_positions": self.max_length,
            "activation_function": self.activation,
            "layer_norm_epsilon": self.norm_eps,
            "add_cross_attention": True,
            "is_plainly_projected": self.is_plainly_projected,
        }

    def _problems(self) -> Iterator[str]:
        for key, value in self.sizes.items():
            most = MOST.get(key, WIDEST)
            if type(value) is not int or not 1 <= value <= most:
                yield f"the {key} {value!r:.40}; it must be a whole number from 1 to {most:,}."
        if type(self.dim) is type(self.heads) is int and self.heads > 0 and self.dim % self.heads:
            yield f"n_head {self.heads}; it must divide n_embd, {self.dim}."
        if self.activation not in ACTIVATIONS:
            yield (
                f"the activation_function {self.activation!r:.40}; {', '.join(ACTIVATIONS)} are "
                "read."
            )
        eps = self.norm_eps
        if type(eps) not in (int, float) or not (math.isfinite(eps) and 0 < eps < 1):
            yield f"the layer_norm_epsilon {eps!r:.40}; it must be above 0 and below 1."


def read_architecture(path: Path) -> GPT2Architecture:
    """The architecture that `GPT2Architecture.to_values` was written of. Raises `UserError`."""
    return GPT2Architecture.from_values(read_json(path), str(path))


def _unusual(values: Mapping[str, Any]) -> Iterator[str]:
    for key, usual in UNUSUAL.items():
        if values.get(key, usual) is not usual:
            yield f"{key} {values[key]!r:.40}; only {usual} is read."
