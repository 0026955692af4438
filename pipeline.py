"""Features in, text out: search in batches that fit the device, ids to words.

Used by validation during training, by `generate.py` and by `evaluate.py`, so that a picture gets
the same caption wherever it is captioned.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from captioning.decoding import Hypothesis, SearchOptions, TokenRules, Usual, search
from captioning.decoding.neighbours import Neighbours
from captioning.decoding.placing import place_words
from captioning.gpt2.folder import GPT2, open_language_model
from captioning.sharing.repository import resolve_language_model
from captioning.system.errors import UserError
from captioning.system.processes import is_main_process
from captioning.system.runtime import Runtime
from captioning.system.stopping import Stopped
from captioning.system.terminal import one_line, words_of
from config import Config
from encoder import VisionEncoder, encode
from model import CaptionModel, DecoderState
from tokenizer import CaptionTokenizer, train_tokenizer

Result = TypeVar("Result")
BATCH_SIZE = 64
"""Pictures searched together, unless memory says otherwise."""
MOST_ROWS = 8_192
"""Beams searched together at most: with many beams a picture, fewer pictures."""
MOST_LOGITS = 2**28
"""Numbers that a step of the search weighs at most: a gigabyte of them."""


@dataclass(frozen=True)
class Caption:
    """What the model says of a picture, and how sure it is."""

    text: str
    log_probability: float
    """Sum of the log-probabilities of its tokens, <END> included."""
    confidence: float
    """Geometric mean of the probabilities of its tokens, 0 to 1."""
    token_probabilities: tuple[tuple[str, float], ...] = field(repr=False)
    """Each token with its probability; the last is <END> if the caption ended."""
    ids: tuple[int, ...] = field(repr=False)
    """Its tokens, without <START> and <END>."""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class CaptionPipeline:
    """All that stands between pixels and words."""

    encoder: VisionEncoder
    model: CaptionModel
    tokenizer: CaptionTokenizer
    runtime: Runtime
    max_length: int
    """Ids of a caption at most, <START> and <END> counted."""
    usual: Usual = field(default_factory=Usual)
    """What captions follow besides, unless asked otherwise."""
    neighbours: Neighbours | None = None
    """Who chooses among the captions that were found; None takes them as the search ranks them."""

    @classmethod
    def from_settings(
        cls, config: Config, runtime: Runtime, captions: Sequence[str]
    ) -> "CaptionPipeline":
        """A new model on the encoder of the settings, with a vocabulary of training captions; or
        with a language model's, whose weights its decoder then has, and whose texts it goes on with
        until cross-attention has learnt something."""
        language = open_decoder(config)
        if language is not None:
            tokenizer = CaptionTokenizer(language.vocabulary)
        else:
            tokenizer = train_tokenizer(captions, config.VOCAB_SIZE)
        encoder = VisionEncoder.from_settings(config)
        encoder.prepare_training(config)
        torch.manual_seed(config.RANDOM_SEED)
        model = CaptionModel.from_config(
            config,
            patches=encoder.num_tokens,
            feature_dim=encoder.feature_dim,
            vocab_size=len(tokenizer),
            gpt2=language.architecture if language is not None else None,
        )
        if language is not None:
            language.fill(model.decoder.state_dict(), has_cross_attention=False)
            model.decoder.add_no_memory()
        return cls(
            encoder.to(runtime.device),
            model.to(runtime.device),
            tokenizer,
            runtime,
            config.MAX_SEQ_LEN,
        )

    def parameters(self, *, trained: bool) -> int:
        """How many numbers of encoder and model training changes, or does not."""
        return sum(
            parameter.numel()
            for part in (self.model, self.encoder)
            for parameter in part.parameters()
            if parameter.requires_grad is trained
        )

    def decoding(self, search: SearchOptions) -> str:
        """How captions come about, in a few words."""
        chosen = f", chosen by {self.neighbours.description}" if self.neighbours else ""
        return search.description + ", in int8" * self.runtime.int8 + chosen

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode in the middle of a training."""
        self.model.eval()
        self.encoder.eval()
        try:
            yield
        finally:
            self.model.train()
            self.encoder.train()

    @torch.inference_mode()
    def features(self, content: Tensor) -> Tensor:
        """(B, P, F) float32 features from cached ones, or from (B, 3, H, W) uint8 pixels."""
        content = content.to(self.runtime.device)
        with self.runtime.autocast():
            return encode(content, self.encoder)

    @torch.inference_mode()
    def captions(
        self,
        features: Tensor,
        options: SearchOptions,
        *,
        rules: TokenRules | None = None,
        picture_numbers: Sequence[int] | None = None,
    ) -> list[list[Caption]]:
        """Captions of (B, P, F) features, best first. The model must be in evaluation mode.

        Pictures are searched together as far as `MOST_ROWS` and `MOST_LOGITS` allow. Forced words
        of the `rules` are put in where they cost least. `neighbours` choose among all beams.
        """
        wanted = options.num_captions
        if self.neighbours is not None and options.method in ("beam", "diverse"):
            options = replace(options, num_captions=options.beam_size)
        rules = rules or self.rules()
        numbers = range(len(features)) if picture_numbers is None else picture_numbers
        rows = max(options.num_captions, 1 if options.method == "greedy" else options.beam_size)
        if rules.forced_words:  # a row for each place that a word may have
            rows = max(rows, options.num_captions * rules.max_length)
        entries = self.model.decoder.embedding.num_embeddings
        together = max(1, min(MOST_ROWS, MOST_LOGITS // entries) // rows)
        found: list[list[Hypothesis]] = []
        for start in range(0, len(features), together):
            part = slice(start, start + together)
            with self.runtime.autocast():
                found += self._search(features[part], options, rules, numbers[part])
        captions = [[self._caption(one) for one in of_picture] for of_picture in found]
        if self.neighbours is None:
            return captions
        texts = [[one.text for one in of_picture] for of_picture in captions]
        sure = [
            [one.log_probability / len(one.token_probabilities) for one in of_picture]
            for of_picture in captions
        ]
        order = self.neighbours.order(features, texts, sure)
        return [
            [of_picture[place] for place in places[:wanted]]
            for of_picture, places in zip(captions, order, strict=True)
        ]

    def _search(
        self,
        features: Tensor,
        options: SearchOptions,
        rules: TokenRules,
        picture_numbers: Sequence[int],
    ) -> list[list[Hypothesis]]:
        """The captions of features (B, P, F) that are searched together."""
        options = replace(options, early_stop=options.early_stop or self.usual.early_stop)
        free, device = replace(rules, forced_words=()), self.runtime.device
        memory = self.model.encode_memory(features)
        found = search(
            DecoderState(self.model.decoder, memory),
            batch_size=len(features),
            rules=free,
            options=options,
            picture_numbers=picture_numbers,
            device=device,
        )
        if not rules.forced_words:
            return found
        return place_words(
            lambda: DecoderState(self.model.decoder, memory),
            found,
            rules.forced_words,
            free,
            options,
            picture_numbers=picture_numbers,
            device=device,
        )

    def best_captions(
        self,
        count: int,
        features: Callable[[Sequence[int]], Tensor],
        options: SearchOptions,
        *,
        check_stop: Callable[[], None] = lambda: None,
    ) -> Iterator[list[Caption]]:
        """The best caption of pictures 0 ... count - 1, batch by batch, as `each_shared_batch`.

        `features` gives those (B, P, F) of some pictures by their numbers.
        """

        def caption(numbers: Sequence[int]) -> list[Caption]:
            found = self.captions(features(numbers), options, picture_numbers=numbers)
            return [captions[0] for captions in found]

        return each_shared_batch(self.runtime, count, caption, check_stop=check_stop)

    def rules(self) -> TokenRules:
        """Captions as long as training allows, without special tokens inside."""
        return TokenRules(
            start_id=self.tokenizer.start_id,
            end_id=self.tokenizer.end_id,
            max_length=self.max_length - 1,  # <START> is not written
            min_length=self.usual.min_length,
            no_repeat_ngram=self.usual.no_repeat_ngram,
            forbidden_ids=self.tokenizer.never_written,
        )

    def _caption(self, found: Hypothesis) -> Caption:
        pieces = [one_line(self.tokenizer.decode([token])) for token in found.ids]
        pieces += ["<END>"] * (len(found.token_log_probabilities) - len(pieces))
        probabilities = torch.tensor(found.token_log_probabilities).exp().tolist()
        return Caption(
            words_of(self.tokenizer.decode(found.ids)),
            found.log_probability,
            found.confidence,
            tuple(zip(pieces, probabilities, strict=True)),
            found.ids,
        )


def open_decoder(config: Config) -> GPT2 | None:
    """The language model that the settings name for the decoder; None where they name none.

    Raises `UserError` where most of a decoder would keep random weights for ever.
    """
    if config.DECODER_MODEL_NAME:
        name, revision = config.decoder
        folder = resolve_language_model(name, revision=revision)
        return open_language_model(folder, config.DECODER_MODEL_NAME)
    if config.DECODER_TRAINED != "all":
        raise UserError(
            f"DECODER_TRAINED is {config.DECODER_TRAINED}, and the rest of the decoder would keep "
            "random weights; leave it out, or add --DECODER_MODEL_NAME distilgpt2."
        )
    return None


@dataclass
class BatchSize:
    """How many pictures are computed together: fewer for good once memory did not suffice."""

    pictures: int

    def parts(self, count: int, work: Callable[[range], Result]) -> Iterator[Result]:
        """`work(range)` over 0 ... count - 1; what does not fit into memory is halved.

        Raises `UserError` where not even one picture fits.
        """
        done = 0
        while done < count:
            batch = range(done, min(done + self.pictures, count))
            try:
                result = work(batch)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise UserError(
                        "out of memory with a single picture. End what else uses the device, or "
                        "write --DEVICE cpu"
                    ) from None
                self.pictures = len(batch) // 2
            else:
                done = batch.stop
                yield result
                continue
            # Only here, where the error and all that it holds are gone, can memory be given back.
            torch.cuda.empty_cache()
            if is_main_process():
                print(
                    f"Out of memory; going on with {self.pictures} pictures at a time.",
                    file=sys.stderr,
                )


def each_batch(
    count: int, work: Callable[[range], Result], *, batch_size: int = BATCH_SIZE
) -> Iterator[Result]:
    """`work(range)` over 0 ... count - 1; a batch that does not fit into memory is halved.

    Raises `UserError` where not even one picture fits.
    """
    return BatchSize(batch_size).parts(count, work)


def each_shared_batch(
    runtime: Runtime,
    count: int,
    work: Callable[[Sequence[int]], list[Result]],
    *,
    batch_size: int = BATCH_SIZE,
    check_stop: Callable[[], None] = lambda: None,
) -> Iterator[list[Result]]:
    """`work(numbers)` over 0 ... count - 1, shared out over the processes, batch by batch.

    Every process gets all results in order. What does not fit into the memory of one is halved for
    all. `check_stop` is called before each batch; where it raises `Stopped` in one, all stop.
    """

    def shared_work(batch: range) -> list[Result]:
        numbers = runtime.shared(batch)
        found: list[Result] = []
        with runtime.raise_in_all(torch.OutOfMemoryError, Stopped):
            check_stop()
            if numbers:
                found = work(numbers)
            check_stop()
        return runtime.gather(found)

    return each_batch(count, shared_work, batch_size=batch_size * runtime.world_size)
