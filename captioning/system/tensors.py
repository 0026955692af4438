"""Named tensors in safetensors files: written from any device, read whole or with an error."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from captioning.system.errors import UserError
from captioning.system.reading import check_regular

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of tensors by name."""
MOST_SPARE_WEIGHTS = 1_000
"""How many weights may be missing in the files of an encoder."""


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file; raises `OSError` where the disk does not take it."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(plain, path, metadata={"format": "pt"})
    except SafetensorError as error:  # as which the library reports a full disk
        raise OSError(f"{path.name}: {error}") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file. Raises `UserError` where it is missing or damaged, or a number in it
    is none."""
    with _damage_named(path):
        tensors = load_file(path)
    for name, tensor in tensors.items():
        _check_numbers(name, tensor, path)
    return tensors


def read_some(path: Path, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a file by their names, one after the other; raises `UserError` as
    `read_tensors`."""
    with _damage_named(path), safe_open(path, framework="pt") as file:
        for name in names:
            tensor = file.get_tensor(name)
            _check_numbers(name, tensor, path)
            yield name, tensor


def tensor_shapes(path: Path, *, prefix: str = "") -> Shapes:
    """Shape of each tensor under `prefix`, from the file's header alone.

    Raises `UserError` where the file is missing or damaged.
    """
    with _damage_named(path), safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        return {name: tuple(file.get_slice(name).get_shape()) for name in names}


@contextmanager
def built_within(shapes: Shapes, name: str, *, spare: int = 0) -> Iterator[None]:
    """Within the block modules may be built that have no more weights than `shapes`, and `spare`
    numbers besides.

    Raises `UserError`, which calls them `name`, as soon as there are more: before a weight is
    filled, so before it takes memory.
    """
    most = sum(map(math.prod, shapes.values())) + spare
    most_weights = len(shapes) + (MOST_SPARE_WEIGHTS if spare else 0)
    sizes: dict[tuple[int, str], int] = {}
    total = 0

    def note(module: nn.Module, key: str, weight: nn.Parameter | None) -> None:
        nonlocal total
        if weight is None:
            return
        size = weight.numel()
        total += size - sizes.get((id(module), key), 0)  # weights that are loaded take places
        sizes[id(module), key] = size
        if total > most or len(sizes) > most_weights:
            raise UserError(
                f"{name} does not fit the settings beside it: it holds {len(shapes):,} weights of "
                f"{most - spare:,} numbers, and they ask for more. Take settings and weights from "
                "one model."
            )

    handle = register_module_parameter_registration_hook(note)
    try:
        yield
    finally:
        handle.remove()


def fill_tensors(
    expected: Mapping[str, Tensor], path: Path, *, prefix: str = "", without: str = ""
) -> None:
    """Fill tensors from a file, in which those under `prefix` must be these and no others, but for
    those whose names begin with `without` (if given), which are passed over in both.

    Raises `UserError` where a name or a shape differs, a number is none, or the file is damaged.
    """
    found = tensor_shapes(path, prefix=prefix)
    if without:
        expected = {name: expected[name] for name in expected if not name.startswith(without)}
        found = {name: found[name] for name in found if not name.startswith(without)}
    problems = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    problems += [f"{name} is unknown" for name in sorted(found.keys() - expected.keys())]
    for name in sorted(expected.keys() & found.keys()):
        wanted = tuple(expected[name].shape)
        if found[name] != wanted:
            problems.append(f"{name} is {found[name]}, the settings make it {wanted}")
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise UserError(
            f"{path} does not fit the settings beside it: {'; '.join(problems[:3])}{more}. "
            "Take config.toml, tokenizer.json and model.safetensors from one checkpoint."
        )
    with _damage_named(path), safe_open(path, framework="pt") as file, torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(file.get_tensor(name))
            _check_numbers(name, tensor, path)


def _check_numbers(name: str, tensor: Tensor, path: Path) -> None:
    if tensor.is_floating_point() and not tensor.isfinite().all():
        raise UserError(
            f"{path} is no model to go on with: {name} holds numbers that are none (NaN or "
            "infinity). Take another checkpoint, or train again with a lower LEARNING_RATE."
        )


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Make a sentence of what the library finds wrong with a file."""
    try:
        check_regular(path)
        yield
    except SafetensorError as error:
        raise UserError(f"{path} is damaged: {error}.") from None
    except OSError as error:
        raise UserError(f"{path} is damaged: {error.strerror or error}.") from None
