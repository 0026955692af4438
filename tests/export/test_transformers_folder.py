"""The folder for transformers: what it says is what the checkpoint says, and it needs nothing of
this project."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor

import export
from captioner import Captioner
from captioning.decoding import SearchOptions
from captioning.export.modeling_captioner import (
    CaptionerConfig,
    CaptionerForConditionalGeneration,
    VisionEncoder,
)
from captioning.export.transformers_folder import model_config, write_transformers
from captioning.gpt2.architecture import GPT2Architecture
from captioning.system.errors import UserError
from captioning.vision.tower_features import FeatureChoice
from encoder import VisionEncoder as OurEncoder
from model import CaptionModel
from tests.helpers.small_captioner import SCENES, SMALL, save_captioner
from tests.helpers.tiny_encoders import FAMILIES, make_siglip2, saved, some_pixels, square_processor
from tests.helpers.tiny_gpt2 import BEAMS, save_vit_gpt2


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_captioner(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def captioner(checkpoint: Path) -> Captioner:
    return Captioner.from_pretrained(checkpoint, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def exported(captioner: Captioner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    options = export.ExportOptions(output=str(folder), format="transformers")
    export.write_transformers(captioner, folder, options)
    return folder


@pytest.mark.parametrize(
    ("beams", "penalty"), [(1, 1.0), (2, -1.0), (3, 0.7), (5, 0.0), (5, 1.0), (5, 2.0)]
)
def test_captions_are_those_of_the_checkpoint(
    captioner: Captioner, exported: Path, beams: int, penalty: float
) -> None:
    model: Any = CaptionerForConditionalGeneration.from_pretrained(exported)
    encoder = captioner.pipeline.encoder
    pixels = torch.stack([encoder.preprocess(scene) for scene in SCENES])
    search = SearchOptions(
        method="beam" if beams > 1 else "greedy",
        beam_size=beams,
        num_captions=beams,
        length_penalty=penalty,
    )
    ours = [[one.ids for one in found] for found in captioner.captions(SCENES, search)]
    found = model.generate(
        pixel_values=pixels * encoder.scale + encoder.shift,
        num_beams=beams,
        num_return_sequences=beams,
        **({"length_penalty": penalty} if beams > 1 else {}),
    )
    theirs = [tuple(i for i in row if i >= 4) for row in found.tolist()]
    assert [one for captions in ours for one in captions] == theirs
    assert len(set(theirs)) >= len(SCENES)
    assert len({len(one) for one in theirs}) > 1


SCRIPT = """
import json, sys
sys.modules["captioning"] = sys.modules["config"] = None
from transformers import (
    AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer,
    pipeline,
)
folder, expected = json.loads(sys.argv[1])
options = {"trust_remote_code": True}
model = AutoModelForImageTextToText.from_pretrained(folder, **options)
assert type(AutoModel.from_pretrained(folder, **options)) is type(model)
processor = AutoProcessor.from_pretrained(folder, **options)
tokenizer = AutoTokenizer.from_pretrained(folder, **options)
assert type(AutoImageProcessor.from_pretrained(folder)) is type(processor.image_processor)
assert tokenizer("a red ball<END>").input_ids == expected["ids"]
from transformers.image_utils import load_image
pictures = [load_image(path) for path in expected["pictures"]]
inputs = processor(images=pictures, return_tensors="pt")
for name, beams in (("beam", {}), ("greedy", {"num_beams": 1})):
    found = processor.batch_decode(model.generate(**inputs, **beams), skip_special_tokens=True)
    assert [text.strip() for text in found] == expected[name], (found, expected[name])
without = model.generate(**inputs, use_cache=False)
assert without.equal(model.generate(**inputs)), "with and without a cache"
begun = processor(images=pictures[:2], text=["a", "a"], return_tensors="pt")
assert model.generate(**begun)[:, 1].tolist() == tokenizer("a").input_ids * 2
unequal = processor(images=pictures[:2], text=["a", "a red"], padding=True, return_tensors="pt")
try:
    model.generate(**unequal)
except ValueError as error:
    assert "equally long" in str(error)
else:
    raise AssertionError("unequal beginnings")
captions = pipeline("image-to-text", model=folder, **options)(expected["pictures"])
assert [one["generated_text"] for (one,) in captions] == expected["beam"], captions
asked = pipeline("image-text-to-text", model=folder, **options)
(answer,) = asked(images=expected["pictures"][0], text="")
assert answer["generated_text"].strip() == expected["beam"][0], answer
model.save_pretrained("again")
again = AutoModel.from_pretrained("again", **options)
assert again.generate(**inputs).equal(model.generate(**inputs))
print("all of it")
"""


def test_transformers_alone_opens_it_from_an_empty_folder(
    captioner: Captioner, exported: Path, tmp_path: Path
) -> None:
    pictures = []
    for number, scene in enumerate(SCENES[:3]):
        scene.save(tmp_path / f"{number}.png")
        pictures.append(str(tmp_path / f"{number}.png"))
    options = [SearchOptions.of_beams(beams, length_penalty=0.7) for beams in (1, 3)]
    greedy, beam = ([c[0].text for c in captioner.captions(SCENES[:3], one)] for one in options)
    ids = captioner.pipeline.tokenizer.encode("a red ball<END>")[1:-1]
    expected = {"pictures": pictures, "greedy": greedy, "beam": beam, "ids": ids}
    (tmp_path / "empty").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-I", "-c", SCRIPT, json.dumps([str(exported), expected])],
        cwd=tmp_path / "empty",
        env={**environment, "HF_HOME": str(tmp_path / "hf")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("all of it\n")


def same_features(encoder: OurEncoder, pixels: Tensor) -> None:
    """The encoder of the folder gives to the last bit what ours does."""
    config = replace(SMALL, MEMORY_LAYERS=0)
    model = CaptionModel.from_config(
        config, patches=encoder.num_tokens, feature_dim=encoder.feature_dim, vocab_size=300
    )
    written = json.loads(json.dumps(model_config(model, encoder)))
    theirs = VisionEncoder(CaptionerConfig(**written)).eval()
    theirs.load_state_dict(encoder.plain_state())
    with torch.no_grad():
        found = theirs(pixels * encoder.scale + encoder.shift).last_hidden_state
    assert found.equal(encoder(pixels))


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_gives_the_same_features(tmp_path: Path, family: str) -> None:
    encoder = OurEncoder.from_pretrained(saved(tmp_path, family))
    same_features(encoder, some_pixels(FAMILIES[family].side))


@pytest.mark.parametrize(
    ("family", "layers", "tokens", "pooling", "size"),
    [
        ("clip", "-2", "all", 1, 0),
        ("clip", "-1,-3", "patches", 1, 0),
        ("clip", "last", "cls", 1, 0),
        ("clip", "-2", "all", 2, 0),
        ("clip", "last", "patches", 4, 0),
        ("vit", "last", "all", 1, 48),
        ("convnext", "last", "cls", 1, 0),
        ("convnext", "-1", "patches", 1, 96),
    ],
)
def test_each_choice_gives_the_same_features(
    tmp_path: Path, family: str, layers: str, tokens: str, pooling: int, size: int
) -> None:
    name = saved(tmp_path, family)
    encoder = OurEncoder.from_pretrained(
        name, choice=FeatureChoice(layers, tokens, pooling), image_size=size
    )
    same_features(encoder, some_pixels(size or FAMILIES[family].side))


def test_siglip_2_of_any_shape_gives_the_same_features(tmp_path: Path) -> None:
    make_siglip2().save_pretrained(tmp_path)
    square_processor(32).save_pretrained(tmp_path)
    same_features(OurEncoder.from_pretrained(str(tmp_path)), some_pixels(32))


def test_an_encoder_with_code_of_its_own_is_refused(
    captioner: Captioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = type(captioner.pipeline.encoder.tower)
    monkeypatch.setattr(tower, "__module__", "transformers_modules.theirs.modeling")
    options = export.ExportOptions(output=str(tmp_path), format="transformers")
    with pytest.raises(UserError, match="runs code of its own repository"):
        export.write_transformers(captioner, tmp_path, options)
    assert not list(tmp_path.iterdir())


def exported_and_opened(folder: Path, output: Path) -> Any:
    """What transformers makes of the export of a captioner; the check has compared captions."""
    captioner = Captioner.from_pretrained(folder, device="cpu", precision="fp32")
    output.mkdir()
    options = export.ExportOptions(output=str(output), format="transformers")
    theirs = export.write_transformers(captioner, output, options)
    for beams in (1, captioner.config.BEAM_SIZE, 5):
        said = theirs(SCENES, beams)
        for one, other in zip(export.speaker_of(captioner)(SCENES, beams), said, strict=True):
            assert one.text == other.text
            assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)
    return transformers.AutoModelForImageTextToText.from_pretrained(output, trust_remote_code=True)


@pytest.mark.parametrize(
    ("encoder", "options"),
    [
        ("vit", {"generation": BEAMS}),
        ("deit", {"width": 16, "generation": {"num_beams": 3, "max_new_tokens": 9}}),
        ("beit", {"special": ("<pad>", "<s>"), "activation_function": "gelu", "n_inner": 20}),
    ],
)
def test_a_vit_gpt2_becomes_what_it_was_without_code(
    tmp_path: Path, encoder: str, options: dict[str, Any]
) -> None:
    folder = save_vit_gpt2(tmp_path / "theirs", encoder=encoder, **options)
    model = exported_and_opened(folder, tmp_path / "again")
    assert type(model) is transformers.VisionEncoderDecoderModel
    assert not list((tmp_path / "again").glob("*.py"))
    before = transformers.VisionEncoderDecoderModel.from_pretrained(folder).state_dict()
    assert before.keys() == model.state_dict().keys()
    assert all(weight.equal(before[name]) for name, weight in model.state_dict().items())


def test_a_gpt2_behind_a_projection_of_ours_takes_the_code(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {
        "vocab_size": 300,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 30,
    }
    sizes |= {"activation_function": "relu", "layer_norm_epsilon": 1e-3}
    gpt2 = GPT2Architecture.from_values({"model_type": "gpt2", **sizes}, "small")
    folder = save_captioner(tmp_path, gpt2=gpt2)
    model = exported_and_opened(folder, tmp_path / "folder")
    assert type(model).__name__ == "CaptionerForConditionalGeneration"
    assert model.config.learned_positions


def test_the_command_writes_a_folder_that_was_checked(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "folder"
    words = ["--checkpoint", str(checkpoint), "--output", str(output), "--format", "transformers"]
    with pytest.raises(UserError, match="--int8 is of the formats onnx and web"):
        export.main([*words, "--int8"])
    assert export.main(words) == 0
    assert "16 pictures captioned both ways" in capsys.readouterr().err
    manifest = json.loads((output / "export.json").read_text())
    assert manifest["format"] == "transformers"
    assert {path.name for path in output.iterdir()} == {*manifest["files"], "export.json"}
    for path in output.glob("*.json"):
        assert str(checkpoint.parents[2]) not in path.read_text(), path.name


def test_a_folder_that_says_something_else_is_not_kept(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_other(folder: Path, *about: Any) -> None:
        write_transformers(folder, *about)
        text = (folder / "modeling_captioner.py").read_text()
        (folder / "modeling_captioner.py").write_text(text.replace("* self.scale", "* 1.0"))

    monkeypatch.setattr("captioning.export.transformers_folder.write_transformers", write_other)
    words = ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "folder")]
    with pytest.raises(UserError, match="does not caption as the checkpoint does"):
        export.main([*words, "--format", "transformers"])
    assert not list(tmp_path.iterdir())


def test_pixels_are_those_of_training(captioner: Captioner, exported: Path) -> None:
    processor = transformers.AutoImageProcessor.from_pretrained(exported, backend="pil")
    encoder = captioner.pipeline.encoder
    for size in ((90, 40), (33, 200)):
        picture = SCENES[0].resize(size, Image.Resampling.BILINEAR)
        ours = encoder.preprocess(picture) * encoder.scale + encoder.shift
        theirs = processor(picture, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
