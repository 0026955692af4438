"""A small caption model of random weights, always the same."""

import torch

from model import CaptionModel, Projection, TransformerDecoder

VOCABULARY, PATCHES, FEATURES = 50, 6, 10
"""Its entries, the tokens of a picture and their width."""


def make_model(
    *, vocabulary: int = VOCABULARY, heads: int = 4, dropout: float = 0.0, seed: int = 0
) -> CaptionModel:
    """Two layers of width 16 on (B, PATCHES, FEATURES) features, for at most 20 tokens."""
    torch.manual_seed(seed)
    decoder = TransformerDecoder(
        vocab_size=vocabulary,
        dim=16,
        layers=2,
        heads=heads,
        ff_dim=32,
        memory_dim=12,
        max_length=20,
        dropout=dropout,
    )
    return CaptionModel(Projection(PATCHES, FEATURES, 12), decoder)
