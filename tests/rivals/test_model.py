"""Captioners of each kind: loaded as people save them, asked as their users ask them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers as hf
from PIL import Image

from captioning.decoding import SearchOptions
from captioning.rivals.model import CHAT_PROMPT, Rival
from captioning.system.errors import UserError
from tests.helpers.tiny_rivals import KINDS, save_rival, tokenizer

LONGEST = 6
GREEDY, BEAMS = SearchOptions.of_beams(1), SearchOptions.of_beams(3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rivals")
    for kind in KINDS:
        save_rival(folder, kind)
    for number, colour in enumerate(("red", "blue", "white")):
        Image.new("RGB", (40 + 9 * number, 30), colour).save(folder / f"{number}.png")
    return folder


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captioning.rivals.model.MAX_NEW_TOKENS", LONGEST)


@pytest.fixture
def pictures(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.png"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("search", [GREEDY, BEAMS], ids=["greedy", "beams"])
def test_a_caption_does_not_depend_on_the_batch(
    folder: Path, pictures: list[Path], kind: str, search: SearchOptions
) -> None:
    rival = Rival.from_pretrained(str(folder / f"tiny-{kind}"))
    together = list(rival.captions(pictures, search))
    assert len(together) == 3
    rival._batch_size = 1
    assert list(rival.captions(pictures, search)) == together
    assert rival.parameters == sum(weight.numel() for weight in rival.model.parameters())
    assert rival.precision == "float32"


def test_blip_says_what_transformers_own_lines_say(folder: Path, pictures: list[Path]) -> None:
    place = folder / "tiny-blip"
    processor = hf.BlipProcessor.from_pretrained(place)
    model = hf.BlipForConditionalGeneration.from_pretrained(place)
    images = [Image.open(path).convert("RGB") for path in pictures]
    ids = model.generate(
        **processor(images=images, return_tensors="pt"), num_beams=3, max_new_tokens=LONGEST
    )
    expected = [
        " ".join(text.split()) for text in processor.batch_decode(ids, skip_special_tokens=True)
    ]
    assert list(Rival.from_pretrained(str(place)).captions(pictures, BEAMS)) == expected


def test_prompts(folder: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    chat = Rival.from_pretrained(str(folder / "tiny-chat"))
    assert chat.is_chat
    assert chat.prompt == CHAT_PROMPT
    asked = Rival.from_pretrained(str(folder / "tiny-chat"), prompt="what sits")
    given: list[torch.Tensor] = []
    generate = asked.model.generate

    def record(**inputs: object) -> torch.Tensor:
        given.append(inputs["input_ids"])
        return generate(**inputs)

    monkeypatch.setattr(asked.model, "generate", record)
    list(asked.captions(pictures[:1], GREEDY))
    text = tokenizer().decode(given[0][0])
    assert "what sits" in text
    assert text.endswith("assistant :")
    blip = Rival.from_pretrained(str(folder / "tiny-blip"), prompt="a dog")
    assert not any(text.startswith("a dog a dog") for text in blip.captions(pictures, GREEDY))
    assert blip._without_prompt("a dog runs") == "runs"  # what was given is no merit
    git = Rival.from_pretrained(str(folder / "tiny-git"), prompt="a dog")
    assert git._inputs([Image.new("RGB", (32, 32))])["input_ids"].tolist() == [[1, 5, 6]]
    with pytest.raises(UserError, match="leave out --prompt"):
        Rival.from_pretrained(str(folder / "tiny-vit-gpt2"), prompt="a dog")


def test_batches_shrink_until_they_fit(
    folder: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rival = Rival.from_pretrained(str(folder / "tiny-git"))
    expected, caption, fits = list(rival.captions(pictures, GREEDY)), rival._caption, 1

    def small(images: list[Image.Image], search: SearchOptions) -> list[str]:
        if len(images) > fits:
            raise torch.OutOfMemoryError
        return caption(images, search)

    monkeypatch.setattr(rival, "_caption", small)
    assert list(rival.captions(pictures, GREEDY)) == expected
    fits = 0
    with pytest.raises(UserError, match="one picture at a time"):
        list(rival.captions(pictures, GREEDY))


def test_what_cannot_be_loaded_gets_a_sentence(folder: Path, tmp_path: Path) -> None:
    def refusals() -> Iterator[tuple[Path | str, str]]:
        yield "nobody/nothing", "cannot be loaded"
        yield tmp_path, "cannot be loaded"
        vision = tmp_path / "vit"
        hf.ViTModel(
            hf.ViTConfig(
                hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
            )
        ).save_pretrained(vision)
        yield vision, "is a model of type 'vit'. --model takes a captioner"
        pickled = save_rival(tmp_path, "git")
        (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
        yield pickled, "no weights in safetensors, and others are never unpickled"
        code = save_rival(tmp_path / "code", "git")
        config = json.loads((code / "config.json").read_text())
        config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
        (code / "config.json").write_text(json.dumps(config))
        (code / "own.py").write_text("raise SystemExit('this was run')")
        yield code, "needs code of its own repository, which is never run"
        part = save_rival(tmp_path / "part", "git")
        weights = hf.GitForCausalLM.from_pretrained(part).state_dict()
        weights.pop(next(name for name in weights if "fc1" in name))
        from safetensors.torch import save_file

        save_file(
            {k: v.clone().contiguous() for k, v in weights.items()}, part / "model.safetensors"
        )
        yield part, "lacks 1 of the weights"

    for place, words in refusals():
        with pytest.raises(UserError, match=words):
            Rival.from_pretrained(str(place))
