"""An image captioner for transformers: a vision encoder of the library, and a small decoder.

    B  pictures           T  tokens of a caption       R  rows: captions or beams, 1 a picture at
    P  patches            D  width of the decoder         first
    F  encoder's width    M  width of the memory

This file stands alone: `trust_remote_code=True` runs it, and it imports torch and transformers.
It computes what the trainer's own model computes, from the same weights by the same names.
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, GenerationMixin, Pipeline, PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.cache_utils import EncoderDecoderCache
from transformers.image_utils import load_image
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput


class CaptionerConfig(PreTrainedConfig):
    """Sizes of a captioner; `encoder` is the config of its vision tower."""

    model_type = "image-captioner"
    sub_configs: ClassVar = {"encoder": AutoConfig}

    def __init__(
        self,
        encoder: Any = None,
        encoder_class: str = "ViTModel",
        encoder_inputs: dict[str, Any] | None = None,
        encoder_layers: tuple[int, ...] = (-1,),
        encoder_tokens: tuple[int, int | None] | None = (0, None),
        encoder_pooling: int = 1,
        encoder_grid: tuple[int, int] = (1, 1),
        num_patches: int = 1,
        feature_size: int = 1,
        memory_size: int = 512,
        memory_layers: int = 0,
        memory_heads: int = 8,
        memory_intermediate_size: int = 2048,
        vocab_size: int = 10_000,
        hidden_size: int = 512,
        num_hidden_layers: int = 6,
        num_attention_heads: int = 8,
        intermediate_size: int = 2048,
        max_position_embeddings: int = 50,
        plain_projection: bool = False,
        attention_bias: bool = False,
        learned_positions: bool = False,
        scale_embedding: bool = True,
        activation: str = "gelu_pytorch_tanh",
        layer_norm_eps: float = 1e-5,
        is_encoder_decoder: bool = True,
        **kwargs: Any,
    ) -> None:
        """`encoder_layers` are the tower's layers put side by side (-1 is its output),
        `encoder_tokens` the first and the end of the tokens that are read, None for the pooled
        vector; squares of `encoder_pooling` patches of `encoder_grid` (rows, columns) become one.
        `encoder_inputs` is what the tower is told besides pixels. From `plain_projection` on a
        decoder from scratch and a GPT-2 differ."""
        if not isinstance(encoder, PreTrainedConfig):
            encoder = AutoConfig.for_model(**(encoder or {"model_type": "vit"}))
        self.encoder = encoder
        self.encoder_class = encoder_class
        self.encoder_inputs = encoder_inputs or {}
        self.encoder_layers = list(encoder_layers)
        self.encoder_tokens = encoder_tokens
        self.encoder_pooling, self.encoder_grid = encoder_pooling, encoder_grid
        self.num_patches, self.feature_size = num_patches, feature_size
        self.memory_size, self.memory_layers = memory_size, memory_layers
        self.memory_heads, self.memory_intermediate_size = memory_heads, memory_intermediate_size
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.max_position_embeddings = max_position_embeddings
        self.plain_projection, self.attention_bias = plain_projection, attention_bias
        self.learned_positions, self.scale_embedding = learned_positions, scale_embedding
        self.activation, self.layer_norm_eps = activation, layer_norm_eps
        super().__init__(is_encoder_decoder=is_encoder_decoder, **kwargs)


class VisionEncoder(nn.Module):
    """The vision tower, and which of what it gives is read."""

    main_input_name = "pixel_values"

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        self.config = config
        self.tower = getattr(transformers, config.encoder_class)(config.encoder)

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutput:
        """(B, 3, H, W) -> `last_hidden_state` (B, P, F)."""
        layers, inputs = self.config.encoder_layers, dict(self.config.encoder_inputs)
        if layers != [-1]:
            inputs["output_hidden_states"] = True
        if inputs.pop("as_patches", False):
            inputs |= as_patches(pixel_values, self.config.encoder.patch_size)
        else:
            inputs["pixel_values"] = pixel_values
        output = self.tower(**inputs)
        if self.config.encoder_tokens is None:
            return BaseModelOutput(output.pooler_output.flatten(1)[:, None])
        last = getattr(output, "last_hidden_state", None)
        outputs = {-1: output.pooler_output if last is None else last}
        tokens = [
            as_tokens(outputs[place] if place in outputs else output.hidden_states[place])
            for place in layers
        ]
        start, stop = self.config.encoder_tokens
        return BaseModelOutput(self.averaged(torch.cat(tokens, -1)[:, start:stop]))

    def averaged(self, tokens: Tensor) -> Tensor:
        """(B, P, F) with each square of the patches, which stand last, as its mean."""
        side, (rows, columns) = self.config.encoder_pooling, self.config.encoder_grid
        if side == 1:
            return tokens
        prefix, patches = tokens.tensor_split([tokens.shape[1] - rows * columns], dim=1)
        on_grid = patches.transpose(1, 2).reshape(len(tokens), -1, rows, columns)
        return torch.cat([prefix, F.avg_pool2d(on_grid, side).flatten(2).transpose(1, 2)], dim=1)


class Projection(nn.Module):
    """Features as the memory that the decoder reads."""

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.feature_size)
        self.mlp = nn.Sequential(
            nn.Linear(config.feature_size, config.memory_size),
            nn.GELU(),
            nn.Linear(config.memory_size, config.memory_size),
        )
        self.positions = nn.Parameter(torch.zeros(config.num_patches, config.memory_size))
        self.norm_memory = nn.LayerNorm(config.memory_size)

    def forward(self, features: Tensor) -> Tensor:
        """(R, P, F) -> (R, P, M)."""
        return self.norm_memory(self.mlp(self.norm(features)) + self.positions)


class MemoryBlock(nn.Module):
    """The tokens of a picture read each other."""

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        dim, self.heads = config.memory_size, config.memory_heads
        self.norm_self = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim, bias=False)
        self.output = nn.Linear(dim, dim)
        self.norm_ff = nn.LayerNorm(dim)
        self.feed_forward = feed_forward(dim, config.memory_intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        """(R, P, M) -> (R, P, M)."""
        q, k, v = split_heads(self.query_key_value(self.norm_self(x)), self.heads, 3)
        x = x + self.output(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.feed_forward(self.norm_ff(x))


class SelfAttention(nn.Module):
    """Each token reads the tokens before it and itself."""

    def __init__(self, config: CaptionerConfig, layer: int) -> None:
        super().__init__()
        dim, self.heads, self.layer = config.hidden_size, config.num_attention_heads, layer
        self.query_key_value = nn.Linear(dim, 3 * dim, bias=config.attention_bias)
        self.output = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None, cache: Any) -> Tensor:
        """(R, T, D) -> (R, T, D)."""
        q, k, v = split_heads(self.query_key_value(x), self.heads, 3)
        if cache is not None:
            k, v = cache.self_attention_cache.update(k, v, self.layer)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.output(x.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Each token reads the memory of its picture, whose keys and values are made once."""

    def __init__(self, config: CaptionerConfig, layer: int) -> None:
        super().__init__()
        dim, self.heads, self.layer = config.hidden_size, config.num_attention_heads, layer
        self.query = nn.Linear(dim, dim, bias=config.attention_bias)
        self.key_value = nn.Linear(config.memory_size, 2 * dim, bias=config.attention_bias)
        self.output = nn.Linear(dim, dim)

    def forward(self, x: Tensor, memory: Tensor | None, cache: Any) -> Tensor:
        """(R, T, D) -> (R, T, D); `memory` (R, P, M) is None where the cache holds it."""
        if memory is None:
            held = cache.cross_attention_cache.layers[self.layer]
            k, v = held.keys, held.values
        else:
            k, v = split_heads(self.key_value(memory), self.heads, 2)
            if cache is not None:
                k, v = cache.cross_attention_cache.update(k, v, self.layer)
                cache.is_updated[self.layer] = True
        (q,) = split_heads(self.query(x), self.heads, 1)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.output(x.transpose(1, 2).flatten(2))


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward, each on the normalised sum so far."""

    def __init__(self, config: CaptionerConfig, layer: int) -> None:
        super().__init__()
        dim, eps = config.hidden_size, config.layer_norm_eps
        self.norm_self = nn.LayerNorm(dim, eps)
        self.self_attention = SelfAttention(config, layer)
        self.norm_cross = nn.LayerNorm(dim, eps)
        self.cross_attention = CrossAttention(config, layer)
        self.norm_ff = nn.LayerNorm(dim, eps)
        self.feed_forward = feed_forward(dim, config.intermediate_size, config.activation)

    def forward(self, x: Tensor, mask: Tensor | None, memory: Tensor | None, cache: Any) -> Tensor:
        """(R, T, D) -> (R, T, D)."""
        x = x + self.self_attention(self.norm_self(x), mask, cache)
        x = x + self.cross_attention(self.norm_cross(x), memory, cache)
        return x + self.feed_forward(self.norm_ff(x))


class Decoder(nn.Module):
    """A pre-norm transformer decoder; the embedding is the output layer, too."""

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.scale = math.sqrt(config.hidden_size) if config.scale_embedding else 1.0
        if config.learned_positions:
            shape = (config.max_position_embeddings, config.hidden_size)
            self.positions = nn.Parameter(torch.zeros(shape))
        self.blocks = nn.ModuleList(
            DecoderBlock(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, ids: Tensor, memory: Tensor | None, cache: Any) -> Tensor:
        """(R, T) ids -> (R, T, V) logits in float32."""
        length = cache.get_seq_length() if cache is not None else 0
        places = torch.arange(length, length + ids.shape[1], device=ids.device)
        x = self.embedding(ids) * self.scale
        if hasattr(self, "positions"):
            x = x + self.positions[places]
        else:
            x = x + sinusoids(places, x.shape[-1]).to(x.dtype)
        # A token reads those up to its own place; a single one reads all that there are.
        until = torch.arange(length + ids.shape[1], device=ids.device) <= places[:, None]
        for block in self.blocks:
            x = block(x, until if ids.shape[1] > 1 else None, memory, cache)
        return F.linear(self.norm(x).float(), self.embedding.weight.float())


class CaptionModel(nn.Module):
    """Features of pictures and tokens of captions in, logits of the next tokens out."""

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        self.projection: nn.Module
        if config.plain_projection and config.feature_size == config.memory_size:
            self.projection = nn.Identity()
        elif config.plain_projection:
            self.projection = nn.Linear(config.feature_size, config.memory_size)
        else:
            self.projection = Projection(config)
        blocks = [MemoryBlock(config) for _ in range(config.memory_layers)]
        self.memory_layers = nn.Sequential(
            *blocks, *([nn.LayerNorm(config.memory_size)] if blocks else [])
        )
        self.decoder = Decoder(config)

    def forward(self, features: Tensor, ids: Tensor, cache: Any) -> Tensor:
        """(R, P, F) and (R, T) -> (R, T, V)."""
        is_known = cache is not None and cache.is_updated.get(0)
        memory = None if is_known else self.memory_layers(self.projection(features))
        return self.decoder(ids, memory, cache)


class CaptionerForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """`generate(pixel_values=...)` writes captions; beams and lengths are those of training."""

    config_class = CaptionerConfig
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__(config)
        self.encoder = VisionEncoder(config)
        self.model = CaptionModel(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The embedding of tokens."""
        return self.model.decoder.embedding

    def generate(
        self, inputs: Any = None, *args: Any, input_ids: Tensor | None = None, **options: Any
    ) -> Any:
        """Captions of pixels; `input_ids` are what they begin with, if anything: the tokenizer may
        have put the start token before them, and the end token behind."""
        end = self.generation_config.eos_token_id
        if input_ids is not None and input_ids.shape[1] and (input_ids[:, -1] == end).all():
            input_ids = input_ids[:, :-1]
        if input_ids is not None and input_ids.shape[1]:
            options["decoder_input_ids"] = input_ids
        return super().generate(inputs, *args, **options)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: EncoderDecoderCache | None = None,
        attention_mask: Tensor | None = None,
        return_dict: bool = True,
        **_: Any,
    ) -> Any:
        """(B, 3, H, W) pixels, as the image processor makes them, and (B, T) tokens, <START> first
        -> logits (B, T, V)."""
        if attention_mask is not None and not attention_mask.all():
            raise ValueError("The beginnings of captions of one batch must be equally long.")
        if encoder_outputs is None:
            encoder_outputs = self.encoder(pixel_values)
        features = encoder_outputs[0]
        output = Seq2SeqLMOutput(
            logits=self.model(features, decoder_input_ids, past_key_values),
            past_key_values=past_key_values,
            encoder_last_hidden_state=features,
        )
        return output if return_dict else output.to_tuple()


class CaptionPipeline(Pipeline):
    """`pipeline("image-to-text", REPOSITORY, trust_remote_code=True)("photo.jpg")`."""

    _load_processor, _load_feature_extractor = False, False
    _load_image_processor, _load_tokenizer = True, True

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], ...]:
        return {}, options, {}

    def preprocess(self, picture: Any, **_: Any) -> Any:
        """A path, an address or a PIL picture as pixels."""
        return self.image_processor(load_image(picture), return_tensors="pt")

    def _forward(self, inputs: Any, **options: Any) -> dict[str, Tensor]:
        return {"ids": self.model.generate(**inputs, **options)}

    def postprocess(self, found: dict[str, Tensor]) -> list[dict[str, str]]:
        """The captions of a picture, best first."""
        texts = self.tokenizer.batch_decode(found["ids"], skip_special_tokens=True)
        return [{"generated_text": text.strip()} for text in texts]


def feed_forward(
    dim: int, intermediate: int, activation: str = "gelu_pytorch_tanh"
) -> nn.Sequential:
    """The feed-forward network of a block."""
    return nn.Sequential(
        nn.Linear(dim, intermediate), ACT2FN[activation], nn.Linear(intermediate, dim)
    )


def split_heads(x: Tensor, heads: int, parts: int) -> Tensor:
    """(R, T, parts * D) -> (parts, R, heads, T, D / heads)."""
    R, T, width = x.shape
    return x.view(R, T, parts, heads, width // (parts * heads)).permute(2, 0, 3, 1, 4)


def sinusoids(places: Tensor, dim: int) -> Tensor:
    """(T,) places -> (T, dim) of Vaswani et al. (2017), section 3.5."""
    frequencies = torch.exp(torch.arange(0, dim, 2) * (-math.log(10_000.0) / dim))
    angles = places[:, None] * frequencies.to(places.device)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def as_tokens(output: Tensor) -> Tensor:
    """A sequence as it is, a map (B, F, rows, columns) row by row, a vector as one token."""
    if output.ndim == 4:
        return output.flatten(2).transpose(1, 2)
    return output[:, None] if output.ndim == 2 else output


def as_patches(pixels: Tensor, patch: int) -> dict[str, Tensor]:
    """Pixels (B, 3, H, W) as SigLIP 2 takes pictures of any shape: patches, mask, sides."""
    B, C, H, W = pixels.shape
    rows, columns = H // patch, W // patch
    cut = pixels.view(B, C, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
    return {
        "pixel_values": cut.reshape(B, rows * columns, patch * patch * C),
        "pixel_attention_mask": pixels.new_ones(B, rows * columns, dtype=torch.long),
        "spatial_shapes": torch.tensor([[rows, columns]] * B, device=pixels.device),
    }
