"""Caption pictures with a trained model.

    python generate.py --image photo.jpg                 # the caption, alone on standard output
    python generate.py --image holiday/ 'more/*.png'     # path<TAB>caption, a line a picture
    find . -name '*.jpg' | python generate.py --image -  # paths on standard input, or a picture
    python generate.py --image photo.jpg --method sample --num-captions 5 --json
    python generate.py --image photo.jpg --attention words.png
    python generate.py --image photo.jpg --checkpoint user/repo
    python generate.py --image holiday/ --write txt      # a.txt beside a.jpg; goes on after a kill
    python generate.py --image 'shards/*.tar' --write jsonl --output captions/ --part 3/64

Takes files, folders, globs, zips, shards and URLs; a picture that is named alone prints its caption
alone. Everything but captions goes to standard error. A picture that cannot be read and a name that
means none are reported, the others are captioned, and the exit code is 1. Several captions of a
picture are several lines, best first. What `--write` has written is skipped the next time.
"""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing
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
from captioning.system.processes import ending_together, is_main_process, is_one_of_many
from captioning.system.progress import Progress
from captioning.system.rules import MOST_BEAMS, at_least, within
from captioning.system.terminal import one_line
from config import Config

if TYPE_CHECKING:
    from PIL import Image

    from captioner import Caption, Captioner
    from captioning.decoding import SearchOptions, TokenRules
    from captioning.sources.named_pictures import NamedPictures
    from captioning.system.runtime import Runtime
    from captioning.writing.pictures import ShardEnd, Unread
    from captioning.writing.work import Work


@dataclass(frozen=True)
class For:
    """The methods for which an option means something."""

    methods: tuple[str, ...]


BEAMS, GROUPS, SAMPLES = For(("beam", "diverse")), For(("diverse",)), For(("sample",))


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """What to caption, and how."""

    image: tuple[str, ...]
    """Pictures: files, folders, globs, zips, shards (WebDataset tars, Parquet), URLs; several at
    once. - = paths on standard input, one a line, or a picture."""
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
    prefix: str = ""
    """Words that each caption begins with, such as "A photo of"."""
    choose: Annotated[Literal["score", "neighbours"], BEAMS] = "score"
    """Which beams are the captions: the likeliest, or, as captions of similar training pictures say
    too, the best; needs the prepared data set of the training."""
    data_dir: str = ""
    """Folder of prepared data sets, for choose ("" = as in training)."""
    attention: str = ""
    """PNG to draw: the (first) picture, and what each word of its caption looked at."""
    rollout: bool = False
    """Follow attention through the encoder too, where it has any (Abnar and Zuidema, 2020)."""
    font: str = ""
    """Font file of the attention's words, for scripts that DejaVu lacks, such as Chinese."""
    json: bool = False
    """Print a JSON line a picture."""
    write: Literal["print", "txt", "caption", "xmp", "jsonl", "csv", "parquet", "coco"] = "print"
    """Where captions go: standard output; a .txt, .caption or XMP file a picture; one file of JSON
    Lines, CSV, Parquet or COCO results. What is there already is skipped."""
    output: str = ""
    """Folder or file to write to ("" = beside the pictures)."""
    overwrite: bool = False
    """Caption anew what is captioned already."""
    part: str = ""
    """3/64 = the third of 64 shares of the pictures, which need not know of each other."""
    limit: Annotated[int, at_least(0)] = 0
    """Caption the first so many pictures only (0 = all)."""
    batch_size: Annotated[int, at_least(1)] = 32
    """Pictures computed together; halved where memory does not suffice."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    """Arithmetic of the model; int8: of the decoder alone, faster on a CPU, not exact."""
    trust_remote_code: bool = False
    """Run code that the encoder's repository brings along. Only for repositories you trust."""


def main(argv: Sequence[str] | None = None) -> int:
    """Load a model, caption, print or write."""
    options = parse_options(
        GenerateOptions,
        sys.argv[1:] if argv is None else argv,
        description="Caption pictures with a trained model.",
    )
    check_options(options)
    named = _inputs(options)
    search_options(options, Config())  # finds what does not fit before a model is loaded
    work = _work(named, options)
    from captioner import Captioner

    with ending_together():
        captioner = Captioner.from_pretrained(
            options.checkpoint or _newest(options.output_dir),
            revision=options.revision,
            device=options.device,
            precision=options.precision,
            trust_remote_code=options.trust_remote_code,
        )
        if options.choose == "neighbours":
            from checkpoint import data_folder

            name, config = options.checkpoint or _newest(options.output_dir), captioner.config
            folder = data_folder(name, config, options.data_dir)
            captioner.ask_neighbours(folder / config.dataset_name)
        with closing(work.output):
            caption_all(captioner, work, options)
    if work.broken and not (work.captioned or work.skipped):
        return EXIT_USER_ERROR
    return EXIT_PARTLY_DONE if work.broken or named.problems else EXIT_DONE


def caption_all(captioner: "Captioner", work: "Work", options: GenerateOptions) -> None:
    """Caption pictures batch by batch, and print or write what is found of them.

    Decoding, encoding and searching overlap; of several processes the first one writes. The `work`
    counts what became of it.
    """
    from captioning.writing.printing import Shortcomings

    runtime, images = captioner.pipeline.runtime, {}
    is_drawn, skipped = not options.attention, 0

    def load(one: "Unread | ShardEnd") -> "Image.Image | str":
        image = _read(one)
        if not (is_drawn or isinstance(image, str)):
            images[one.number] = image
        return image

    if runtime.is_main:
        work.output.open()
    runtime.barrier()  # nothing is read there before it was locked
    batches = captioner.captions_ahead(
        work.pending(runtime.rank, runtime.world_size),
        load,
        search_options(options, captioner.config),
        number=lambda one: one.number,
        rules=token_rules(options, captioner),
        batch_size=options.batch_size,
    )
    told = Shortcomings(options.num_captions, options.force)
    is_shown = runtime.is_main and len(work.files) > 1
    has_lines = options.write != "print"
    bar = Progress("captions", len(work.files), is_shown=is_shown, has_lines=has_lines)
    with bar, warnings.catch_warnings():
        # Set once for all threads: what Pillow warns of is either an error or no matter.
        warnings.simplefilter("ignore")
        for results in _gathered(runtime, batches):
            if runtime.is_main:
                with bar.aside():
                    for problem in work.note(results):
                        print(f"error: {one_line(problem)}", file=sys.stderr)
                    good = [(one, found) for one, found in results if isinstance(found, list)]
                    for one, captions in good:
                        told.note(one.name, captions)
                        if not is_drawn and one.number in images:
                            _write_strip(captioner, images[one.number], captions[0], options)
                            is_drawn = True
                            images.clear()
            bar.advance(len(results) + work.skipped - skipped)
            skipped = work.skipped
    work.skipped = sum(runtime.gather([work.skipped]))
    if runtime.is_main:
        work.output.finish()
        told.tell()
        work.tell()
    work.captioned, work.broken = runtime.on_main(lambda: (work.captioned, work.broken))


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
    if options.write == "print":
        problems += [
            f"--{name} is for captions that are written; add --write FORM, such as --write txt."
            for name in ("output", "overwrite")
            if getattr(options, name)
        ]
    elif options.json:
        problems.append("--json prints; leave it out, or --write jsonl writes the same lines.")
    if options.write in ("coco", "xmp") and options.num_captions > 1:
        problems.append(f"--write {options.write} holds one caption; leave out --num-captions.")
    if options.data_dir and options.choose == "score":
        problems.append("--data-dir is for --choose neighbours; add it, or leave --data-dir out.")
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

    prefix, most = ids(" ".join(options.prefix.split())), options.max_length or usual.max_length
    if len(prefix) >= most:
        raise UserError(
            f"--prefix has {len(prefix)} tokens, and a caption has {most} at most, its end "
            "counted; write fewer words."
        )
    return replace(
        usual,
        max_length=most,
        prefix=prefix,
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
    if not named.shards and all(one.is_missing for one in named.pictures[: options.limit or None]):
        pictures = named.pictures[: options.limit or None]
        missing = [f"{one.name} is missing; check the path." for one in pictures]
        raise UserError(*missing, *named.problems)
    if is_main_process():
        for text in (*(f"error: {problem}" for problem in named.problems), *named.notes):
            print(one_line(text), file=sys.stderr)
    return named


def _work(named: "NamedPictures", options: GenerateOptions) -> "Work":
    """This command's share of the pictures, and where its captions go."""
    from captioning.writing.outputs import Part
    from captioning.writing.printing import PrintedLines
    from captioning.writing.work import Work

    part, limit = Part.parse(options.part), options.limit
    if limit and named.shards and (part.count > 1 or is_one_of_many()):
        raise UserError("--limit counts the pictures of shards in one process; leave it out.")
    if options.write == "print":
        printed = PrintedLines(as_json=options.json, with_names=not named.is_one)
        return Work.printed(named, printed, part, limit)
    return Work.written(
        named, options.write, options.output, part, overwrite=options.overwrite, limit=limit
    )


def _read(one: "Unread | ShardEnd") -> "Image.Image | str":
    """A picture, or what is wrong with it."""
    from captioning.sources.images import load_image
    from captioning.sources.origins import READ_ERRORS
    from captioning.writing.pictures import Unread

    if not isinstance(one, Unread):
        return ""
    if one.picture.problem:
        return one.picture.problem
    try:
        return load_image(one.read(), name=one.picture.name)
    except UserError as error:
        return str(error)
    except READ_ERRORS as error:  # of an archive
        return f"{one.picture.name} cannot be read: {error}."


def _gathered(
    runtime: "Runtime", batches: Iterator[list[tuple[Any, Any]]]
) -> Iterator[list[tuple[Any, Any]]]:
    """Batches of all processes together, as long as one of them has any; each process gets them."""
    while True:
        batch = [(getattr(one, "picture", one), found) for one, found in next(batches, [])]
        if not runtime.max_over_processes(len(batch)):
            return
        yield runtime.gather(batch)


def _newest(output_dir: str) -> str:
    from checkpoint import newest_best

    folder = newest_best(Path(output_dir))
    if is_main_process():
        print(f"Captioning with {folder}.", file=sys.stderr)
    return os.fspath(folder)


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
