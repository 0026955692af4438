"""Caption pictures with a trained model.

    python generate.py --image photo.jpg                 # the caption, alone on standard output
    python generate.py --image holiday/ 'more/*.png'     # path<TAB>caption, a line a picture
    find . -name '*.jpg' | python generate.py --image -  # paths on standard input, or a picture
    python generate.py --image photo.jpg --method sample --num-captions 5 --json
    python generate.py --image photo.jpg --attention words.png
    python generate.py --image photo.jpg --checkpoint user/repo

Takes files, folders, globs and URLs; a picture that is named alone prints its caption alone.
Everything but captions goes to standard error. A picture that cannot be read and a name that means
none are reported, the others are captioned, and the exit code is 1. Several captions of a picture
are several lines, best first.
"""

import io
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from captioning.system.errors import (
    EXIT_DONE,
    EXIT_PARTLY_DONE,
    EXIT_USER_ERROR,
    UserError,
    run_command,
)
from captioning.system.options import check_value, notes_of, parse_options
from captioning.system.privacy import mask_urls
from captioning.system.processes import ending_together, is_main_process
from captioning.system.progress import Progress
from captioning.system.rules import MOST_BEAMS, at_least, within
from captioning.system.terminal import json_line, one_line
from config import Config

if TYPE_CHECKING:
    from PIL import Image

    from captioner import Caption, Captioner
    from captioning.decoding import SearchOptions, TokenRules
    from captioning.sources.image_inputs import ImageInput
    from captioning.sources.named_pictures import NamedPictures


@dataclass(frozen=True)
class For:
    """The methods for which an option means something."""

    methods: tuple[str, ...]


BEAMS, GROUPS, SAMPLES = For(("beam", "diverse")), For(("diverse",)), For(("sample",))


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """What to caption, and how."""

    image: tuple[str, ...]
    """Pictures: files, folders, globs, URLs; several at once. - = paths on standard input, one a
    line, or a picture."""
    checkpoint: str = ""
    """Checkpoint folder or Hub repository ("" = the newest `best` under output-dir)."""
    revision: str = ""
    """Branch, tag or commit of the Hub repository."""
    output_dir: str = "checkpoints"
    """Where to look for the newest `best`."""
    method: Literal["greedy", "beam", "sample", "diverse"] = "beam"
    """How to search."""
    beam_size: Annotated[int, within(0, MOST_BEAMS), BEAMS] = 0
    """Beams (0 = as in training, or as many as captions are asked for)."""
    num_captions: Annotated[int, within(1, MOST_BEAMS)] = 1
    """Captions of each picture."""
    length_penalty: Annotated[float | None, For(("beam", "diverse", "sample"))] = None
    """Larger favours longer captions, 0 is plain sums (default: as in training)."""
    groups: Annotated[int, within(0, MOST_BEAMS), GROUPS] = 0
    """Groups of a diverse beam search (0 = as many as beams)."""
    diversity_penalty: Annotated[float, GROUPS] = 0.5
    """How strongly groups of a diverse beam search avoid each other's words."""
    temperature: Annotated[float, SAMPLES] = 1.0
    """Sampling: below 1 plainer, above 1 wilder."""
    top_k: Annotated[int, SAMPLES] = 0
    """Sampling: from the k most probable tokens (0 = off)."""
    top_p: Annotated[float, SAMPLES] = 1.0
    """Sampling: from the most probable tokens that sum to p (1 = off)."""
    min_p: Annotated[float, SAMPLES] = 0.0
    """Sampling: from tokens at least this many times as probable as the best (0 = off)."""
    seed: Annotated[int, SAMPLES] = 0
    """Sampling: the same seed gives the same captions."""
    min_length: Annotated[int | None, at_least(0)] = None
    """Tokens of a caption at least (default: 0, or as a model that was trained elsewhere says)."""
    max_length: Annotated[int, at_least(0)] = 0
    """Tokens of a caption at most, its end counted (0 = as in training, and where the model was
    trained here, no more than that)."""
    no_repeat_ngram: int | None = None
    """No sequence of this many tokens comes twice (0 = off; default: 0, or as a model that was
    trained elsewhere says)."""
    repetition_penalty: float = 1.0
    """Above 1 disfavours tokens that were used already."""
    forbid: tuple[str, ...] = ()
    """Words, or beginnings of words, that captions never contain, as typed and capitalised."""
    forbid_word: Annotated[tuple[str, ...], BEAMS] = ()
    """Words that captions never contain; longer ones that begin so may come: not `a`, but `at`."""
    force: tuple[str, ...] = ()
    """Words, or beginnings of words, that each caption contains."""
    attention: str = ""
    """PNG to draw: the (first) picture, and what each word of its caption looked at."""
    rollout: bool = False
    """Follow attention through the encoder too, where it has any (Abnar and Zuidema, 2020)."""
    font: str = ""
    """Font file of the attention's words, for scripts that DejaVu lacks, such as Chinese."""
    json: bool = False
    """Print a JSON line a picture."""
    limit: Annotated[int, at_least(0)] = 0
    """Caption the first so many pictures only (0 = all)."""
    batch_size: Annotated[int, at_least(1)] = 32
    """Pictures computed together; halved where memory does not suffice."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the model."""
    trust_remote_code: bool = False
    """Run code that the encoder's repository brings along. Only for repositories you trust."""


def main(argv: Sequence[str] | None = None) -> int:
    """Load a model, caption, print."""
    options = parse_options(
        GenerateOptions,
        sys.argv[1:] if argv is None else argv,
        description="Caption pictures with a trained model.",
    )
    check_options(options)
    named = _inputs(options)
    search_options(options, Config())  # finds what does not fit before a model is loaded
    from captioner import Captioner

    with ending_together():
        captioner = Captioner.from_pretrained(
            options.checkpoint or _newest(options.output_dir),
            revision=options.revision,
            device=options.device,
            precision=options.precision,
            trust_remote_code=options.trust_remote_code,
        )
        count, broken = len(named.pictures), caption_all(captioner, named, options)
        if broken and count > 1 and is_main_process():
            print(f"{broken} of {count} pictures could not be captioned.", file=sys.stderr)
    if broken == count:
        return EXIT_USER_ERROR
    return EXIT_PARTLY_DONE if broken or named.problems else EXIT_DONE


def caption_all(captioner: "Captioner", named: "NamedPictures", options: GenerateOptions) -> int:
    """Caption and print pictures batch by batch; returns how many could not be read."""
    from pipeline import each_shared_batch

    inputs, runtime = named.pictures, captioner.pipeline.runtime
    search = search_options(options, captioner.config)
    rules = token_rules(options, captioner)
    newest: dict[int, Image.Image] = {}  # the pictures of the newest batch, by number

    def caption(numbers: Sequence[int]) -> list["Sequence[Caption] | str"]:
        """The captions of each picture, or what is wrong with it."""
        images, problems = _read(inputs, numbers)
        newest.clear()
        newest.update(images)
        found: Sequence[Sequence[Caption]] = []
        if images:
            found = captioner.pipeline.captions(
                captioner.features(list(images.values())),
                search,
                rules=rules,
                picture_numbers=list(images),
            )
        results = problems | dict(zip(images, found, strict=True))
        return [results[number] for number in numbers]

    _keep_any_file_name()
    done = broken = 0
    told = Shortcomings(options)
    is_drawn = not options.attention
    is_shown = runtime.is_main and len(inputs) > 1
    with Progress("captions", len(inputs), is_shown=is_shown, has_lines=False) as bar:
        for results in each_shared_batch(
            runtime, len(inputs), caption, batch_size=options.batch_size
        ):
            good = {n: one for n, one in enumerate(results, done) if not isinstance(one, str)}
            if runtime.is_main:
                with bar.aside():
                    _print_results(named, done, results, options)
                    told.note([inputs[done + n].name for n in range(len(results))], results)
                    if good and not is_drawn:
                        number, captions = next(iter(good.items()))
                        # Of several processes another one may have read it.
                        image = newest.get(number) or _read(inputs, [number])[0][number]
                        _write_strip(captioner, image, captions[0], options)
                        is_drawn = True
            done += len(results)
            broken += len(results) - len(good)
            bar.advance(len(results))
    told.tell()
    return broken


class Shortcomings:
    """What was asked for and not given: so many captions, and words in them."""

    def __init__(self, options: GenerateOptions) -> None:
        """What was asked for."""
        self._wanted, self._words = options.num_captions, options.force
        self._fewer: list[tuple[str, int]] = []
        self._without: dict[str, int] = {}

    def note(self, names: Sequence[str], results: Sequence["Sequence[Caption] | str"]) -> None:
        """Look at what was found of some pictures."""
        for name, captions in zip(names, results, strict=True):
            if isinstance(captions, str):
                continue
            if len(captions) < self._wanted:
                self._fewer.append((name, len(captions)))
            for word in self._words:
                lacking = sum(word not in caption.text for caption in captions)
                self._without[word] = self._without.get(word, 0) + lacking

    def tell(self) -> None:
        """Say it on standard error."""
        if self._fewer:
            name, count = self._fewer[0]
            many = f" and of {len(self._fewer) - 1:,} more pictures" if len(self._fewer) > 1 else ""
            print(
                f"Fewer captions than the {self._wanted} of --num-captions: {count} of {name}"
                f"{many}. The search found no others; more beams may (--beam-size).",
                file=sys.stderr,
            )
        for word, count in self._without.items():
            if count:
                print(f"{word!r} found no place in {count:,} captions.", file=sys.stderr)


def check_options(options: GenerateOptions) -> None:
    """Raise `UserError` with all that can be told without a model."""
    problems: list[str] = []
    for field in fields(options):
        value = getattr(options, field.name)
        problems += check_value(field, value)
        problems += [
            f"--{field.name.replace('_', '-')} means nothing to --method {options.method}; leave "
            f"it out, or add --method {note.methods[0]}."
            for note in notes_of(field, For)
            if value != field.default and options.method not in note.methods
        ]
    if options.font and not Path(options.font).is_file():
        problems.append(f"--font is {options.font!r}; it must name a .ttf or .otf file.")
    if options.attention and Path(options.attention).suffix.lower() != ".png":
        problems.append(f"--attention is {options.attention!r}; it must name a .png file.")
    for name in ("rollout", "font"):
        if getattr(options, name) and not options.attention:
            problems.append(f"--{name} draws nothing by itself; add --attention FILE.png")
    words = {
        "forbid": options.forbid,
        "forbid-word": options.forbid_word,
        "force": options.force,
    }
    problems += [
        f"--{flag} is {word!r}; it must be a word, without spaces around it."
        for flag, many in words.items()
        for word in many
        if not word or word != word.strip()
    ]
    both = sorted({*options.forbid, *options.forbid_word} & set(options.force))
    problems += [f"{word!r} is both forced and forbidden; choose one." for word in both]
    if problems:
        raise UserError(*problems)


def search_options(options: GenerateOptions, trained: Config) -> "SearchOptions":
    """How to search, with what the checkpoint was trained with where the options are silent."""
    from captioning.decoding import SearchOptions, Warp

    groups = options.groups or 1
    wide_enough = max(trained.BEAM_SIZE, options.num_captions)
    beam_size = options.beam_size or -(-wide_enough // groups) * groups
    return SearchOptions(
        method=options.method,
        num_captions=options.num_captions,
        beam_size=beam_size,
        length_penalty=trained.LENGTH_PENALTY
        if options.length_penalty is None
        else options.length_penalty,
        groups=options.groups or beam_size,
        diversity_penalty=options.diversity_penalty,
        warp=Warp(
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            min_p=options.min_p,
        ),
        seed=options.seed,
    )


def token_rules(options: GenerateOptions, captioner: "Captioner") -> "TokenRules":
    """What captions may hold.

    A forbidden word is meant at the start of a caption and after a space, a forced one after a
    space; both in the tokens that the vocabulary spells it with.
    """
    tokenizer = captioner.pipeline.tokenizer
    usual = captioner.pipeline.rules()
    most = captioner.pipeline.model.decoder.max_length - 1  # <START> is not written
    if max(options.max_length, (options.min_length or 0) + 1) > most:
        raise UserError(
            f"this model writes {most} tokens at most, its end counted; lower --max-length and "
            "--min-length."
        )

    def ids(word: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(word)[1:-1])

    def forms(words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        found = {
            ids(start + form)
            for word in words
            for form in (word, word[:1].upper() + word[1:])
            for start in ("", " ")
        }
        return tuple(sorted(found))

    return replace(
        usual,
        max_length=options.max_length or usual.max_length,
        min_length=usual.min_length if options.min_length is None else options.min_length,
        no_repeat_ngram=usual.no_repeat_ngram
        if options.no_repeat_ngram is None
        else options.no_repeat_ngram,
        repetition_penalty=options.repetition_penalty,
        forbidden_words=forms(options.forbid),
        forbidden_whole_words=forms(options.forbid_word),
        forced_words=tuple(dict.fromkeys(ids(f" {word}") for word in options.force)),
        continuing_ids=tokenizer.continuing_ids if options.force or options.forbid_word else (),
    )


def _inputs(options: GenerateOptions) -> "NamedPictures":
    """The pictures to caption; `UserError` where none of them exists."""
    from captioning.sources.named_pictures import find_named

    named = find_named(options.image)
    if options.limit:
        named.pictures = named.pictures[: options.limit]
    if all(one.is_missing for one in named.pictures):
        missing = [f"{one.name} is missing; check the path." for one in named.pictures]
        raise UserError(*missing, *named.problems)
    if is_main_process():
        for text in (*(f"error: {problem}" for problem in named.problems), *named.notes):
            print(one_line(text), file=sys.stderr)
    return named


def _read(
    inputs: Sequence["ImageInput"], numbers: Sequence[int]
) -> tuple[dict[int, "Image.Image"], dict[int, str]]:
    """The pictures that can be read, by number, and what is wrong with the others."""
    from captioning.sources.images import load_image

    images, problems = {}, {}
    for number in numbers:
        one = inputs[number]
        try:
            images[number] = load_image(one.read(), name=one.name)
        except UserError as error:
            problems[number] = str(error)
    return images, problems


def _print_results(
    named: "NamedPictures",
    first: int,
    results: Sequence["Sequence[Caption] | str"],
    options: GenerateOptions,
) -> None:
    """Print what was found of the pictures from number `first` on."""
    for problem in results:
        if isinstance(problem, str):
            print(f"error: {one_line(problem)}", file=sys.stderr)
    for one, captions in zip(named.pictures[first:], results, strict=False):
        if not isinstance(captions, str):
            name = "" if named.is_one and not options.json else mask_urls(one.name)
            print("\n".join(_lines(name, captions, as_json=options.json)))
    sys.stdout.flush()


def _newest(output_dir: str) -> str:
    from checkpoint import newest_best

    folder = newest_best(Path(output_dir))
    if is_main_process():
        print(f"Captioning with {folder}.", file=sys.stderr)
    return os.fspath(folder)


def _lines(name: str, captions: Sequence["Caption"], *, as_json: bool) -> Iterator[str]:
    """What is printed of a picture: one line as JSON, else a line a caption."""
    if as_json:
        names = ("text", "log_probability", "confidence")
        shown = [{name: getattr(caption, name) for name in names} for caption in captions]
        yield json_line({"image": name, "captions": shown})
        return
    for caption in captions:
        text = one_line(" ".join(caption.text.split()))
        yield f"{one_line(name)}\t{text}" if name else text


def _keep_any_file_name() -> None:
    """Let standard output pass on names of files that are not UTF-8, as they are."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")


def _write_strip(
    captioner: "Captioner", image: "Image.Image", caption: "Caption", options: GenerateOptions
) -> None:
    from captioning.reports.strips import lacks_letters, load_font, write_strip

    strip = captioner.strip(image, caption, rollout=options.rollout, font_file=options.font)
    try:
        write_strip(strip, options.attention)
    except OSError as error:
        raise UserError(f"{options.attention} cannot be written: {error.strerror}.") from None
    print(f"What each word looked at: {options.attention}", file=sys.stderr)
    if lacks_letters(caption.text, load_font(options.font)):
        print("Its font lacks some letters; name one that has them: --font FILE", file=sys.stderr)


def __getattr__(name: str) -> Any:
    """`from generate import Captioner, Caption`, without torch in every start of the command."""
    if name in ("Captioner", "Caption"):
        import captioner

        return getattr(captioner, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if __name__ == "__main__":
    run_command(main, prints_results=True)
