"""A trained encoder in parts: each process keeps its share of weights, gradients and moments.

PyTorch's FSDP2 puts a block together when it is computed, and takes it apart again. Outside of
training steps `unsharded` holds the whole encoder, so that each process may use it as often as
it likes. Tensors that are no parts pass through all functions here as they are.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from captioning.system.runtime import Runtime
from captioning.vision.blocks import blocks_of


def shard(encoder: nn.Module, runtime: Runtime) -> None:
    """Take an encoder apart, block by block; alone, a process keeps all of it."""
    if runtime.is_alone:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(runtime.device.type, (runtime.world_size,))
    is_half = runtime.dtype is not torch.float32
    policy = MixedPrecisionPolicy(
        param_dtype=runtime.dtype if is_half else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,  # pixels are bytes
    )
    for block in blocks_of(encoder):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(encoder, mesh=mesh, mp_policy=policy)


def is_sharded(module: nn.Module) -> bool:
    """Whether a module was taken apart."""
    return any(is_part(parameter) for parameter in module.parameters())


def is_part(tensor: Tensor) -> bool:
    """Whether a tensor is one process's part of a larger one."""
    return hasattr(tensor, "full_tensor")


def full_tensor(tensor: Tensor) -> Tensor:
    """The tensor of which this is a part; all processes ask for it together."""
    return tensor.full_tensor() if is_part(tensor) else tensor  # type: ignore[attr-defined]


def part_like(tensor: Tensor, parameter: Any) -> Tensor:
    """The part of a whole tensor that belongs to `parameter`, on its device."""
    tensor = tensor.to(parameter.device)
    if not is_part(parameter) or tensor.shape != parameter.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, places = parameter.device_mesh, parameter.placements
    return distribute_tensor(tensor, mesh, places, src_data_rank=None)


@contextmanager
def unsharded(encoder: nn.Module) -> Iterator[None]:
    """Within the block each process has the whole encoder."""
    if not is_sharded(encoder):
        yield
        return
    parts: list[Any] = [module for module in encoder.modules() if hasattr(module, "unshard")]
    for part in parts:
        part.set_reshard_after_forward(False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(True)


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    """Scale the gradients down to a norm of at most `max_norm`; returns the norm that they had."""
    with_gradients = [parameter for parameter in parameters if parameter.grad is not None]
    kinds = [
        [parameter for parameter in with_gradients if is_part(parameter) is kind]
        for kind in (False, True)
    ]
    norms = [
        full_tensor(nn.utils.get_total_norm([p.grad for p in kind if p.grad is not None]))
        for kind in kinds
        if kind
    ]
    norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    for kind in kinds:
        nn.utils.clip_grads_with_norm_(kind, max_norm, norm)
    return norm
