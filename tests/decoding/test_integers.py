"""Products of 8-bit integers: near the exact ones, of each row alone, and said wherever used."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from captioner import Captioner
from captioning.decoding import SearchOptions
from captioning.decoding.integers import IntegerLinear, IntegerMatrix, check_processor
from captioning.system import runtime
from captioning.system.errors import UserError
from captioning.system.runtime import Runtime
from model import DecoderState
from tests.helpers.small_captioner import SCENES, save_captioner
from tests.helpers.tiny_gpt2 import save_vit_gpt2


@pytest.fixture
def able() -> None:
    """Skips where the processor cannot."""
    try:
        check_processor()
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("able")
def test_products_are_near_the_exact_ones_and_those_of_small_integers_equal() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 48)
    x = torch.randn(64, 3, 5).mT  # not contiguous
    x = x.transpose(0, 2)  # (3, 5, 64)
    exact, found = linear(x), IntegerLinear(linear)(x)
    assert found.shape == exact.shape
    assert 0 < (found - exact).norm() < 0.015 * exact.norm()
    weight, whole = torch.randint(-9, 10, (6, 8)).float(), torch.randint(-99, 100, (4, 8)).float()
    weight[:, 0], whole[:, 1] = 127, -127
    torch.testing.assert_close(IntegerMatrix(weight)(whole), whole @ weight.T)


@pytest.mark.usefixtures("able")
def test_what_comes_of_a_row_does_not_depend_on_the_others() -> None:
    torch.manual_seed(0)
    matrix = IntegerMatrix(torch.randn(40, 64), torch.randn(40))
    rows = torch.randn(33, 64) * torch.logspace(-3, 3, 33)[:, None]
    alone = torch.cat([matrix(row[None]) for row in rows])
    assert torch.equal(matrix(rows), alone)
    rows[3, 5], rows[4, 6], rows[5] = torch.nan, torch.inf, 0
    found = matrix(rows)
    assert found[3].isnan().all()
    assert not found[4].isfinite().any()
    assert torch.equal(found[5:6], matrix(torch.zeros(1, 64)))
    assert torch.equal(found[6:], alone[6:])
    assert matrix(rows[:0]).shape == (0, 40)
    assert torch.equal(IntegerMatrix(torch.zeros(2, 64))(rows[6:]), torch.zeros(27, 2))


@pytest.mark.usefixtures("able")
def test_a_captioner_in_int8_captions_alike_says_so_and_is_saved_as_it_was(tmp_path: Path) -> None:
    best = save_captioner(tmp_path)
    exact, small = (
        Captioner.from_pretrained(best, device="cpu", precision=name) for name in ("fp32", "int8")
    )
    assert small.description == exact.description
    assert small.pipeline.runtime.description.endswith("fp32, decoder in int8")
    assert small.pipeline.decoding(SearchOptions.of_beams(3)).endswith(", in int8")
    kinds = {type(part) for part in small.pipeline.model.decoder.modules()}
    assert nn.Linear not in kinds
    before, after = (one.pipeline.model.state_dict() for one in (exact, small))
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    differ = _differences(exact, small)
    assert 0 < differ < 0.2
    assert [one.text for one in small(SCENES)] == [small(scene).text for scene in SCENES]
    x = torch.ones(1, 16, requires_grad=True)
    assert not small.pipeline.model.decoder.logits(x).requires_grad


@pytest.mark.usefixtures("able")
def test_a_vit_gpt2_has_it_too(tmp_path: Path) -> None:
    folder = save_vit_gpt2(tmp_path)
    exact, small = (
        Captioner.from_pretrained(folder, device="cpu", precision=name) for name in ("fp32", "int8")
    )
    assert not small.is_ours
    assert 0 < _differences(exact, small) < 0.2


def _differences(exact: Captioner, small: Captioner) -> float:
    """The largest of the logarithms of the first tokens' chances."""
    features = exact.features(SCENES)
    ids = torch.full((len(SCENES), 1), exact.pipeline.tokenizer.start_id)
    with torch.inference_mode():
        first, other = (
            DecoderState(one.decoder, one.encode_memory(features)).step(ids).log_softmax(-1)
            for one in (exact.pipeline.model, small.pipeline.model)
        )
    return float((first - other).abs().max())


def test_a_processor_that_rounds_sums_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def pairs_in_16_bits(a: Tensor, b: Tensor) -> Tensor:
        products = (a.int()[:, None] * b.T.int()).view(len(a), b.shape[1], -1, 2).sum(-1)
        return products.clamp(-(2**15), 2**15 - 1).sum(-1)

    def with_one_side_unsigned(a: Tensor, b: Tensor) -> Tensor:
        return pairs_in_16_bits(a.int() + 128, b) - 128 * b.int().sum(0)

    monkeypatch.setattr(torch, "_int_mm", pairs_in_16_bits)
    check_processor()  # two products of 127 by 127 have room
    monkeypatch.setattr(torch, "_int_mm", with_one_side_unsigned)
    with pytest.raises(UserError, match="leave --precision int8 out"):
        IntegerMatrix(torch.ones(2, 2))


def test_int8_is_refused_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for device in ("mps", "cuda:1"):
        monkeypatch.setattr(
            runtime, "choose_device", lambda *_, device=device: torch.device(device)
        )
        with pytest.raises(
            UserError, match=f"is for the CPU, not for {device}; write --device cpu"
        ):
            Runtime.create("auto", "int8")
