"""Files of named tensors: what was saved comes back, what does not fit is named."""

from pathlib import Path

import pytest
import torch

from captioning.system.errors import UserError
from captioning.system.tensors import fill_tensors, read_tensors, save_tensors


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    tensors = {"a.x": torch.randn(3, 2).T, "a.y": torch.tensor(2), "b.x": torch.zeros(0)}
    save_tensors(tensors, path)
    assert all(one.equal(tensors[name]) for name, one in read_tensors(path).items())
    filled = {"a.x": torch.zeros(2, 3), "a.y": torch.tensor(0)}
    fill_tensors(filled, path, prefix="a.")
    assert all(one.equal(tensors[name]) for name, one in filled.items())


def test_what_does_not_fit_is_named_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    save_tensors({"x": torch.ones(2), "y": torch.ones(2)}, path)
    expected = {"y": torch.zeros(3), "z": torch.zeros(1)}
    with pytest.raises(UserError, match=r"z is missing; x is unknown; y is \(2,\), the settings"):
        fill_tensors(expected, path)
    assert not expected["y"].any()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    with pytest.raises(UserError, match="is damaged"):
        read_tensors(path)
    path.write_bytes(b"no tensors")
    for read in (read_tensors, lambda path: fill_tensors({}, path)):
        with pytest.raises(UserError, match=r"some\.safetensors is damaged"):
            read(path)


def test_a_disk_that_does_not_take_it_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"some\.safetensors"):
        save_tensors({"x": torch.ones(2)}, tmp_path / "missing" / "some.safetensors")
