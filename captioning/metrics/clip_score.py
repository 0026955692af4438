"""CLIPScore and RefCLIPScore (Hessel et al., 2021): how well captions fit their pictures.

And how well each caption finds its picture among all that were captioned: R@1, R@5, R@10.

Any CLIP of the Hub or a local folder judges. The published numbers are of
`openai/clip-vit-base-patch32`; other judges give other numbers, so name the judge with the score.

    judge = ClipJudge.from_pretrained("openai/clip-vit-base-patch32")
    scores = judge.score(["a.jpg"], ["a dog runs"], [["A dog is running ."]])
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from captioning.metrics.ngrams import FloatArray
from captioning.sources.images import Source, load_image
from captioning.system.errors import UserError

if TYPE_CHECKING:
    import torch

PROMPT = "A photo depicts "
WEIGHT = 2.5
BATCH_SIZE = 64
TEXTS_AT_ONCE = 1024
"""Texts whose likeness to every picture is held at a time."""
LEVEL = 1e-9
"""Likenesses that differ by less are rounded differently alone."""
STANDARD_JUDGE = "openai/clip-vit-base-patch32"


@dataclass(frozen=True)
class ClipScores:
    """The scores of N captions; the corpus score is the mean."""

    clip_score: FloatArray
    """CLIPScore of each; [N]."""
    ref_clip_score: FloatArray
    """RefCLIPScore of each; [N]."""
    ranks: FloatArray
    """Of each picture among all N, when its caption looks for it; 1 is the best; [N]."""

    def recall(self, best: int) -> FloatArray:
        """R@`best` of each: 1 where its caption finds the picture among so many; [N]."""
        return (self.ranks <= best).astype(float)


class ClipJudge:
    """A CLIP with its tokenizer and image processor."""

    def __init__(
        self, model: Any, tokenizer: Any, image_processor: Any, device: "str | torch.device" = "cpu"
    ) -> None:
        self.model = model.to(device).eval()
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.device = device

    @classmethod
    def from_pretrained(
        cls,
        name: str = STANDARD_JUDGE,
        *,
        revision: str | None = None,
        device: "str | torch.device" = "cpu",
    ) -> "ClipJudge":
        """Load a CLIP by its Hub id or folder; `UserError` where it is none or cannot be had."""
        from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, CLIPModel

        try:
            model_type = AutoConfig.from_pretrained(name, revision=revision).model_type
            if model_type != "clip":
                raise UserError(
                    f"{name} is of type {model_type!r}; CLIPScore needs a CLIP, such as "
                    f"{STANDARD_JUDGE}."
                )
            return cls(
                CLIPModel.from_pretrained(name, revision=revision),
                AutoTokenizer.from_pretrained(name, revision=revision),
                AutoImageProcessor.from_pretrained(name, revision=revision),
                device,
            )
        except (OSError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            reason = str(error).strip().split("\n")[0]
            raise UserError(
                f"{name} cannot be loaded as a CLIP: {reason} Give the id of a CLIP on the Hub, "
                f"such as {STANDARD_JUDGE}, or a folder that holds one."
            ) from None

    def score(
        self,
        images: Sequence[Source],
        captions: Sequence[str],
        references: Sequence[Sequence[str]],
    ) -> ClipScores:
        """Score N captions of N pictures; each picture has at least one reference."""
        pictures = self._picture_vectors(images)
        texts = [*captions, *(text for of_picture in references for text in of_picture)]
        distinct = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        vectors = self._text_vectors(list(distinct))
        ours = vectors[[distinct[caption] for caption in captions]]
        clip_score = WEIGHT * np.maximum((pictures * ours).sum(axis=1), 0)
        closest = np.zeros(len(captions))
        for row, of_picture in enumerate(references):
            others = vectors[[distinct[text] for text in of_picture]]
            closest[row] = max((others @ ours[row]).max(), 0.0)
        return ClipScores(
            clip_score, _harmonic_mean(clip_score, closest), retrieval_ranks(ours, pictures)
        )

    def _picture_vectors(self, images: Sequence[Source]) -> FloatArray:
        """The unit vector of each picture; [N, D]."""
        vectors = []
        for batch in _batches(images):
            pictures = [load_image(image) for image in batch]
            pixels = self.image_processor(images=pictures, return_tensors="pt")["pixel_values"]
            vectors.append(self._unit_vectors("get_image_features", pixel_values=pixels))
        return np.concatenate(vectors)

    def _text_vectors(self, texts: Sequence[str]) -> FloatArray:
        """The unit vector of each text after the prompt; [N, D]."""
        vectors = []
        for batch in _batches(texts):
            tokens = self.tokenizer(
                [PROMPT + text for text in batch],
                padding=True,
                truncation=True,
                max_length=self.model.config.text_config.max_position_embeddings,
                return_tensors="pt",
            )
            vectors.append(
                self._unit_vectors(
                    "get_text_features",
                    input_ids=tokens["input_ids"],
                    attention_mask=tokens["attention_mask"],
                )
            )
        return np.concatenate(vectors)

    def _unit_vectors(self, method: str, **inputs: "torch.Tensor") -> FloatArray:
        import torch

        with torch.inference_mode():
            on_device = {name: value.to(self.device) for name, value in inputs.items()}
            features = getattr(self.model, method)(**on_device).pooler_output
            vectors: FloatArray = features.double().cpu().numpy()
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def retrieval_ranks(texts: FloatArray, pictures: FloatArray) -> FloatArray:
    """The rank of each text's own picture by likeness; [N], both of unit vectors [N, D].

    A picture that is as like as its own counts half: equal pictures cannot be told apart.
    """
    ranks = []
    for first in range(0, len(texts), TEXTS_AT_ONCE):
        likeness = texts[first : first + TEXTS_AT_ONCE] @ pictures.T
        rows = np.arange(len(likeness))
        own = likeness[rows, first + rows][:, None]
        nearer, level = likeness > own + LEVEL, np.abs(likeness - own) <= LEVEL
        ranks.append(1 + nearer.sum(axis=1) + (level.sum(axis=1) - 1) / 2)
    return np.concatenate(ranks)


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for first in range(0, len(items), BATCH_SIZE):
        yield items[first : first + BATCH_SIZE]


def _harmonic_mean(first: FloatArray, second: FloatArray) -> FloatArray:
    """2ab / (a + b), and 0 where both are 0."""
    total = first + second
    return np.divide(2 * first * second, total, out=np.zeros_like(total), where=total > 0)
