"""Tokens that fit the script: characters where words have no spaces between them."""

import unicodedata

import numpy as np
import pytest

from captioning.metrics import score_captions, tokenize_captions
from captioning.metrics.scoring import score_everything
from captioning.metrics.tokenizers import choose_tokenizer, fitting_name, tokenize_by_script

LANGUAGES = {
    # What people say of three pictures; then a caption that says nearly the first's words.
    "German": (
        ("Ein großer Hund läuft über die „Wiese“.", "Zwei Kinder spielen im Schnee.", "Ein Boot."),
        "Ein großer Hund rennt über die Wiese.",
        "ptb",
    ),
    "Arabic": (
        ("كلبٌ كبير يركض في الحقل، سريعًا؟", "طفلان يلعبان في الثلج.", "قارب في البحر."),
        "كلبٌ كبير يمشي في الحقل",
        "script",
    ),
    "Hindi": (
        ("एक बड़ा कुत्ता मैदान में दौड़ रहा है।", "दो बच्चे बर्फ में खेल रहे हैं।", "पानी पर एक नाव।"),
        "एक बड़ा कुत्ता मैदान में चल रहा है।",
        "script",
    ),
    "Chinese": (
        ("一只大狗在草地上奔跑。", "两个孩子在雪中玩耍。", "一艘船在海上。"),
        "一只大狗在草地上行走。",
        "script",
    ),
    "Japanese": (
        ("大きな犬が芝生の上を走っている。", "二人の子供が雪の中で遊ぶ。", "海に船がある。"),
        "大きな犬が芝生の上を歩いている。",
        "script",
    ),
    "Thai": (
        ("สุนัขตัวใหญ่กำลังวิ่งบนสนามหญ้า", "เด็กสองคนเล่นหิมะ", "เรือในทะเล"),
        "สุนัขตัวใหญ่กำลังเดินบนสนามหญ้า",
        "script",
    ),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_nearly_right_caption_scores_between_a_wrong_and_a_right_one(language: str) -> None:
    texts, nearly, name = LANGUAGES[language]
    references = {str(number): [text] for number, text in enumerate(texts)}

    def scores(caption: str) -> dict[str, float]:
        candidates = {"0": caption, "1": texts[1], "2": texts[2]}
        found = score_captions(candidates, references)
        assert found.tokenizer == name
        return {metric: float(values[0]) for metric, values in found.per_image.items()}

    wrong, close, right = scores(texts[1]), scores(nearly), scores(texts[0])
    for metric in ("BLEU-1", "BLEU-2", "BLEU-4", "ROUGE-L", "CIDEr"):
        assert wrong[metric] < close[metric] < right[metric], metric
    assert right["BLEU-4"] == pytest.approx(1)
    assert right["CIDEr"] == pytest.approx(10)


def test_tokens_by_script() -> None:
    tokens = {
        "一只dog在跑, a red T恤 (3.5米)。": "一 只 dog 在 跑 a red t 恤 3.5 米",
        "“你好”——他说…（再见）": "你 好 他 说 再 见",
        "犬が「Ｔシャツ」を着たｶﾞｰﾙ": "犬 が t シ ャ ツ を 着 た ガ ー ル",
        "วิ่ง 2 ตัว": "วิ่ ง 2 ตั ว",  # vowels and tones stay with their consonant
        "ឆ្កែ​មួយ": "ឆ្កែ មួ យ",  # so do consonants below, and a space of no width parts
        "ခွေးတစ်ကောင်": "ခွေး တ စ် ကော င်",
        "ཁྱི་ཞིག": "ཁྱི ཞི ག",
        "ຫມາ": "ຫ ມ າ",
        "ꦏꦤ꧀ 𠮷々〇": "ꦏ ꦤ꧀ 𠮷 々 〇",
        "कुत्ता है।": "कुत्ता है",
        "كلب، قطة؟": "كلب قطة",
        "개가 달린다.": "개가 달린다",
        "A man's hat": "a man 's hat",
        "。": "",
        "": "",
    }
    for caption, expected in tokens.items():
        assert tokenize_by_script(caption) == expected
    for caption in ("が走る", "हैं।", "एक बड़ा कुत्ता", "việt nam"):
        composed, parted = (unicodedata.normalize(form, caption) for form in ("NFC", "NFD"))
        assert tokenize_by_script(composed) == tokenize_by_script(parted)


@pytest.mark.parametrize(
    ("references", "name"),
    [
        (["A dog runs.", "Un perro corre más rápido; ¿sí?", "Собака бежит", "Ο σκύλος"], "ptb"),
        (["A shop whose sign reads 出口"] + ["A dog runs over the field"] * 9, "ptb"),
        (["A dog runs over the field", "一只狗在草地上奔跑"], "script"),
        (["一只dog在跑"], "script"),
        (["כלב רץ"], "script"),
        (["123 !"], "ptb"),
        ([""], "ptb"),
    ],
)
def test_the_references_decide(references: list[str], name: str) -> None:
    assert fitting_name([references]) == name
    assert choose_tokenizer("auto", [references]).name == name
    assert choose_tokenizer("spaces", [references]).name == "spaces"


def test_english_is_coco_captions_to_the_last_digit() -> None:
    references = {
        "a": ["A dog's ball, red.", "the 出口 (exit) of a house"],
        "b": ["Two men; a boat."],
    }
    candidates = {"a": "a dog 's ball", "b": "two boats"}
    assert choose_tokenizer("ptb", [])(references["a"]) == tokenize_captions(references["a"])
    chosen, named = (
        score_captions(candidates, references, tokenizer=name) for name in ("auto", "ptb")
    )
    assert chosen.tokenizer == named.tokenizer == "ptb"
    for metric, values in named.per_image.items():
        np.testing.assert_array_equal(chosen.per_image[metric], values)


def test_captions_that_were_segmented_are_left_so() -> None:
    references = {"a": ["一只 狗 在 奔跑"], "b": ["两个 孩子 ， 雪"]}
    scores = score_captions({"a": "一只 狗", "b": "两个 孩子"}, references, tokenizer="spaces")
    assert scores.bleu_counts.lengths.tolist() == [2, 2]
    assert scores.tokenizer == "spaces"


def test_programs_of_english_do_not_run_on_other_languages() -> None:
    texts = LANGUAGES["Chinese"][0]
    references = {str(number): [text] for number, text in enumerate(texts)}
    sheet = score_everything({key: own[0] for key, own in references.items()}, references)
    assert sheet.corpus["METEOR"] is None
    assert "English alone" in sheet.skipped["SPICE"]
    numbers = sheet.to_json()
    assert numbers["tokenizer"] == "script"
    assert numbers["diversity"]["mean_length"] > 5
    assert "by script" in sheet.protocol["tokenizer"]
