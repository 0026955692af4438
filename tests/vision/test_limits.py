"""What a stranger's config may ask for."""

from typing import Any

import pytest

from captioning.system.errors import UserError
from captioning.vision.limits import check_config


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_size": 10**9},
        {"vision_config": {"embed_dim": 10**6}},
        {"intermediate_size": 10**8},
        {"num_hidden_layers": 10**6},
        {"image_size": 4096, "patch_size": 1},
        {"vision_config": {"image_size": [4000, 4000], "patch_size": [8, 2]}},
    ],
)
def test_numbers_beyond_any_encoder_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="is the most that is believed"):
        check_config(values, "somebody/encoder")


def test_those_of_the_largest_encoders_are_believed() -> None:
    layers = {"hidden_size": 6144, "intermediate_size": 24_576, "num_hidden_layers": 48}
    check_config({**layers, "image_size": 1024, "patch_size": 14, "vocab_size": 256_000}, "large")
    check_config({"image_size": 518, "patch_size": 0}, "refused when it is built")
