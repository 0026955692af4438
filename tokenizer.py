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
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from captioning.gpt2.vocabulary import Vocabulary, VocabularyError, vocabulary_of
from captioning.sources.records import read_records
from captioning.system.errors import EXIT_DONE, UserError, run_command
from captioning.system.files import read_json, write_text
from captioning.system.options import parse_options
from captioning.system.terminal import one_line
from config import Config, parse_config

PAD, START, END, UNK = "<PAD>", "<START>", "<END>", "<UNK>"
SPECIAL_TOKENS = (PAD, START, END, UNK)
FILE_NAME = "tokenizer.json"


@dataclass(frozen=True)
class Word:
    """A word of a caption and the tokens that it is made of."""

    text: str
    start: int
    """Its first token."""
    stop: int
    """One past its last token."""


class CaptionTokenizer:
    """A trained vocabulary, whose ids 0 to 3 are <PAD>, <START>, <END>, <UNK>; or GPT-2's, where
    one token may be both start and end, and stands for padding too."""

    pad_id, start_id, end_id, unk_id = range(4)
    never_written: tuple[int, ...] = (pad_id, start_id, unk_id)
    """Ids that captions do not hold."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Text by `vocabulary`; one without a frame is of captions, its specials are ours."""
        bpe = _byte_level(
            models.BPE(vocabulary.entries, vocabulary.merges),
            begins_with_space=vocabulary.begins_with_space,
        )
        if vocabulary.is_lower_case:
            bpe.normalizer = normalizers.Lowercase()
        bpe.add_special_tokens(sorted(vocabulary.special, key=vocabulary.entries.__getitem__))
        self._special = frozenset(vocabulary.entries[token] for token in vocabulary.special)
        if vocabulary.frame is not None:
            self.start_id, self.end_id = (vocabulary.entries[end] for end in vocabulary.frame)
            self.pad_id = self.unk_id = self.end_id
            self.never_written = ()
            bpe.post_processor = _framed(vocabulary)
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
            return cls(_checked(read_json(file)))
        except VocabularyError as problem:
            raise UserError(
                f"{file} is not a captioning tokenizer: it {problem}. Take the tokenizer.json that "
                "lies beside the checkpoint."
            ) from None

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
        return self._bpe.decode([i for i in ids if i not in self._special])

    def piece(self, token: int) -> str:
        """The text of an id, or the name of a special token."""
        return str(self._bpe.id_to_token(token) if token in self._special else self.decode([token]))

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
        pieces = {i: self.decode([i]) for i in range(len(self)) if i not in self._special}
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
    return CaptionTokenizer(_checked(json.loads(bpe.to_str())))


def _byte_level(model: models.BPE, *, begins_with_space: bool = False) -> tokenizers.Tokenizer:
    bpe = tokenizers.Tokenizer(model)
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=begins_with_space)
    bpe.decoder = decoders.ByteLevel()
    return bpe


def _framed(vocabulary: Vocabulary) -> processors.TemplateProcessing:
    """What says in a tokenizer.json which tokens begin and end a caption."""
    start, end = vocabulary.frame or (START, END)
    ids = [(token, vocabulary.entries[token]) for token in {start: 0, end: 0}]
    return processors.TemplateProcessing(single=[start, "$A", end], special_tokens=ids)


def _checked(content: dict[str, Any]) -> Vocabulary:
    """The vocabulary of a `tokenizer.json` as `save` writes it. Raises `VocabularyError`."""
    for part in ("truncation", "padding"):
        if content.get(part) is not None:
            raise VocabularyError(f"has a {part} that is not ours")
    vocabulary = vocabulary_of(content)
    if vocabulary.frame is None:
        if content.get("post_processor") is not None:
            raise VocabularyError("has a post_processor that is not ours")
        for expected, token in enumerate(SPECIAL_TOKENS):
            if vocabulary.entries.get(token) != expected:
                raise VocabularyError(f"lacks our tokens: {token} must be entry {expected}")
    return vocabulary


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
        pieces = [tokenizer.piece(token) for token in ids]
        if options.json:
            print(json.dumps({"caption": caption, "ids": ids, "pieces": pieces}))
        else:
            print(one_line("|".join(pieces)), f"({len(ids)} ids)")
    return EXIT_DONE


if __name__ == "__main__":
    run_command(main, prints_results=True)
