"""Text <-> token ids: a byte-level BPE vocabulary, trained on the training captions.

    python tokenizer.py train --DATASET flickr30k --VOCAB_SIZE 10000     writes tokenizer.json
    python tokenizer.py show "Two dogs run." --tokenizer tokenizer.json  show how a caption is cut

Bytes are the alphabet, so any Unicode text comes back exactly and nothing is ever <UNK>. Training a
run's tokenizer takes seconds; `train.py` does it by itself and keeps `tokenizer.json` with the run.
"""

import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from captioning.sources.records import read_records
from captioning.system.errors import EXIT_DONE, UserError, run_command
from captioning.system.files import read_json, write_text
from captioning.system.options import parse_options
from captioning.system.terminal import one_line
from config import Config, parse_config

PAD, START, END, UNK = "<PAD>", "<START>", "<END>", "<UNK>"
SPECIAL_TOKENS = (PAD, START, END, UNK)
FILE_NAME = "tokenizer.json"
LOWER_CASE = ("normalizer", {"type": "Lowercase"})
"""What version 0.1 could have in its tokenizers."""


@dataclass(frozen=True)
class Word:
    """A word of a caption and the tokens that it is made of."""

    text: str
    start: int
    """Its first token."""
    stop: int
    """One past its last token."""


class CaptionTokenizer:
    """A trained vocabulary. Ids 0 to 3 are <PAD>, <START>, <END>, <UNK>."""

    pad_id, start_id, end_id, unk_id = range(4)

    def __init__(self, bpe: tokenizers.Tokenizer, *, source: str = "the tokenizer") -> None:
        """Wrap a `tokenizers.Tokenizer`; `source` names its file in errors."""
        for expected, token in enumerate(SPECIAL_TOKENS):
            if bpe.token_to_id(token) != expected:
                raise UserError(
                    f"{source} is not a captioning tokenizer: {token} must be entry {expected}. "
                    "Take the tokenizer.json that lies beside the checkpoint."
                )
        # A caption that says "<END>" means these five letters.
        bpe.encode_special_tokens = True
        self._bpe = bpe

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a `tokenizer.json`, or the one in a folder."""
        file = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
        if not file.is_file():
            raise UserError(
                f"{file} is missing. Make one with: python tokenizer.py train --DATASET NAME"
            )
        try:
            bpe = _read_bpe(read_json(file))
        except _ForeignError as problem:
            raise UserError(
                f"{file} is not a captioning tokenizer: {problem}. Take the tokenizer.json that "
                "lies beside the checkpoint."
            ) from None
        return cls(bpe, source=str(file))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `tokenizer.json`, whole or not at all."""
        write_text(path, self.to_json())

    def to_json(self) -> str:
        """The text of `tokenizer.json`."""
        return self._bpe.to_str(pretty=True)

    def __len__(self) -> int:
        return self._bpe.get_vocab_size()

    def encode(self, caption: str, max_length: int | None = None) -> list[int]:
        """<START>, the caption's tokens, <END>; cut to `max_length` ids, and then without <END>."""
        return self.encode_all([caption], max_length)[0]

    def encode_all(self, captions: Sequence[str], max_length: int | None = None) -> list[list[int]]:
        """`encode` for many captions, on all cores."""
        # Rust strings hold no lone surrogates; in text they are damage, not meaning.
        valid = [caption.encode("utf-8", "replace").decode("utf-8") for caption in captions]
        encoded = self._bpe.encode_batch_fast(valid, add_special_tokens=False)
        return [[self.start_id, *ids.ids, self.end_id][:max_length] for ids in encoded]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special tokens have none."""
        return self._bpe.decode([i for i in ids if i >= len(SPECIAL_TOKENS)])

    def words(self, ids: Sequence[int]) -> list[Word]:
        """The words of a caption's tokens; a word begins where white space stands before it."""
        starts = [
            i
            for i in range(len(ids))
            if i == 0 or self.decode(ids[i : i + 1]).startswith((" ", "\n", "\t"))
        ]
        stops = [*starts[1:], len(ids)] if starts else []
        return [
            Word(self.decode(ids[start:stop]).strip(), start, stop)
            for start, stop in zip(starts, stops, strict=True)
        ]

    @cached_property
    def continuing_ids(self) -> tuple[int, ...]:
        """Tokens that go on with the word before them: they begin with a letter that is no capital,
        with a digit or with a part of a letter."""
        pieces = {i: self.decode([i]) for i in range(len(SPECIAL_TOKENS), len(self))}
        return tuple(
            i
            for i, piece in pieces.items()
            if (piece[:1].isalnum() and not piece[:1].isupper()) or piece[:1] == "\ufffd"
        )


def train_tokenizer(captions: Iterable[str], vocab_size: int) -> CaptionTokenizer:
    """Train byte-level BPE (Sennrich et al., 2016; on bytes: Radford et al., 2019)."""
    bpe = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    bpe.train_from_iterator(captions, trainer)
    return CaptionTokenizer(bpe)


def _byte_level(model: models.BPE) -> tokenizers.Tokenizer:
    bpe = tokenizers.Tokenizer(model)
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    return bpe


def _read_bpe(content: dict[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer that training made, of what it wrote."""
    bpe = _byte_level(models.BPE(*_vocabulary_of(content)))
    if content.get("normalizer"):
        bpe.normalizer = normalizers.Lowercase()
    bpe.add_special_tokens(list(SPECIAL_TOKENS))
    return bpe


class _ForeignError(ValueError):
    """A tokenizer.json is not as this program writes it; the text says where."""


def _vocabulary_of(content: dict[str, Any]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Entries with their ids, and merges, of a `tokenizer.json` as this program writes it.

    The library reads far more: parts that pad to a billion ids, that replace without end, or that
    abort the process. Nothing but entries and merges is handed to it, and those are checked here.
    """
    for part in ("truncation", "padding", "normalizer", "post_processor"):
        if content.get(part) is not None and (part, content[part]) != LOWER_CASE:
            raise _ForeignError(f"it has a {part} that is not ours")
    for part, kind in (("pre_tokenizer", "ByteLevel"), ("decoder", "ByteLevel"), ("model", "BPE")):
        if not isinstance(content.get(part), dict) or content[part].get("type") != kind:
            raise _ForeignError(f"its {part} is not {kind}")
    if content["pre_tokenizer"].get("add_prefix_space") is not False:
        raise _ForeignError("its pre_tokenizer puts a space before a caption")
    vocabulary, merges = content["model"].get("vocab"), content["model"].get("merges")
    if not isinstance(vocabulary, dict) or not isinstance(merges, list):
        raise _ForeignError("its model has no vocab and merges")
    letters = {*pre_tokenizers.ByteLevel.alphabet()}
    for token, number in vocabulary.items():
        if type(number) is not int or not (letters.issuperset(token) or token in SPECIAL_TOKENS):
            raise _ForeignError(f"it has the entry {token!r:.80}: {number!r:.80}")
    if not letters <= vocabulary.keys():
        raise _ForeignError("it lacks entries of single bytes")
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise _ForeignError(f"its {len(vocabulary):,} entries are not numbered from 0 on")
    for expected, token in enumerate(SPECIAL_TOKENS):
        if vocabulary.get(token) != expected:
            raise _ForeignError(f"{token} must be entry {expected}")
    pairs = []
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        is_pair = isinstance(pair, list) and [type(one) for one in pair] == [str, str]
        if not is_pair or not {*pair, "".join(pair)} <= vocabulary.keys():
            raise _ForeignError(f"it has the merge {merge!r:.80}, which makes no entry")
        pairs.append((pair[0], pair[1]))
    return vocabulary, pairs


def training_captions(config: Config) -> list[str]:
    """Every caption of the training split."""
    mend = f"python prepare_dataset.py --DATASET {shlex.quote(config.DATASET)}"
    records = read_records(config.dataset_dir / "train", mend=mend)
    return [caption for record in records for caption in record.captions]


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """How `tokenizer.py show` finds its vocabulary."""

    tokenizer: str = FILE_NAME
    """A tokenizer.json, or the folder of a checkpoint."""
    json: bool = False
    """Print a JSON line instead of text."""


def main(argv: Sequence[str] | None = None) -> int:
    """`train` or `show`."""
    words = list(sys.argv[1:] if argv is None else argv)
    action = words.pop(0) if words else ""
    if action == "train":
        return _train(words)
    if action == "show":
        return _show(words)
    print(__doc__, file=sys.stdout if action in ("-h", "--help") else sys.stderr)
    if action in ("-h", "--help"):
        return EXIT_DONE
    raise UserError(f"{action!r} is no action of tokenizer.py; write train or show.")


def _train(words: list[str]) -> int:
    config = parse_config(words, description="Train a vocabulary; writes tokenizer.json.")
    captions = training_captions(config)
    tokenizer = train_tokenizer(captions, config.VOCAB_SIZE)
    path = config.dataset_dir / FILE_NAME
    tokenizer.save(path)
    sample = tokenizer.encode_all(captions[:10_000])
    mean = sum(map(len, sample)) / max(len(sample), 1)
    print(f"{len(tokenizer):,} entries from {len(captions):,} captions, {mean:.1f} ids a caption")
    print(path)
    return EXIT_DONE


def _show(words: list[str]) -> int:
    flags = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
    options = parse_options(ShowOptions, words[flags:], description="Show how a caption is cut.")
    if not words[:flags]:
        raise UserError('there is no caption to show; write: python tokenizer.py show "A dog."')
    tokenizer = CaptionTokenizer.load(options.tokenizer)
    for caption in words[:flags]:
        ids = tokenizer.encode(caption)
        pieces = [
            SPECIAL_TOKENS[i] if i < len(SPECIAL_TOKENS) else tokenizer.decode([i]) for i in ids
        ]
        if options.json:
            print(json.dumps({"caption": caption, "ids": ids, "pieces": pieces}))
        else:
            print(one_line("|".join(pieces)), f"({len(ids)} ids)")
    return EXIT_DONE


if __name__ == "__main__":
    run_command(main, prints_results=True)
