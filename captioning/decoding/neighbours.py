"""Which of several captions to take: the one that what people wrote of similar pictures speaks for.

    neighbours = Neighbours(features_of_training_pictures, their_captions, prefix=1)
    neighbours.order(features, [["a dog runs", "a cat sits"]], [[-0.9, -1.0]])      [[0, 1]]

The model's own order is that of its log-probabilities. To those, each caption is given its CIDEr-D
against all captions of the training pictures that are most like the picture (Devlin et al., 2015,
"Exploring nearest neighbor approaches for image captioning", who take such a consensus alone).
Pictures are compared by the mean of their patches and of what stands before them (class token),
less the mean over all training pictures, by cosine. Document frequencies are those of the training
captions.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from captioning.metrics.cider import CiderD, DocumentFrequencies
from captioning.metrics.tokenizers import choose_tokenizer

NEAREST = 20
"""Training pictures that are asked."""
WEIGHT = 1.0
"""Of their CIDEr-D beside the mean log-probability of a token."""


class Neighbours:
    """Training pictures with their captions, to be asked about others."""

    def __init__(
        self,
        features: Iterable[Tensor],
        captions: Sequence[Sequence[str]],
        *,
        prefix: int,
        nearest: int = NEAREST,
        weight: float = WEIGHT,
    ) -> None:
        """`features` are parts (B, P, F) of the training pictures', of which the first `prefix`
        tokens are no patches; `captions` are those of each picture."""
        self._prefix, self._nearest, self._weight = prefix, nearest, weight
        descriptors = torch.cat([self._describe(part) for part in features])
        self._centre = descriptors.mean(0)
        self._descriptors = F.normalize(descriptors - self._centre, dim=1)
        self._tokenize = choose_tokenizer("auto", captions)
        self._captions = [self._tokenize(texts) for texts in captions]
        self._cider = CiderD(DocumentFrequencies.of(self._captions))

    @property
    def description(self) -> str:
        """Who chooses, in a few words."""
        return f"the captions of the {self._nearest} nearest training pictures"

    def order(
        self,
        features: Tensor,
        captions: Sequence[Sequence[str]],
        log_probabilities: Sequence[Sequence[float]],
    ) -> list[list[int]]:
        """The places of each picture's captions, best first, for features (B, P, F).

        `log_probabilities` are of each caption the mean over its tokens.
        """
        nearest = self.nearest(features)
        return [
            self._ordered(*of_picture)
            for of_picture in zip(captions, log_probabilities, nearest, strict=True)
        ]

    def nearest(self, features: Tensor) -> list[list[int]]:
        """The numbers of the training pictures most like each of some features (B, P, F)."""
        described = F.normalize(self._describe(features) - self._centre, dim=1)
        count = min(self._nearest, len(self._descriptors))
        found: list[list[int]] = (described @ self._descriptors.T).topk(count).indices.tolist()
        return found

    def _describe(self, features: Tensor) -> Tensor:
        """(B, P, F) -> (B, F), or (B, 2 F) where something stands before the patches."""
        parts = features.float().cpu().tensor_split([self._prefix], dim=1)
        return torch.cat([part.mean(1) for part in parts if part.shape[1]], dim=1)

    def _ordered(
        self, captions: Sequence[str], log_probabilities: Sequence[float], pictures: Sequence[int]
    ) -> list[int]:
        references = [text for picture in pictures for text in self._captions[picture]]
        agreement = self._cider.score(self._tokenize(captions), [references] * len(captions))
        scores = np.array(log_probabilities) + self._weight * agreement
        return [int(place) for place in np.argsort(-scores, kind="stable")]
