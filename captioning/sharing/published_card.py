"""A checkpoint's card as it is published: what is only known when it leaves.

Named are the repository that it is in and, where the clone tells, where the trainer is to be had;
the test scores, where `evaluate.py` measured them; how each form that lies beside the checkpoint is
used; and under which licence the pictures are, if somebody says so. What people wrote into the card
stays, and the card in the folder is as it was.
"""

import json
import re
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

from captioning.sharing.model_card import (
    LIBRARY_NAME,
    METRIC_TYPES,
    TASK,
    is_number,
    tokens_in_words,
)
from captioning.system.markdown import as_plain_text
from captioning.tracking.provenance import code_version

OLDER_LIBRARY_NAME = "image-captioning-trainer"
"""What cards had up to version 0.2.0; the Hub knows no such library."""
FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)\r?\n---\r?\n", re.DOTALL)
FROM_A_CLONE = "From a clone of the trainer, with"
USE, DATA, LICENCE = "## How to use it", "## Data", "## Licence"

WITH_TRANSFORMERS = """\
With transformers and Pillow alone; the code that it runs is `modeling_captioner.py` in this
repository:

```python
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.image_utils import load_image

model = AutoModelForImageTextToText.from_pretrained({repo}, trust_remote_code=True)
processor = AutoProcessor.from_pretrained({repo}, trust_remote_code=True, backend="pil")
inputs = processor(images=load_image("photo.jpg"), return_tensors="pt")
print(processor.decode(model.generate(**inputs)[0], skip_special_tokens=True))
```

or in one line:

```python
from transformers import pipeline

print(pipeline("image-to-text", model={repo}, trust_remote_code=True)("photo.jpg"))
```
"""
WITH_ONNX = """\
Without torch, with `pip install onnxruntime tokenizers numpy pillow huggingface_hub`:

```bash
hf download {name} --include "onnx/*" --local-dir captioner
python captioner/onnx/caption.py photo.jpg
```
"""
FORMS = {"transformers": WITH_TRANSFORMERS, "onnx": WITH_ONNX}
"""How each form is used, by the format of `export.py`."""


def published_card(
    card: str,
    folder: Path,
    repo_id: str,
    *,
    dataset: str = "",
    forms: Collection[str] = (),
    data_license: str = "",
) -> str:
    """The text of a checkpoint's card for the repository `repo_id`.

    `dataset` is what it was tested on, `forms` lie beside it there, `data_license` is that of the
    pictures.
    """
    test = test_scores(folder)
    found = FRONT_MATTER.match(card)
    body = card[found.end() :] if found else card
    body = re.sub(r'(Captioner\.from_pretrained\(")[^"]*', lambda match: match[1] + repo_id, body)
    body = re.sub(
        r"(generate\.py --checkpoint )('[^']*'|\S+)", lambda match: match[1] + repo_id, body
    )
    if FROM_A_CLONE in body and (address := trainer_address()):
        body = body.replace(FROM_A_CLONE, f"From a clone of the trainer, {address}, with")
    uses = [
        text.format(repo=json.dumps(repo_id), name=shlex.quote(repo_id))
        for form, text in FORMS.items()
        if form in forms
    ]
    body = _add_to_section(body, USE, "\n".join(uses))
    if test:
        rows = "".join(f"| {name} | {value:.4f} |\n" for name, value in test["scores"].items())
        table = f"## Test scores\n\n{test['said']}\n\n| metric | value |\n|---|---|\n{rows}"
        before, heading, after = body.partition(f"\n{DATA}\n")
        body = f"{before}\n{table}{heading}{after}" if heading else f"{body}\n{table}"
    if data_license:
        said = f"Licence of the pictures, as the uploader says: {as_plain_text(data_license)}.\n"
        body = _add_to_section(body, LICENCE, said)
    return (_front_matter(found, repo_id, dataset, forms, test) if found else "") + body


def test_scores(folder: Path) -> dict[str, Any]:
    """What `evaluate.py` measured of a checkpoint on the test split; empty if it did not.

    The evaluation lies beside the checkpoint, and is no older than it.
    """
    path = folder.parent / "evaluation" / "metrics.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        evaluated = Path(found["checkpoint"])
        # Its name tells it from others of the run, from wherever it was evaluated.
        is_of_it = folder.resolve() == evaluated.resolve() or folder.name == evaluated.name
        is_newer = path.stat().st_mtime >= (folder / "checkpoint.json").stat().st_mtime
        protocol, pictures = found["protocol"], int(found["num_images"])
        if not (is_of_it and is_newer and protocol.get("split") == "test"):
            return {}
        tokens, decoding = (
            tokens_in_words(found.get("tokenizer", "ptb")),
            protocol.get("decoding", ""),
        )
        scores = {name: found[name] for name in METRIC_TYPES if is_number(found.get(name))}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    said = f"{pictures:,} pictures of the test split, {tokens}; {decoding}."
    return {"scores": scores, "said": said} if scores else {}


def trainer_address() -> str:
    """Where the trainer that runs was cloned from; "" where that is no plain https address."""
    code = code_version(Path(__file__).parents[2]) or {}
    return str(code.get("repository", ""))


def _front_matter(
    found: re.Match[str], repo_id: str, dataset: str, forms: Collection[str], test: dict[str, Any]
) -> str:
    """The YAML of a card with what is known now; as it was, where that is nothing."""
    import yaml

    try:
        data = yaml.safe_load(found[1])
    except (yaml.YAMLError, RecursionError):
        return found[0]
    if not isinstance(data, dict):
        return found[0]
    before = json.dumps(data, default=str)
    if data.get("library_name") in (OLDER_LIBRARY_NAME, LIBRARY_NAME):
        data["library_name"] = "transformers" if "transformers" in forms else LIBRARY_NAME
    tags = data.get("tags", [])
    if isinstance(tags, list) and any(form not in tags for form in forms):
        data["tags"] = tags + [form for form in FORMS if form in forms and form not in tags]
    if test:
        results = _results(data)
        tested_on = results[0]["dataset"] if results else {"name": dataset, "type": dataset}
        results.append(
            {
                "task": TASK,
                "dataset": {**tested_on, "split": "test"},
                "metrics": [
                    {"type": METRIC_TYPES[name], "value": value, "name": name}
                    for name, value in test["scores"].items()
                ],
            }
        )
        data["model-index"] = [{"name": "", "results": results}]
    if results := _results(data):
        data["model-index"] = [{"name": repo_id.rpartition("/")[2], "results": results}]
    if json.dumps(data, default=str) == before:
        return found[0]
    return f"---\n{yaml.dump(data, sort_keys=False, allow_unicode=True)}---\n"


def _results(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The results in a card's YAML; none where they are not as this program writes them."""
    try:
        results = list(data["model-index"][0]["results"])
        return results if all(isinstance(one["dataset"], dict) for one in results) else []
    except (KeyError, IndexError, TypeError):
        return []


def _add_to_section(body: str, heading: str, text: str) -> str:
    """The text at the end of a section, or of the card where somebody took the heading away."""
    if not text:
        return body
    start = body.find(f"\n{heading}\n")
    end = body.find("\n## ", start + 1) if start >= 0 else -1
    if end < 0:
        return f"{body.rstrip()}\n\n{text}"
    return f"{body[:end].rstrip()}\n\n{text}{body[end:]}"
