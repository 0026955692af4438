"""`export.py --format onnx`: what is written captions as the checkpoint does, or is not kept."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
import onnx
import onnxruntime

import export
from captioner import Captioner
from captioning.decoding import SearchOptions
from captioning.export.checking import Said, check_same, pictures_to_check
from captioning.export.folder import program
from captioning.export.graphs import write_encoder
from captioning.system.errors import UserError
from captioning.system.files import sha256_of
from encoder import VisionEncoder
from model import CaptionModel, DecoderState, Projection, TransformerDecoder
from tests.helpers.small_runs import run
from tests.helpers.tiny_encoders import FAMILIES, saved, some_pixels


@pytest.fixture(scope="module")
def best(place: Path) -> Path:
    """A checkpoint of a small run, with layers over the picture."""
    return run(place, NUM_EPOCHS=1, MEMORY_LAYERS=1) / "best"


@pytest.fixture(scope="module")
def exported(best: Path, place: Path) -> Path:
    """Its export."""
    folder = place / "exported"
    arguments = ["--checkpoint", str(best), "--output", str(folder), "--pictures"]
    assert export.main([*arguments, str(place / "data/small/test")]) == 0
    return folder


def test_the_folder_is_whole_and_says_what_is_in_it(exported: Path, best: Path) -> None:
    manifest = json.loads((exported / "export.json").read_text())
    files = {"encoder.onnx", "decoder.onnx", "tokenizer.json", "captioner.json", "caption.py"}
    assert manifest["files"].keys() == files
    for name, about in manifest["files"].items():
        assert about["sha256"] == sha256_of(exported / name)
    assert manifest["checkpoint"] == sha256_of(best / "model.safetensors")
    assert str(best.parents[1]) not in (exported / "export.json").read_text()
    graphs = json.loads((exported / "captioner.json").read_text())["graphs"]
    assert graphs["encoder.onnx"]["inputs"] == {"pixels": ["pictures", 3, 32, 32]}
    assert graphs["decoder.onnx"]["inputs"]["tokens"] == ["pictures", "width"]
    assert graphs["decoder.onnx"]["inputs"]["past.1.values"] == ["old_rows", 2, "length", 8]
    for name in ("encoder.onnx", "decoder.onnx"):
        onnx.checker.check_model(exported / name, full_check=True)


@pytest.mark.parametrize("beams", [1, 3, 4])
def test_the_program_captions_as_the_checkpoint(exported: Path, best: Path, beams: int) -> None:
    pictures = pictures_to_check()[:3]
    options = SearchOptions(
        method="beam" if beams > 1 else "greedy", beam_size=beams, num_captions=min(beams, 3)
    )
    ours = Captioner.from_pretrained(best, device="cpu").captions(pictures, options)
    captioner = program(exported / "caption.py").Captioner(exported)
    for picture, expected in zip(pictures, ours, strict=True):
        found = captioner(picture, beam_size=beams, num_captions=min(beams, 3))
        assert [one.text for one in found] == [one.text for one in expected]
        for one, other in zip(found, expected, strict=True):
            assert one.log_probability == pytest.approx(other.log_probability, abs=1e-3)
            assert one.confidence == pytest.approx(other.confidence, abs=1e-4)


def test_the_decoder_takes_any_number_of_pictures_rows_and_steps(
    exported: Path, best: Path
) -> None:
    pipeline = Captioner.from_pretrained(best, device="cpu").pipeline
    pixels = some_pixels(32, pictures=3)
    encoder, decoder = (
        onnxruntime.InferenceSession(exported / f"{name}.onnx") for name in ("encoder", "decoder")
    )
    with torch.inference_mode():
        state = DecoderState(
            pipeline.model.decoder, pipeline.model.encode_memory(pipeline.encoder(pixels))
        )
    outputs = [one.name for one in encoder.get_outputs()]
    memory = dict(zip(outputs, encoder.run(None, {"pixels": pixels.numpy()}), strict=True))
    past = {
        one.name: np.zeros((3, one.shape[1], 0, one.shape[3]), np.float32)
        for one in decoder.get_inputs()
        if one.name.startswith("past")
    }

    def check(tokens: list[list[int]], rows: list[list[int]]) -> None:
        feeds = {"tokens": np.array(tokens), "rows": np.array(rows), **memory, **past}
        found, *cache = decoder.run(None, feeds)
        past.update(zip(past, cache, strict=True))
        with torch.inference_mode():
            expected = state.step(torch.tensor(tokens)).log_softmax(-1)
        assert np.abs(found - expected.numpy()).max() < 1e-4

    check([[1], [1], [1]], [[0], [1], [2]])
    state.reorder(torch.arange(3), torch.zeros(3, 2, dtype=torch.long))
    check([[7, 8], [9, 10], [11, 12]], [[0, 0], [1, 1], [2, 2]])
    state.reorder(torch.tensor([0, 2]), torch.tensor([[1, 1], [0, 1]]))  # the second picture leaves
    memory = {name: values[[0, 2]] for name, values in memory.items()}
    check([[5, 6], [7, 8]], [[1, 1], [4, 5]])


def test_an_export_that_captions_otherwise_is_not_kept(
    best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_wrong(*_: Any) -> Any:
        return lambda pictures, beams: [Said("a dog", -1.0) for _ in pictures]

    monkeypatch.setitem(export.FORMATS, "onnx", write_wrong)
    with pytest.raises(UserError, match=r"does not caption as the checkpoint does .*'a dog'"):
        export.main(["--checkpoint", str(best), "--output", str(tmp_path / "out")])
    assert not list(tmp_path.iterdir())


def test_what_is_no_export_is_not_replaced(best: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="best is there and is no export"):
        export.main(["--checkpoint", str(best), "--output", str(best)])
    assert (best / "model.safetensors").is_file()


@pytest.mark.parametrize("difference", [2e-3, float("nan")])
def test_log_probabilities_are_compared_too(difference: float) -> None:
    def says(number: float) -> Any:
        return lambda pictures, beams: [Said("a dog", -1.0 + number) for _ in pictures]

    check_same(says(0), says(1e-4), pictures_to_check()[:1], [3])
    with pytest.raises(UserError, match="does not caption as"):
        check_same(says(0), says(difference), pictures_to_check()[:1], [3])


def captioner_of(folder: Path, family: str) -> tuple[VisionEncoder, CaptionModel]:
    """A random captioner on a tiny encoder of a family."""
    encoder = VisionEncoder.from_pretrained(saved(folder, family))
    torch.manual_seed(0)
    decoder = TransformerDecoder(
        vocab_size=50, dim=16, layers=1, heads=2, ff_dim=32, memory_dim=12, max_length=20
    )
    return encoder, CaptionModel(Projection(encoder.num_tokens, encoder.feature_dim, 12), decoder)


def test_an_encoder_that_cannot_be_written_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, model = captioner_of(tmp_path, "resnet")

    def fail(*_: Any, **__: Any) -> None:
        raise torch.onnx.errors.OnnxExporterError("no such operator")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(UserError, match=r"/resnet cannot be written as ONNX .* no such operator"):
        write_encoder(encoder, model, tmp_path / "encoder.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_encoders_is_written(family: str, tmp_path: Path) -> None:
    encoder, model = captioner_of(tmp_path, family)
    write_encoder(encoder, model.eval(), tmp_path / "encoder.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx")
    for pictures in (1, 3):
        pixels = some_pixels(FAMILIES[family].side, pictures)
        with torch.inference_mode():
            memory = model.encode_memory(encoder(pixels))
        found = session.run(None, {"pixels": pixels.numpy()})
        expected = [part.numpy() for layer in memory for part in layer]
        for one, other in zip(found, expected, strict=True):
            assert np.abs(one - other).max() < 1e-4
