"""The benchmark of generation: all sides write the same captions' lengths, and work is counted."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from model import CaptionModel, Projection, TransformerDecoder

PATH = Path(__file__).parents[2] / "benchmarks" / "generation.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generation_benchmark", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_work_is_that_of_the_matrix_products(benchmark: ModuleType) -> None:
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert benchmark.gflop_of(lambda: (a @ b).numel()) == pytest.approx(2 * 3 * 5 * 7 / 1e9)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_the_old_way_writes_the_same_tokens(benchmark: ModuleType, beam_size: int) -> None:
    torch.manual_seed(0)
    decoder = TransformerDecoder(
        vocab_size=20, dim=8, layers=2, heads=2, ff_dim=16, memory_dim=8, max_length=64
    )
    model = CaptionModel(Projection(4, 6, 8), decoder).eval()
    features, lengths = torch.randn(3, 4, 6), torch.tensor([2, 7, 4])
    for side in (benchmark.ours, benchmark.old):
        assert side(model, features, beam_size, lengths) == 13
    work = [
        benchmark.gflop_of(lambda side=side: side(model, features, beam_size, lengths))
        for side in (benchmark.ours, benchmark.old)
    ]
    assert work[0] < work[1] / 2
