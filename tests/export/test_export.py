"""`export.py`: what is written captions as the checkpoint does, or is not kept."""

import functools
import json
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
import onnx
import onnxruntime
from PIL import Image

import export
from captioner import Captioner
from captioning.decoding import SearchOptions
from captioning.export.checking import Said, check_same, pictures_to_check
from captioning.export.folder import PROGRAM, quantise
from captioning.export.folder import program as program_of
from captioning.export.graphs import write_encoder
from captioning.export.quantising import change_of_product
from captioning.export.web import PAGE, RUNTIME, add_page, runtime_folder
from captioning.system.errors import UserError
from captioning.system.files import sha256_of
from encoder import VisionEncoder
from model import CaptionModel, DecoderState, Projection, TransformerDecoder
from tests.helpers.small_runs import run
from tests.helpers.tiny_encoders import FAMILIES, saved, some_pixels
from tests.helpers.webdriver import FAKE_CAMERA, Browser, open_browser


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
    captioner = program_of(exported / "caption.py").Captioner(exported)
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


def first_step(folder: Path, picture: Image.Image) -> Any:
    """Log-probabilities of the first token."""
    caption = program_of(folder / PROGRAM)
    captioner = caption.Captioner(folder)
    pixels = caption.pixels_of(caption.load(picture), captioner.settings["preprocessing"])
    return caption.State(captioner, pixels).step(np.array([1]), np.array([0]))[0]


def test_weights_of_8_bits_are_a_quarter_and_say_nearly_the_same(
    exported: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "int8"
    shutil.copytree(exported, folder)
    large = onnx.load(folder / "decoder.onnx").graph.initializer
    pictures = pictures_to_check()[:2]
    before = first_step(folder, pictures[0])
    assert "MB became" in quantise(folder, pictures)
    after = first_step(folder, pictures[0])
    assert 0 < np.abs(after - before).max() < 0.2
    small = onnx.load(folder / "decoder.onnx").graph
    tables = [one for one in large if len(one.dims) == 2 and np.prod(one.dims) >= 4096]
    floats = [one for one in small.initializer if one.data_type == onnx.TensorProto.FLOAT]
    assert tables  # the vocabulary's embedding, which is too large to stay
    assert not [one.name for one in floats if np.prod(one.dims) >= 4096]
    sizes = json.loads((folder / "captioner.json").read_text())["sizes"]
    assert sizes["decoder.onnx"] == (folder / "decoder.onnx").stat().st_size
    onnx.checker.check_model(folder / "decoder.onnx", full_check=True)


def test_a_product_whose_tokens_differ_much_in_size_is_not_for_integers() -> None:
    random = np.random.default_rng(0)
    matrix = random.normal(size=(64, 32)).astype(np.float32)
    x = random.normal(size=(50, 64)).astype(np.float32)
    assert change_of_product(x, matrix) < 0.03
    x[0] *= 300  # a token that all ranges have to hold
    assert change_of_product(x, matrix) > 0.3


def test_the_runtime_of_the_page_is_looked_for_where_the_user_says(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not hold ort\.wasm\.min\.mjs"):
        runtime_folder(str(tmp_path))
    (tmp_path / "dist").mkdir()
    for name in RUNTIME:
        (tmp_path / "dist" / name).touch()
    assert runtime_folder(str(tmp_path)) == tmp_path / "dist"
    for wrong in (["--runtime", str(tmp_path)], ["--format", "web", "--runtime", "nowhere"]):
        with pytest.raises(UserError, match=r"runtime|nowhere"):
            export.main(["--output", str(tmp_path / "out"), *wrong])


def test_without_npm_the_page_says_what_to_do(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    shutil.copy(exported / "captioner.json", tmp_path)
    with pytest.raises(UserError, match=r"npm is not installed.* --runtime FOLDER"):
        add_page(tmp_path)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def page(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the page, served as any static server does."""
    runtime = os.environ.get("ONNXRUNTIME_WEB", "")
    if not runtime:
        pytest.skip("ONNXRUNTIME_WEB names no folder of the npm package onnxruntime-web")
    folder = tmp_path_factory.mktemp("web") / "page"
    shutil.copytree(exported, folder)
    (folder / PROGRAM).unlink()
    add_page(folder, runtime)
    handler = functools.partial(QuietHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser(page: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("profile")) as found:
        found.visit(page)
        found.wait_for("return document.documentElement.dataset.ready")
        yield found


RESULTS = "return [...document.querySelectorAll('#results > li')]"


def test_the_page_captions_as_the_checkpoint(
    browser: Browser, page: str, best: Path, tmp_path: Path
) -> None:
    scenes = pictures_to_check()[:3]
    scenes[1] = scenes[1].crop((0, 20, 190, 111))
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [tmp_path / name for name in ("<b>a.png", "b.png", "c.jpg")]
    for scene, path in zip(scenes, files, strict=True):
        scene.save(path, exif=exif, quality=95)
    broken = tmp_path / "broken.jpg"
    broken.write_text("no picture")
    browser.choose("#files", [*files, broken])
    browser.wait_for(f"{RESULTS}.filter((one) => !one.matches('.waiting')).length === 4")
    texts = browser.script(f"{RESULTS}.map((one) => one.innerText)")
    assert "broken.jpg is no picture that this browser can read." in texts[0]
    said = browser.script(f"{RESULTS}.map((one) => one.dataset.captions)")[:0:-1]
    captioner = Captioner.from_pretrained(best, device="cpu")
    options = SearchOptions(method="beam", beam_size=3, num_captions=3)
    for text, line, expected in zip(
        texts[:0:-1], said, captioner.captions(files, options), strict=True
    ):
        found = json.loads(line)
        assert [one["text"] for one in found] == [one.text for one in expected]
        for one, other in zip(found, expected, strict=True):
            assert one["log_probability"] == pytest.approx(other.log_probability, rel=1e-3)
        assert found[0]["text"] in text
        assert f"{found[0]['confidence']:.0%}".replace("%", " % sure") in text
    assert not browser.console()
    own = (page, f"blob:{page}")
    assert not [one for one in browser.requested() if not one.startswith(own)]


@pytest.mark.parametrize("width", [320, 1280])
def test_the_page_fits_any_width_and_its_controls_have_names(browser: Browser, width: int) -> None:
    browser.resize(width, 800, phone=width < 600)
    assert browser.script("return document.documentElement.scrollWidth") <= width
    unnamed = "return [...document.querySelectorAll('button, select, input, progress, meter')]"
    assert not browser.script(
        f"{unnamed}.filter((one) => !one.textContent.trim() && !one.labels?.length"
        " && !one.ariaLabel && !one.getAttribute('aria-labelledby')).map((one) => one.outerHTML)"
    )


@pytest.mark.slow
@pytest.mark.parametrize("way", ["drop", "paste", "camera"])
def test_a_picture_comes_in_every_way(tmp_path: Path, way: str) -> None:
    """Also before there is a model."""
    folder, picture = tmp_path / "page", tmp_path / "a.png"
    folder.mkdir()
    for path in PAGE:
        shutil.copy(path, folder)
    pictures_to_check()[0].save(picture)
    handler = functools.partial(QuietHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with open_browser(tmp_path / "profile", FAKE_CAMERA) as browser:
            browser.visit(f"http://127.0.0.1:{server.server_port}/")
            browser.bring(picture, way)
            browser.wait_for(f"{RESULTS}.length === 1")
            browser.wait_for("return document.querySelector('#results img').naturalWidth")
    finally:
        server.shutdown()
        server.server_close()


def test_a_page_that_is_opened_as_a_file_says_how_to_serve_it(
    browser: Browser, tmp_path: Path
) -> None:
    for path in PAGE:
        shutil.copy(path, tmp_path)
    browser.open(tmp_path / "index.html")
    text = browser.script("return document.querySelector('#failure').innerText")
    assert "python -m http.server" in text
