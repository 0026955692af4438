"""CLIPScore and RefCLIPScore with a tiny CLIP made on the spot."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from captioning.metrics.clip_score import ClipJudge, retrieval_ranks
from captioning.system.errors import UserError

WORDS = "<pad> <start> <end> <unknown> A photo depicts a dog cat red blue runs".split()
CAPTIONS = ["a red dog", "a blue cat"]
REFERENCES = [["a red dog", "a cat"], ["a dog runs", "a red dog"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random CLIP, saved whole as the Hub has them."""
    torch.manual_seed(2)
    tower = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
    }
    text = {
        **tower,
        "vocab_size": len(WORDS),
        "max_position_embeddings": 12,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    config = hf.CLIPConfig(
        text_config=text,
        vision_config={**tower, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    path = tmp_path_factory.mktemp("clip")
    hf.CLIPModel(config).save_pretrained(path)
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unknown>"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    hf.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<end>", unk_token="<unknown>"
    ).save_pretrained(path)
    hf.CLIPImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    ).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def judge(folder: Path) -> ClipJudge:
    return ClipJudge.from_pretrained(str(folder))


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), np.uint8)
    return [Image.fromarray(values) for values in pixels]


def cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(first, second, dim=-1))


def test_scores_follow_the_formulas(
    folder: Path, judge: ClipJudge, pictures: list[Image.Image]
) -> None:
    scores = judge.score(pictures, CAPTIONS, REFERENCES)
    model = hf.CLIPModel.from_pretrained(folder)
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    processor = hf.AutoImageProcessor.from_pretrained(folder)

    @torch.inference_mode()
    def of_text(text: str) -> torch.Tensor:
        ids = tokenizer(["A photo depicts " + text], return_tensors="pt")["input_ids"]
        return model.get_text_features(input_ids=ids).pooler_output[0]

    @torch.inference_mode()
    def of_picture(picture: Image.Image) -> torch.Tensor:
        inputs = processor(images=picture, return_tensors="pt")
        return model.get_image_features(**inputs).pooler_output[0]

    for row, caption in enumerate(CAPTIONS):
        fit = 2.5 * max(cosine(of_picture(pictures[row]), of_text(caption)), 0)
        closest = max(0, *(cosine(of_text(text), of_text(caption)) for text in REFERENCES[row]))
        harmonic_mean = 2 * fit * closest / (fit + closest)
        assert scores.clip_score[row] == pytest.approx(fit, abs=1e-5)
        assert scores.ref_clip_score[row] == pytest.approx(harmonic_mean, abs=1e-5)
    assert scores.clip_score.max() > 0


def test_an_opposite_caption_scores_0_and_not_less(
    folder: Path, pictures: list[Image.Image]
) -> None:
    judge = ClipJudge.from_pretrained(str(folder))
    straight = judge.score(pictures, CAPTIONS, REFERENCES)
    with torch.no_grad():
        judge.model.visual_projection.weight.neg_()
    opposite = judge.score(pictures, CAPTIONS, REFERENCES)
    assert ((straight.clip_score == 0) ^ (opposite.clip_score == 0)).all()
    assert (opposite.clip_score >= 0).all()
    assert (opposite.ref_clip_score[opposite.clip_score == 0] == 0).all()


def test_long_captions_are_cut_and_batches_change_nothing(
    judge: ClipJudge, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = ["a red dog runs " * 9, "cat"]
    whole = judge.score(pictures, captions, REFERENCES)
    monkeypatch.setattr("captioning.metrics.clip_score.BATCH_SIZE", 1)
    single = judge.score(pictures, captions, REFERENCES)
    np.testing.assert_allclose(whole.clip_score, single.clip_score, atol=1e-6)
    np.testing.assert_allclose(whole.ref_clip_score, single.ref_clip_score, atol=1e-6)


def test_what_is_no_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be loaded as a CLIP"):
        ClipJudge.from_pretrained(str(tmp_path / "missing"))
    hf.BertConfig(hidden_size=8).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="'bert'; CLIPScore needs a CLIP"):
        ClipJudge.from_pretrained(str(tmp_path))


def test_ranks_of_pictures_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [1.0, 0.0]])
    texts = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.8, -0.6]])
    # The first and the fourth picture are the same: each is at 1 and 2 at once.
    expected = [1.5, 2, 2, 1.5]
    assert retrieval_ranks(texts, pictures).tolist() == expected
    monkeypatch.setattr("captioning.metrics.clip_score.TEXTS_AT_ONCE", 3)
    assert retrieval_ranks(texts, pictures).tolist() == expected


def test_a_caption_looks_for_its_picture(folder: Path, tmp_path: Path) -> None:
    judge = ClipJudge.from_pretrained(str(folder))
    images = [tmp_path / f"{colour}.png" for colour in ("red", "blue")]
    for path in images:
        Image.new("RGB", (20, 16), path.stem).save(path)
    scores = judge.score(images, CAPTIONS, REFERENCES)
    assert set(scores.ranks) <= {1, 1.5, 2}
    assert scores.recall(2).tolist() == [1, 1]
    assert scores.recall(1).tolist() == [float(rank == 1) for rank in scores.ranks]
