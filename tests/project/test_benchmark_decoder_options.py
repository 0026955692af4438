"""The benchmark of the decoder's options: it trains each change, and goes on where it stopped."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmarks import decoder_options
from captioning.system.errors import UserError
from captioning.training.packing import Packing
from config import Config
from model import CaptionModel, DecoderState
from tests.helpers.small_runs import run, write_data, write_encoder


@pytest.mark.slow
def test_it_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_data(tmp_path) / "small"
    write_encoder(tmp_path)
    checkpoint = run(tmp_path, NUM_EPOCHS=1, VALIDATION_IMAGES=1) / "best"
    results = tmp_path / "results.json"
    words = ["--data", str(data), "--checkpoint", str(checkpoint), "--json", str(results)]
    words += ["--seeds", "0", "--limit", "1", "--vocabularies", "320 300"]
    assert decoder_options.main([*words, "--epochs", "1"]) == 0
    first = json.loads(results.read_text())["runs"]
    assert list(first) == ["defaults"]
    assert decoder_options.main([*words, "--epochs", "1"]) == 0
    second = json.loads(results.read_text())["runs"]
    assert second["defaults"] == first["defaults"]
    assert second["RMSNorm"]["0"]["end"]["loss"] != first["defaults"]["0"]["end"]["loss"]
    assert "RMSNorm" in capsys.readouterr().out
    with pytest.raises(UserError, match="made with other options"):
        decoder_options.main([*words, "--epochs", "2"])


@pytest.mark.parametrize("name", list(decoder_options.changes("320 300")))
def test_a_changed_model_decodes_as_it_trains(name: str) -> None:
    change = decoder_options.changes("320 300")[name]
    config = Config(**(decoder_options.SMALL | change.settings))
    torch.manual_seed(0)
    model = CaptionModel.from_config(config, patches=4, feature_dim=8, vocab_size=50)
    change.swap(model)
    features, ids = torch.randn(1, 4, 8), torch.randint(4, 50, (6,))
    model(features, ids, torch.arange(6), Packing(1, 6)).pow(2).mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.dim() > 1)
    with torch.inference_mode():
        model.eval()
        whole = model(features, ids, torch.arange(6), Packing(1, 6))
        state = DecoderState(model.decoder, model.encode_memory(features))
        steps = [state.step(one.view(1, 1))[0, 0] for one in ids]
    assert F.mse_loss(torch.stack(steps), whole).item() < 1e-8
