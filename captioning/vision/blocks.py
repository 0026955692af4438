"""The blocks of a vision tower: which of them train, how deep a weight lies, what memory they need.

A block is an entry of the tower's largest list of modules: a layer or, where there are any, a
stage.
"""

from collections.abc import Set
from functools import partial
from typing import Any

import torch
from torch import nn

from captioning.system.errors import UserError


def blocks_of(tower: nn.Module) -> list[nn.Module]:
    """The entries of the list that holds most parameters: layers, or stages where there are any."""
    lists = [module for module in tower.modules() if isinstance(module, nn.ModuleList)]
    sizes = [sum(parameter.numel() for parameter in found.parameters()) for found in lists]
    return list(lists[sizes.index(max(sizes))]) if lists else []


def last_blocks(
    tower: nn.Module, trained_blocks: int, name: str, *, unused: Set[str] = frozenset()
) -> list[nn.Module]:
    """The modules that train: none for 0, the tower for -1, else its last blocks.

    Blocks whose parameters are all `unused` (they follow the layer that features are taken from)
    do not count. What follows the blocks, such as a final norm, is no part of them.
    """
    if trained_blocks == 0:
        return []
    if trained_blocks == -1:
        return [tower]
    idle = {id(tower.get_parameter(key)) for key in unused}
    blocks = [
        block
        for block in blocks_of(tower)
        if any(id(parameter) not in idle for parameter in block.parameters())
    ]
    if trained_blocks > len(blocks):
        raise UserError(
            f"ENCODER_TRAINED_BLOCKS is {trained_blocks}; {name} has {len(blocks)} blocks. "
            "Use -1 to train the whole encoder."
        )
    return blocks[-trained_blocks:]


def depths(tower: nn.Module) -> dict[nn.Parameter, int]:
    """How many blocks before the last trained one each parameter stands.

    What comes before the blocks is one deeper than the first of them; what follows them is as deep
    as the last.
    """
    blocks = blocks_of(tower)
    place = {id(p): number for number, block in enumerate(blocks) for p in block.parameters()}
    last = max((place.get(id(p), 0) for p in tower.parameters() if p.requires_grad), default=0)
    found, has_begun = {}, False
    for parameter in tower.parameters():
        has_begun |= id(parameter) in place
        outside = last if has_begun else -1
        found[parameter] = max(last - place.get(id(parameter), outside), 0)
    return found


def recompute_blocks(tower: nn.Module, name: str) -> None:
    """Let blocks that train keep their input alone and compute the rest again for the gradient."""
    for block in blocks_of(tower):
        counts = any(
            isinstance(module, nn.modules.batchnorm._BatchNorm) for module in block.modules()
        )
        if counts and any(parameter.requires_grad for parameter in block.parameters()):
            raise UserError(
                f"GRADIENT_CHECKPOINTING is on; {name} has BatchNorm, which would count each "
                "picture twice. Leave it out, and lower MICRO_BATCH_SIZE instead."
            )
        block.forward = partial(_recomputed, block, block.forward)


def _recomputed(block: nn.Module, forward: Any, *args: Any, **kwargs: Any) -> Any:
    from torch.utils.checkpoint import checkpoint

    if torch.is_grad_enabled() and any(p.requires_grad for p in block.parameters()):
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)
    return forward(*args, **kwargs)
