"""The captioner: picture features -> projection -> memory layers -> transformer decoder -> logits.

    B  pictures                     N  tokens of all captions, without padding
    P  patches of a picture         R  captions (rows); R / B a picture
    F  width of the features        T  tokens of the longest caption
    M  width of the memory          H  attention heads, d = D / H wide each
    D  width of the decoder         V  vocabulary

Training runs all tokens of a batch at once (`CaptionModel.loss`), generation one token a row with a
cache (`DecoderState`); both go through the same blocks. A picture's cross-attention keys and
values are computed once and shared by all its captions, or beams.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioning.decoding.attention import KeysValues, KVCache
from captioning.decoding.integers import IntegerMatrix, replace_linear
from captioning.gpt2.architecture import GPT2Architecture
from captioning.system.errors import UserError
from captioning.training.packing import Packing
from config import Config

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu_new": partial(nn.GELU, approximate="tanh"),
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
"""Activations of a feed-forward network, by the names that GPT-2's settings give them."""


@dataclass(frozen=True, kw_only=True)
class DecoderStyle:
    """What decoders of one size differ in: by default that of a decoder from scratch."""

    has_biases: bool = False
    """Whether queries, keys and values have biases."""
    learns_positions: bool = False
    """Whether positions are learned, or sinusoids."""
    scales_embeddings: bool = True
    """Whether embeddings are multiplied by sqrt(D) before positions are added to them."""
    activation: str = "gelu_new"
    norm_eps: float = 1e-5

    @classmethod
    def of_gpt2(cls, architecture: GPT2Architecture) -> Self:
        """GPT-2's (Radford et al., 2019)."""
        return cls(
            has_biases=True,
            learns_positions=True,
            scales_embeddings=False,
            activation=architecture.activation,
            norm_eps=architecture.norm_eps,
        )


class SelfAttention(nn.Module):
    """Each token reads the tokens before it and itself."""

    def __init__(self, dim: int, heads: int, *, bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(dim, 3 * dim, bias=bias)
        self.output = nn.Linear(dim, dim)

    def forward(self, x: Tensor, packing: Packing, cache: KVCache | None = None) -> Tensor:
        """(N, D) -> (N, D)."""
        found = []
        for qkv in packing.captions.spread(self.query_key_value(x)):  # (R, T, 3 D)
            q, k, v = split_heads(qkv, self.heads, parts=3)  # 3 (R, H, T, d)
            if cache is not None:
                k, v = cache.update(k, v)
            # A cached step is one token a row, which may read all that the cache holds. Padding
            # needs no mask: it stands behind a row's tokens, and its results are not taken up.
            read = F.scaled_dot_product_attention(q, k, v, is_causal=cache is None)
            found.append(read.transpose(1, 2).flatten(2))
        return self.output(packing.captions.take(found))


class CrossAttention(nn.Module):
    """Each token reads the patches of its picture."""

    def __init__(self, dim: int, heads: int, memory_dim: int, *, bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim, bias=bias)
        self.key_value = nn.Linear(memory_dim, 2 * dim, bias=bias)
        self.output = nn.Linear(dim, dim)

    def keys_values(self, memory: Tensor) -> KeysValues:
        """(B, P, M) -> keys and values, once a picture."""
        return KeysValues(*split_heads(self.key_value(memory), self.heads, parts=2))

    def forward(
        self,
        x: Tensor,
        packing: Packing,
        memory: KeysValues,
        weights: list[Tensor] | None = None,
    ) -> Tensor:
        """(N, D) -> (N, D); appends (R, H, T, P) attention weights to `weights` if given."""
        keys = memory.keys
        pictures = packing.pictures(keys.shape[0])
        (q,) = pictures.spread(self.query(x))  # (B, places of a picture, D)
        (q,) = split_heads(q, self.heads, parts=1)  # (B, H, places, d)
        if weights is not None:
            assert packing.by_picture is None
            scores = q @ keys.transpose(-2, -1) / math.sqrt(q.shape[-1])
            shape = (packing.rows, packing.length, self.heads, keys.shape[2])
            weights.append(scores.softmax(-1).transpose(1, 2).reshape(shape).transpose(1, 2))
        return self.output(pictures.take([memory.read(q).transpose(1, 2).flatten(2)]))


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward, each on the normalised sum so far."""

    def __init__(
        self,
        dim: int,
        heads: int,
        ff_dim: int,
        memory_dim: int,
        dropout: float,
        style: DecoderStyle,
    ) -> None:
        super().__init__()
        bias, eps = style.has_biases, style.norm_eps
        self.norm_self = nn.LayerNorm(dim, eps)
        self.self_attention = SelfAttention(dim, heads, bias=bias)
        self.norm_cross = nn.LayerNorm(dim, eps)
        self.cross_attention = CrossAttention(dim, heads, memory_dim, bias=bias)
        self.norm_ff = nn.LayerNorm(dim, eps)
        self.feed_forward = feed_forward(dim, ff_dim, style.activation)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        packing: Packing,
        memory: KeysValues,
        cache: KVCache | None = None,
        weights: list[Tensor] | None = None,
    ) -> Tensor:
        """(N, D) -> (N, D)."""
        x = x + self.dropout(self.self_attention(self.norm_self(x), packing, cache))
        x = x + self.dropout(self.cross_attention(self.norm_cross(x), packing, memory, weights))
        return x + self.dropout(self.feed_forward(self.norm_ff(x)))


class TransformerDecoder(nn.Module):
    """The decoder of Vaswani et al. (2017), pre-norm, input and output embeddings tied.

    A `DecoderStyle` makes a GPT-2 with cross-attention of it.
    """

    positions: Tensor

    def __init__(
        self,
        *,
        vocab_size: int,
        dim: int,
        layers: int,
        heads: int,
        ff_dim: int,
        memory_dim: int,
        max_length: int,
        dropout: float = 0.0,
        style: DecoderStyle | None = None,
    ) -> None:
        super().__init__()
        style = style or DecoderStyle()
        self.embedding = nn.Embedding(vocab_size, dim)
        if style.learns_positions:
            self.positions = nn.Parameter(torch.zeros(max_length, dim))
        else:
            self.register_buffer("positions", sinusoids(max_length, dim), persistent=False)
        self.max_length = max_length
        self.embedding_scale = math.sqrt(dim) if style.scales_embeddings else 1.0
        self.dropout = nn.Dropout(dropout)
        self.blocks: Sequence[DecoderBlock] = nn.ModuleList(  # type: ignore[assignment]
            DecoderBlock(dim, heads, ff_dim, memory_dim, dropout, style) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim, style.norm_eps)
        self._vocabulary: IntegerMatrix | None = None
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        initialise(self, branches=3 * layers)

    def add_no_memory(self) -> None:
        """Let cross-attention begin without effect: captions go on as if there were no picture."""
        for block in self.blocks:
            nn.init.zeros_(block.cross_attention.output.weight)
            nn.init.zeros_(block.cross_attention.output.bias)

    def train_cross_attention_alone(self) -> None:
        """Hold everything frozen but what reads the picture."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_("cross" in name)

    def multiply_in_integers(self) -> None:
        """From now on compute all products with weights in 8-bit integers, to caption only.

        Raises `UserError` where the processor cannot.
        """
        replace_linear(self)
        self._vocabulary = IntegerMatrix(self.embedding.weight)

    def keys_values(self, memory: Tensor) -> list[KeysValues]:
        """(B, P, M) -> each layer's cross-attention keys and values."""
        return [block.cross_attention.keys_values(memory) for block in self.blocks]

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        packing: Packing,
        memory: Sequence[KeysValues],
        caches: Sequence[KVCache] | None = None,
        weights: list[Tensor] | None = None,
    ) -> Tensor:
        """(N,) ids at (N,) positions -> (N, D) hidden states."""
        x = self.embedding(ids) * self.embedding_scale
        x = self.dropout(x + self.positions[positions])
        for layer, block in enumerate(self.blocks):
            cache = caches[layer] if caches is not None else None
            x = block(x, packing, memory[layer], cache, weights)
        return self.norm(x)

    def logits(self, x: Tensor) -> Tensor:
        """(N, D) hidden states -> (N, V): how well each token of the vocabulary follows."""
        if self._vocabulary is not None:
            return self._vocabulary(x)
        return F.linear(x, self.embedding.weight)

    def exact_logits(self, x: Tensor) -> Tensor:
        """`logits` in float32 under autocast too: bfloat16 rounds the best two to the same."""
        with torch.autocast(x.device.type, enabled=False):
            return self.logits(x.float())


class Projection(nn.Module):
    """Adapts the encoder's features to the memory that cross-attention reads.

    Adds a learned position to each patch, because a grid of convolutional features has none.
    """

    def __init__(self, patches: int, feature_dim: int, memory_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(feature_dim)
        self.mlp = nn.Sequential(
            nn.Linear(feature_dim, memory_dim), nn.GELU(), nn.Linear(memory_dim, memory_dim)
        )
        self.positions = nn.Parameter(torch.zeros(patches, memory_dim))
        self.norm_memory = nn.LayerNorm(memory_dim)

    def forward(self, features: Tensor) -> Tensor:
        """(B, P, F) -> (B, P, M)."""
        return self.norm_memory(self.mlp(self.norm(features)) + self.positions)


def plain_projection(feature_dim: int, memory_dim: int) -> nn.Module:
    """What stands before cross-attention in a ViT-GPT2: one linear layer, or nothing where the
    features have its width."""
    return nn.Identity() if feature_dim == memory_dim else nn.Linear(feature_dim, memory_dim)


class MemoryBlock(nn.Module):
    """Self-attention of a picture's tokens among each other, and feed-forward; pre-norm."""

    def __init__(self, dim: int, heads: int, ff_dim: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_self = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim, bias=False)
        self.output = nn.Linear(dim, dim)
        self.norm_ff = nn.LayerNorm(dim)
        self.feed_forward = feed_forward(dim, ff_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, M) -> (B, P, M)."""
        q, k, v = split_heads(self.query_key_value(self.norm_self(x)), self.heads, parts=3)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.dropout(self.output(attended))
        return x + self.dropout(self.feed_forward(self.norm_ff(x)))


def memory_encoder(
    dim: int, *, layers: int, heads: int, ff_dim: int, dropout: float
) -> nn.Sequential:
    """Blocks that let a picture's tokens read each other, once a picture; empty for no layers."""
    if not layers:
        return nn.Sequential()
    blocks = [MemoryBlock(dim, heads, ff_dim, dropout) for _ in range(layers)]
    encoder = nn.Sequential(*blocks, nn.LayerNorm(dim))
    initialise(encoder, branches=2 * layers)
    return encoder


class CaptionModel(nn.Module):
    """Features of pictures in, captions out. The encoder that makes the features is not part of it.

    The encoder lives beside it (`encoder.VisionEncoder`): a frozen one runs once a picture, and its
    weights belong in no checkpoint.
    """

    def __init__(
        self,
        projection: nn.Module,
        decoder: TransformerDecoder,
        memory_layers: nn.Sequential | None = None,
        *,
        gpt2: GPT2Architecture | None = None,
    ) -> None:
        """`projection` makes (B, P, M) of features (B, P, F); `gpt2` describes the decoder where
        it is one."""
        super().__init__()
        self.projection = projection
        self.decoder = decoder
        self.memory_layers = memory_layers or nn.Sequential()
        self.gpt2 = gpt2

    @classmethod
    def from_config(
        cls,
        config: Config,
        *,
        patches: int,
        feature_dim: int,
        vocab_size: int,
        gpt2: GPT2Architecture | None = None,
    ) -> Self:
        """The model of a `Config`, for features of (P, F) and a vocabulary of V entries.

        `gpt2` describes the decoder in the place of the settings. Raises `UserError` where they do
        not fit it.
        """
        memory_dim = config.PROJECTION_DIM
        sizes = {
            "vocab_size": vocab_size,
            "dim": config.DECODER_EMBED_DIM,
            "layers": config.DECODER_LAYERS,
            "heads": config.DECODER_HEADS,
            "ff_dim": config.DECODER_FF_DIM,
            "max_length": config.MAX_SEQ_LEN,
        }
        style, projection = DecoderStyle(), None
        if gpt2 is not None:
            gpt2.check_caption(config.MAX_SEQ_LEN, vocab_size)
            sizes, style = gpt2.sizes, DecoderStyle.of_gpt2(gpt2)
            if gpt2.is_plainly_projected:
                memory_dim = gpt2.dim
                projection = plain_projection(feature_dim, memory_dim)
        heads, ff_dim = sizes["heads"], sizes["ff_dim"]
        if config.MEMORY_LAYERS and memory_dim % heads:
            raise UserError(
                f"MEMORY_LAYERS have the decoder's {heads} heads, which must divide PROJECTION_DIM "
                f"({memory_dim}). Try --PROJECTION_DIM {sizes['dim']}."
            )
        projection = projection or Projection(patches, feature_dim, memory_dim)
        decoder = TransformerDecoder(
            **sizes, memory_dim=memory_dim, dropout=config.DECODER_DROPOUT, style=style
        )
        if config.DECODER_TRAINED == "cross-attention":
            decoder.train_cross_attention_alone()
        return cls(
            projection,
            decoder,
            memory_encoder(
                memory_dim,
                layers=config.MEMORY_LAYERS,
                heads=heads,
                ff_dim=ff_dim,
                dropout=config.DECODER_DROPOUT,
            ),
            gpt2=gpt2,
        )

    def encode_memory(self, features: Tensor) -> list[KeysValues]:
        """(B, P, F) features -> what each decoder layer's cross-attention reads."""
        memory = self.memory_layers(self.projection(features))  # (B, P, M)
        return self.decoder.keys_values(memory)  # L x 2 (B, H, P, d)

    def forward(self, features: Tensor, ids: Tensor, positions: Tensor, packing: Packing) -> Tensor:
        """(B, P, F) features and (N,) tokens -> (N, V) logits of the tokens that follow."""
        hidden = self.decoder(ids, positions, packing, self.encode_memory(features))
        return self.decoder.logits(hidden)


class DecoderState:
    """Open captions of B pictures, W rows each; reads one token a row at a time.

    It is the `NextToken` that `decoding` searches over.
    """

    def __init__(self, decoder: TransformerDecoder, memory: Sequence[KeysValues]) -> None:
        """Begin with one empty row for each picture of `CaptionModel.encode_memory`."""
        self._decoder = decoder
        self._memory = [layer.for_few() for layer in memory]
        self._caches = [KVCache() for _ in self._memory]
        self._length = 0
        self._width = 1

    def step(self, tokens: Tensor) -> Tensor:
        """(B, W) newest token of each row -> (B, W, V) float32 logits of the next."""
        ids, self._width = tokens.flatten(), tokens.shape[1]
        position = torch.full_like(ids, self._length)
        packing = Packing(rows=ids.numel(), length=1)
        hidden = self._decoder(ids, position, packing, self._memory, self._caches)
        self._length += 1
        return self._decoder.exact_logits(hidden).view(*tokens.shape, -1)

    def reorder(self, pictures: Tensor, rows: Tensor) -> None:
        """New picture b is old picture `pictures[b]`; its row w goes on from old `rows[b, w]`."""
        before = self._memory[0].keys.shape[0]
        if len(pictures) != before:
            self._memory = [layer.of_pictures(pictures) for layer in self._memory]
        flat = (pictures[:, None] * self._width + rows).flatten()
        for cache in self._caches:
            cache.reorder(flat)
        self._width = rows.shape[1]


def feed_forward(dim: int, ff_dim: int, activation: str = "gelu_new") -> nn.Sequential:
    """The feed-forward network of a block, by default with GPT-2's form of GELU."""
    return nn.Sequential(nn.Linear(dim, ff_dim), ACTIVATIONS[activation](), nn.Linear(ff_dim, dim))


def initialise(module: nn.Module, *, branches: int) -> None:
    """Xavier for matrices, residual branches scaled down by how many add up (GPT-2)."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            is_branch = name.endswith(("output", "feed_forward.2"))
            nn.init.xavier_uniform_(part.weight, gain=branches**-0.5 if is_branch else 1.0)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def split_heads(x: Tensor, heads: int, *, parts: int) -> Tensor:
    """(B, T, parts * D) -> (parts, B, H, T, d)."""
    B, T, width = x.shape
    return x.view(B, T, parts, heads, width // (parts * heads)).permute(2, 0, 3, 1, 4)


def sinusoids(length: int, dim: int) -> Tensor:
    """(length, dim) positions of Vaswani et al. (2017), section 3.5; `dim` is even."""
    frequencies = torch.exp(torch.arange(0, dim, 2) * (-math.log(10_000.0) / dim))
    angles = torch.arange(length)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
