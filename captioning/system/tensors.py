"""Named tensors in safetensors files: written from any device, read whole or with an error."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from captioning.system.errors import UserError


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file; raises `OSError` where the disk does not take it."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(plain, path, metadata={"format": "pt"})
    except SafetensorError as error:  # as which the library reports a full disk
        raise OSError(f"{path.name}: {error}") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file. Raises `UserError` where it is missing or damaged."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged: {error}.") from None


def fill_tensors(expected: Mapping[str, Tensor], path: Path, *, prefix: str = "") -> None:
    """Fill tensors from a file, in which those under `prefix` must be these and no others.

    Raises `UserError` where a name or a shape differs, or the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found = {name for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
            problems = [f"{name} is missing" for name in sorted(expected.keys() - found)]
            problems += [f"{name} is unknown" for name in sorted(found - expected.keys())]
            for name in sorted(expected.keys() & found):
                seen, wanted = tuple(file.get_slice(name).get_shape()), expected[name].shape
                if seen != tuple(wanted):
                    problems.append(f"{name} is {seen}, the settings make it {tuple(wanted)}")
            if problems:
                more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
                raise UserError(
                    f"{path} does not fit the settings beside it: {'; '.join(problems[:3])}{more}. "
                    "Take config.toml, tokenizer.json and model.safetensors from one checkpoint."
                )
            with torch.no_grad():
                for name, tensor in expected.items():
                    tensor.copy_(file.get_tensor(name))
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged: {error}.") from None
