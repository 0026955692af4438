"""LoRA (Hu et al., 2021): two thin matrices beside a linear layer learn, the layer itself does not.

    add_lora(tower, [tower.layers[1]], rank=8, seed=42)
    plain_state(tower)       the tower's own names, what was learnt added to them
    adapter_state(tower)     what training goes on with: adapters, and the layers as they were

Needs `peft` to be added (`pip install -e .[lora]`), and not to caption with what was learnt.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from captioning.system.errors import UserError

ALPHA_PER_RANK = 2
"""What was learnt counts this many times."""


def add_lora(tower: nn.Module, blocks: Sequence[nn.Module], *, rank: int, seed: int) -> None:
    """Put adapters beside the linear layers of `blocks`; they alone of the tower are trained.

    They begin as nothing: the tower gives what it gave.
    """
    if find_spec("peft") is None:
        raise UserError(
            f"ENCODER_LORA_RANK is {rank}, which needs peft. Install it: pip install -e .[lora]"
        )
    from peft import LoraConfig, inject_adapter_in_model

    inside = {module for block in blocks for module in block.modules()}
    names = [
        name
        for name, module in tower.named_modules()
        if isinstance(module, nn.Linear) and module in inside and module.weight.requires_grad
    ]
    if not names:
        raise UserError(
            f"ENCODER_LORA_RANK is {rank}; the encoder's trained blocks have no linear layers that "
            "it could adapt. Leave it out, which trains the blocks themselves."
        )
    config = LoraConfig(r=rank, lora_alpha=ALPHA_PER_RANK * rank, target_modules=names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, tower)
    for name, parameter in tower.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    tower.eval()


def plain_state(tower: nn.Module) -> dict[str, Tensor]:
    """The tower's state under its own names; what adapters have learnt is added to the layers."""
    state = {
        key.replace(".base_layer.", "."): value
        for key, value in tower.state_dict().items()
        if ".lora_" not in key
    }
    for name, layer in _adapted(tower).items():
        weight = layer.base_layer.weight.detach()
        state[f"{name}.weight"] = weight + layer.get_delta_weight("default").detach()
    return state


def adapter_state(tower: nn.Module) -> dict[str, Tensor]:
    """Adapters, and the layers that they stand beside as they were; empty without any."""
    return {
        f"{name}.{key}": value
        for name, layer in _adapted(tower).items()
        for key, value in layer.state_dict().items()
    }


def load_adapter_state(tower: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Fill the tower with what `adapter_state` gave; false where names or shapes differ."""
    adapters = adapter_state(tower)
    if {key: value.shape for key, value in adapters.items()} != {
        key: value.shape for key, value in tensors.items()
    }:
        return False
    with torch.no_grad():
        for key, value in adapters.items():
            value.copy_(tensors[key])
    return True


def _adapted(tower: nn.Module) -> dict[str, Any]:
    return {name: module for name, module in tower.named_modules() if hasattr(module, "base_layer")}
