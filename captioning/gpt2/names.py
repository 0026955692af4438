"""The weights of a decoder by its own names and by GPT-2's, which are in one table for both ways.

GPT-2 calls its linear layers convolutions and keeps their matrices the other way round: (in, out).
"""

import re

from torch import Tensor

from captioning.gpt2.architecture import GPT2Architecture

OUTSIDE = {
    "embedding.weight": "wte.weight",
    "positions": "wpe.weight",
    "norm.weight": "ln_f.weight",
    "norm.bias": "ln_f.bias",
}
OF_BLOCK = {
    "norm_self": "ln_1",
    "self_attention.query_key_value": "attn.c_attn",
    "self_attention.output": "attn.c_proj",
    "norm_ff": "ln_2",
    "feed_forward.0": "mlp.c_fc",
    "feed_forward.2": "mlp.c_proj",
}
OF_CROSS_ATTENTION = {
    "norm_cross": "ln_cross_attn",
    "cross_attention.query": "crossattention.q_attn",
    "cross_attention.key_value": "crossattention.c_attn",
    "cross_attention.output": "crossattention.c_proj",
}
"""A language model has none."""


def gpt2_names(layers: int, *, has_cross_attention: bool = True) -> dict[str, str]:
    """GPT-2's name of each weight of a `TransformerDecoder` of GPT-2's style."""
    parts = {**OF_BLOCK, **(OF_CROSS_ATTENTION if has_cross_attention else {})}
    in_blocks = {
        f"blocks.{layer}.{ours}.{kind}": f"h.{layer}.{theirs}.{kind}"
        for layer in range(layers)
        for ours, theirs in parts.items()
        for kind in ("weight", "bias")
    }
    return {**OUTSIDE, **in_blocks}


def gpt2_shapes(
    sizes: GPT2Architecture, *, has_cross_attention: bool
) -> dict[str, tuple[int, ...]]:
    """The shape of each weight, by GPT-2's names."""
    D, F = sizes.dim, sizes.ff_dim
    outputs = {
        "attn.c_attn": (D, 3 * D),
        "attn.c_proj": (D, D),
        "crossattention.q_attn": (D, D),
        "crossattention.c_attn": (D, 2 * D),
        "crossattention.c_proj": (D, D),
        "mlp.c_fc": (D, F),
        "mlp.c_proj": (F, D),
    }
    tables = {"wte.weight": (sizes.vocab_size, D), "wpe.weight": (sizes.max_length, D)}
    found: dict[str, tuple[int, ...]] = {}
    for name in gpt2_names(sizes.layers, has_cross_attention=has_cross_attention).values():
        part, kind = re.sub(r"^h\.\d+\.", "", name).rsplit(".", 1)
        matrix = outputs.get(part, (D,))  # a norm has vectors alone
        found[name] = tables.get(name) or (matrix if kind == "weight" else matrix[-1:])
    return found


def turned(name: str, weight: Tensor) -> Tensor:
    """A weight as the other keeps it; `name` is by either."""
    return weight.T if weight.dim() == 2 and name.startswith(("blocks.", "h.")) else weight
