"""The model card: what the Hub reads of it, and that it says only what is known."""

import ast
import re
from dataclasses import asdict

import pytest
from huggingface_hub import ModelCard, ModelCardData

from captioning.sharing.model_card import Example, Training, model_card
from captioning.tracking.provenance import provenance
from config import Config

FLICKR = Config(HF_REPO_ID="me/captioner", RUN_NAME="a-run")
DEMO = Config(DATASET="demo", ENCODER_MODEL_NAME="random:tiny", RUN_NAME="scenes")
SCORES = {"validation_loss": 2.125, "BLEU-1": 0.625, "CIDEr": 0.5, "METEOR": None, "step": 1200}


def data_of(card: str) -> ModelCardData:
    data = ModelCard(card).data
    assert isinstance(data, ModelCardData)
    return data


def test_the_hub_files_it_and_reads_its_scores() -> None:
    data = data_of(model_card(FLICKR, SCORES, split="test"))
    assert data.pipeline_tag == "image-to-text"
    assert data.library_name == "pytorch"
    assert data.license == "other"
    assert data.language == "en"
    assert data.datasets == ["nlphuji/flickr30k"]
    assert data.base_model == "openai/clip-vit-base-patch32"
    assert {"image-captioning", "image-to-text", "pytorch", "safetensors"} == set(data.tags)
    assert data.model_name == "captioner"
    found = [(r.metric_type, r.metric_name, r.metric_value) for r in data.eval_results]
    assert found == [("bleu", "BLEU-1", 0.625), ("cider", "CIDEr", 0.5)]
    assert {result.task_type for result in data.eval_results} == {"image-to-text"}
    assert {result.dataset_split for result in data.eval_results} == {"test"}


def test_what_was_not_measured_is_not_there() -> None:
    text = model_card(FLICKR, {"CIDEr": float("nan"), "METEOR": None})
    assert "model-index" not in text
    for word in ("## Scores", "METEOR", "nan", "None", "energy", "hours", "commit", "device"):
        assert word not in text
    ModelCard(text)


def test_what_is_known_is_there() -> None:
    record = provenance(
        asdict(FLICKR),
        device="NVIDIA H200, bf16",
        data={"sha256": "f00d" * 16, "pictures": {"train": 29_000, "validation": 0}},
    )
    record["code"] = {"commit": "c0ffee", "dirty": True}
    training = Training(
        provenance=record,
        step=1234,
        seconds=5400,
        joules=1.8e6,
        energy_sources=("GPU (NVML)",),
        trained_parameters=29_400_000,
    )
    text = model_card(FLICKR, {**SCORES, "num_images": 500}, training=training)
    for said in (
        "500 pictures of the validation split",
        "| CIDEr | 0.5000 |",
        "| loss per token | 2.1250 |",
        "29,000 for train.",
        "`f00df00df00df00d`",
        "| device | NVIDIA H200, bf16 |",
        "| time | 1.50 hours |",
        "| energy | 0.5 kWh (GPU (NVML)) |",
        "| code | commit `c0ffee`, with changes |",
        "| trained parameters | 29,400,000 |",
        "| steps up to this checkpoint | 1,234 |",
        "| BATCH_SIZE | 256 |",
        "non-commercial research",
        "## Limits and biases",
    ):
        assert said in text


def test_the_three_lines_are_python_and_name_the_repository() -> None:
    match = re.search(r"```python\n(.*?)```", model_card(FLICKR, SCORES), re.DOTALL)
    assert match
    ast.parse(match[1])
    assert len([line for line in match[1].splitlines() if line]) == 3
    assert 'Captioner.from_pretrained("me/captioner")' in match[1]
    assert 'Captioner.from_pretrained("checkpoints/scenes/best")' in model_card(DEMO, SCORES)


def test_pictures_are_shown_only_of_the_demo() -> None:
    examples = [Example("example-1.png", "a red ball")]
    assert "| ![a drawn scene](example-1.png) | a red ball |" in model_card(
        DEMO, SCORES, examples=examples
    )
    assert "example-1.png" not in model_card(FLICKR, SCORES, examples=examples)
    assert data_of(model_card(DEMO, SCORES)).license == "apache-2.0"


@pytest.mark.parametrize(
    ("settings", "datasets"),
    [
        ({"DATASET": "user/pictures"}, ["user/pictures"]),
        ({"DATASET": "flickr30k", "IMAGE_DIR": "a/b", "CAPTIONS_FILE": "c.json"}, None),
        ({"DATASET": "flickr8k"}, None),
        ({"DATASET": "flickr8k", "DATASET_SOURCE": "user/flickr8k"}, ["user/flickr8k"]),
        ({"DATASET": "flickr30k", "DATASET_SOURCE": "/data/flickr30k.zip"}, None),
    ],
)
def test_the_data_set_is_named_where_the_hub_has_it(
    settings: dict[str, str], datasets: list[str] | None
) -> None:
    assert data_of(model_card(Config(**settings), SCORES)).datasets == datasets


@pytest.mark.parametrize("config", [FLICKR, DEMO])
@pytest.mark.parametrize("metrics", [{}, SCORES])
@pytest.mark.parametrize("step", [None, 7])
def test_sections_stand_apart_by_one_line_and_captions_are_text(
    config: Config, metrics: dict[str, float | None], step: int | None
) -> None:
    examples = [Example("example-1.png", 'a "red" ball & a <b>big</b> | one')]
    card = model_card(config, metrics, training=Training(step=step), examples=examples)
    text = card.split("\n---\n", 1)[1]
    assert "\n\n\n" not in text
    assert text.endswith(".\n")
    for heading in re.findall(r"^#.*$", text, re.MULTILINE):
        assert f"\n{heading}\n\n" in text
    escaped = 'a "red" ball &#38; a &#60;b&#62;big&#60;/b&#62; &#124; one'
    assert (f"| {escaped} |" in text) == (config is DEMO)


@pytest.mark.parametrize(
    "name",
    [
        "![x](https://evil.example/x.png)",
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[click](javascript:alert(1))",
        "**bold** _so_ ~~gone~~ `code`",
        "www.evil.example",
        "https://evil.example",
        "me@evil.example",
        "a | b",
        "&lt;b&gt; \\[a]",
        "a``b` c",
        '"); import os; print("',
    ],
)
def test_no_markup_comes_from_names(name: str) -> None:
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True})
    markdown.enable(["table", "strikethrough"])
    config = Config(
        DATASET="demo",
        RUN_NAME=name.replace("/", ":").replace("\\", ":"),
        ENCODER_MODEL_NAME=name,
        STREAM=name,
    )
    card = model_card(config, {}, examples=[Example("example-1.png", name)])
    body = card.split("\n---\n", 1)[1]
    found = [part for block in markdown.parse(body) for part in (block, *(block.children or ()))]
    assert [part.attrs["src"] for part in found if part.type == "image"] == ["example-1.png"]
    # What GitHub would make a link of by itself.
    assert not re.search("www[.]evil|https?://evil|me@evil", re.sub(r"(?s)(`+).*?\1", "", body))
    assert {part.type for part in found} <= {
        *("heading_open", "heading_close", "paragraph_open", "paragraph_close", "inline", "text"),
        *("code_inline", "fence", "image", "softbreak", "text_special"),
        *("bullet_list_open", "bullet_list_close", "list_item_open", "list_item_close"),
        *(
            f"{kind}_{end}"
            for kind in ("table", "thead", "tbody", "tr", "th", "td")
            for end in ("open", "close")
        ),
    }
    shown = [part.content for part in found if part.type == "code_inline"]
    assert sum(" ".join(name.split()) == one for one in shown) == 3
    code = re.search(r"```python\n(.*?)```", body, re.DOTALL)
    assert code
    assert len(ast.parse(code[1]).body) == 3


def test_a_card_tells_nothing_of_the_machine() -> None:
    config = Config(
        DATASET="mine",
        IMAGE_DIR="/home/alice/photos",
        CAPTIONS_FILE="/home/alice/captions.csv",
        OUTPUT_DIR="/home/alice/runs",
        RUN_NAME="run",
        ENCODER_MODEL_NAME="random:/home/alice/tiny",
    )
    stream = Config(STREAM="/home/alice/*.tar; https://alice:PW@host/x.tar?token=tok999")
    for card in (model_card(config, SCORES), model_card(stream, SCORES)):
        for secret in ("alice", "/home", "PW", "tok999"):
            assert secret not in card
    assert 'Captioner.from_pretrained("run/best")' in model_card(config, SCORES)


def test_the_tokens_of_scores_are_said() -> None:
    assert "raw values as coco-caption gives them" in model_card(FLICKR, SCORES)
    text = model_card(FLICKR, {**SCORES, "tokenizer": "script"})
    assert "coco-caption's formulas on other tokens, by script: characters where" in text
    assert "raw values" not in text


def test_the_card_says_where_the_trainer_was_cloned_from() -> None:
    code = {"commit": "c0ffee", "dirty": False, "repository": "https://example.org/me/trainer"}
    card = model_card(DEMO, SCORES, training=Training(provenance={"code": code}))
    assert "From a clone of the trainer, https://example.org/me/trainer, with" in card
    assert "From a clone of the trainer, with" in model_card(DEMO, SCORES)
