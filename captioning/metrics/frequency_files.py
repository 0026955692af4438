"""Document frequencies of CIDEr as a file, so that scores of any set weigh words alike.

CIDEr weighs an n-gram by how few pictures' references have it, as a rule those that are scored:
scores of two sets, or of a part, are then not comparable. Papers fix the frequencies on COCO's
validation captions.

    caption-scores --references captions_val2014.json --make-document-frequencies coco-val.npz
    caption-scores --candidates a.json --references b.json --document-frequencies coco-val.npz

The file is NumPy's `npz`, read without unpickling.
"""

import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from captioning.metrics.cider import DocumentFrequencies
from captioning.metrics.ngrams import MAX_ORDER
from captioning.metrics.tokenizers import TOKENIZERS, TokenizerName, choose_tokenizer
from captioning.system.errors import UserError
from captioning.system.files import atomic_write

ORDERS = range(1, MAX_ORDER + 1)


def count_frequencies(
    references: Mapping[str, Sequence[str]], tokenizer: TokenizerName = "auto"
) -> DocumentFrequencies:
    """The frequencies in captions as people wrote them."""
    chosen = choose_tokenizer(tokenizer, references.values())
    counted = DocumentFrequencies.of([chosen(texts) for texts in references.values()])
    return replace(counted, tokenizer=chosen.name)


def save_frequencies(path: str | os.PathLike[str], frequencies: DocumentFrequencies) -> None:
    """Write the file, whole or not at all."""
    tokens = "\n".join(frequencies.token_numbers).encode()
    arrays: dict[str, Any] = {
        "pictures": np.array(frequencies.pictures),
        "tokenizer": np.frombuffer(frequencies.tokenizer.encode(), np.uint8),
        "tokens": np.frombuffer(tokens, np.uint8),
    }
    for order, keys, counts in zip(ORDERS, frequencies.keys, frequencies.frequencies, strict=True):
        arrays |= {f"keys_{order}": keys, f"counts_{order}": counts.astype(np.uint32)}
    with atomic_write(Path(path)) as file:
        np.savez_compressed(file, **arrays)


def load_frequencies(path: str | os.PathLike[str]) -> DocumentFrequencies:
    """Read the file; `UserError` where it is none."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            frequencies = DocumentFrequencies(
                int(arrays["pictures"]),
                {token: number for number, token in enumerate(_text(arrays["tokens"]).split("\n"))},
                tuple(arrays[f"keys_{order}"].astype(np.int64) for order in ORDERS),
                tuple(arrays[f"counts_{order}"].astype(np.float64) for order in ORDERS),
                _text(arrays["tokenizer"]),
            )
    except OSError as error:
        reason = error.strerror or "it is no npz file"
        raise UserError(f"{path} cannot be read: {reason}.") from None
    except (ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, EOFError):
        raise UserError(
            f"{path} holds no document frequencies; make them with: caption-scores --references "
            "FILE --make-document-frequencies FILE.npz"
        ) from None
    pairs = zip(frequencies.keys, frequencies.frequencies, strict=True)
    whole = all(a.shape == b.shape and (np.diff(a) > 0).all() for a, b in pairs)
    if not whole or frequencies.pictures < 1 or frequencies.tokenizer not in TOKENIZERS:
        raise UserError(f"{path} is damaged: its counts do not fit each other. Make it again.")
    return frequencies


def _text(array: Any) -> str:
    return bytes(array.astype(np.uint8)).decode()
