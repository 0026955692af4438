"""Caption pictures with a trained model.

    python generate.py --image photo.jpg                 # the caption, alone on standard output
    python generate.py --image holiday/ 'more/*.png'     # path<TAB>caption, a line a picture
    python generate.py --image photo.jpg --method sample --num-captions 5 --json
    python generate.py --image photo.jpg --attention words.png
    python generate.py --image photo.jpg --checkpoint user/repo

Takes files, folders, globs and URLs. Everything but captions goes to standard error. A picture that
cannot be read is reported, the others are captioned, and the exit code is 1.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from errors import EXIT_DONE, EXIT_PARTLY_DONE, EXIT_USER_ERROR, UserError, run_command
from options import parse_options

if TYPE_CHECKING:
    from PIL import Image

    from captioner import Caption, Captioner
    from decoding import SearchOptions, TokenRules


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """What to caption, and how."""

    image: tuple[str, ...]
    """Pictures: files, folders, globs, URLs; several at once."""
    checkpoint: str = ""
    """Checkpoint folder or Hub repository ("" = the newest `best` under output-dir)."""
    revision: str = ""
    """Branch, tag or commit of the Hub repository."""
    output_dir: str = "checkpoints"
    """Where to look for the newest `best`."""
    method: Literal["greedy", "beam", "sample", "diverse"] = "beam"
    """How to search."""
    beam_size: int = 0
    """Beams (0 = as in training)."""
    num_captions: int = 1
    """Captions of each picture."""
    length_penalty: float = 1.0
    """Above 1 favours longer captions, below 1 shorter ones."""
    groups: int = 0
    """Groups of a diverse beam search (0 = as many as beams)."""
    diversity_penalty: float = 0.5
    """How strongly groups of a diverse beam search avoid each other's words."""
    temperature: float = 1.0
    """Sampling: below 1 plainer, above 1 wilder."""
    top_k: int = 0
    """Sampling: from the k most probable tokens (0 = off)."""
    top_p: float = 1.0
    """Sampling: from the most probable tokens that sum to p (1 = off)."""
    min_p: float = 0.0
    """Sampling: from tokens at least this many times as probable as the best (0 = off)."""
    seed: int = 0
    """Sampling: the same seed gives the same captions."""
    min_length: int = 0
    """Tokens of a caption at least."""
    max_length: int = 0
    """Tokens of a caption at most (0 = as in training)."""
    no_repeat_ngram: int = 0
    """No sequence of this many tokens comes twice (0 = off)."""
    repetition_penalty: float = 1.0
    """Above 1 disfavours tokens that were used already."""
    forbid: tuple[str, ...] = ()
    """Words that captions never contain."""
    force: tuple[str, ...] = ()
    """Words that captions must contain."""
    attention: str = ""
    """PNG to draw: the (first) picture, and what each word of its caption looked at."""
    json: bool = False
    """Print a JSON line a picture."""
    limit: int = 0
    """Caption the first so many pictures only (0 = all)."""
    batch_size: int = 32
    """Pictures computed together; halved where memory does not suffice."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the model."""
    trust_remote_code: bool = False
    """Run code that the encoder's repository brings along. Only for repositories you trust."""
    timing: bool = False
    """Say on standard error where the time went."""


def main(argv: Sequence[str] | None = None) -> int:
    """Load a model, caption, print."""
    options = parse_options(
        GenerateOptions,
        sys.argv[1:] if argv is None else argv,
        description="Caption pictures with a trained model.",
    )
    _check(options)
    from image_inputs import expand

    inputs = expand(options.image)
    inputs = inputs[: options.limit] if options.limit else inputs
    clock = Clock()
    from captioner import Captioner

    clock.lap("imports")
    captioner = Captioner.from_pretrained(
        options.checkpoint or _newest(options.output_dir),
        revision=options.revision,
        device=options.device,
        precision=options.precision,
        trust_remote_code=options.trust_remote_code,
    )
    clock.lap("loading the model")
    printer = Printer(as_json=options.json, with_names=len(inputs) > 1)
    broken = 0
    for number, (batch, problems) in enumerate(_read_in_batches(inputs, options.batch_size)):
        for problem in problems:
            print(f"error: {problem}", file=sys.stderr)
        broken += len(problems)
        if batch:
            names, images = [name for name, _ in batch], [image for _, image in batch]
            found = captioner.captions(
                images,
                search_options(options, captioner),
                rules=token_rules(options, captioner),
                first_number=number * options.batch_size,
                batch_size=options.batch_size,
            )
            printer.print(names, found)
            if options.attention and not printer.drawn:
                _draw(captioner, images[0], found[0][0], options.attention)
                printer.drawn = True
    clock.lap("captions")
    if options.timing:
        print(clock, file=sys.stderr)
    if broken:
        print(f"{broken} of {len(inputs)} pictures could not be captioned.", file=sys.stderr)
    if broken == len(inputs):
        return EXIT_USER_ERROR
    return EXIT_PARTLY_DONE if broken else EXIT_DONE


def search_options(options: GenerateOptions, captioner: "Captioner") -> "SearchOptions":
    """How to search, with what the checkpoint was trained with where the options are silent."""
    from decoding import SearchOptions, Warp

    wide_enough = max(captioner.config.BEAM_SIZE, options.num_captions)
    beam_size = options.beam_size or wide_enough
    return SearchOptions(
        method=options.method,
        num_captions=options.num_captions,
        beam_size=beam_size,
        length_penalty=options.length_penalty,
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
    """What captions may hold. A word is meant with and without a space before it."""
    from dataclasses import replace

    tokenizer = captioner.pipeline.tokenizer
    usual = captioner.pipeline.rules()

    def ids(word: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(word)[1:-1])

    return replace(
        usual,
        max_length=min(options.max_length or usual.max_length, usual.max_length),
        min_length=options.min_length,
        no_repeat_ngram=options.no_repeat_ngram,
        repetition_penalty=options.repetition_penalty,
        forbidden_words=tuple(ids(start + word) for word in options.forbid for start in ("", " ")),
        forced_words=tuple(ids(f" {word}") for word in options.force),
    )


class Printer:
    """Prints captions in the form that was asked for."""

    def __init__(self, *, as_json: bool, with_names: bool) -> None:
        self._as_json, self._with_names = as_json, with_names
        self.drawn = False

    def print(self, names: Sequence[str], found: Sequence[Sequence["Caption"]]) -> None:
        """One line a picture as JSON, else one line a caption."""
        for name, captions in zip(names, found, strict=True):
            if self._as_json:
                print(json.dumps(_as_json(name, captions), ensure_ascii=False))
                continue
            for caption in captions:
                text = " ".join(caption.text.split())
                print(f"{name}\t{text}" if self._with_names else text)
        sys.stdout.flush()


class Clock:
    """Where the time goes, from the start of the process."""

    def __init__(self) -> None:
        self._laps = [("start", time.perf_counter())]

    def lap(self, name: str) -> None:
        """A part is done."""
        self._laps.append((name, time.perf_counter()))

    def __str__(self) -> str:
        spans = zip(self._laps, self._laps[1:], strict=False)
        return ", ".join(f"{name} {end - start:.2f} s" for (_, start), (name, end) in spans)


def _check(options: GenerateOptions) -> None:
    problems = [
        f"--{name.replace('_', '-')} is {value}; it must be at least {least}."
        for name, least in (
            ("num_captions", 1),
            ("batch_size", 1),
            ("beam_size", 0),
            ("groups", 0),
            ("limit", 0),
            ("max_length", 0),
        )
        if (value := getattr(options, name)) < least
    ]
    if options.attention and Path(options.attention).suffix.lower() != ".png":
        problems.append(f"--attention is {options.attention!r}; it must name a .png file.")
    if problems:
        raise UserError(*problems)


def _newest(output_dir: str) -> str:
    from checkpoint import newest_best

    folder = newest_best(Path(output_dir))
    print(f"Captioning with {folder}.", file=sys.stderr)
    return os.fspath(folder)


def _read_in_batches(
    inputs: Sequence[Any], batch_size: int
) -> Iterator[tuple[list[tuple[str, "Image.Image"]], list[str]]]:
    """Pictures that could be read, and what was wrong with the others, batch by batch."""
    from tqdm import tqdm

    from images import load_image

    bar = tqdm(total=len(inputs), unit="picture", disable=None if len(inputs) > 1 else True)
    with bar:
        for start in range(0, len(inputs), batch_size):
            batch, problems = [], []
            for one in inputs[start : start + batch_size]:
                try:
                    batch.append((one.name, load_image(one.read(), name=one.name)))
                except UserError as error:
                    problems.append(str(error))
            yield batch, problems
            bar.update(len(batch) + len(problems))


def _draw(captioner: "Captioner", image: "Image.Image", caption: "Caption", path: str) -> None:
    from attention import draw_strip

    draw_strip(image, captioner.attention(image, caption), path)
    print(f"What each word looked at: {path}", file=sys.stderr)


def _as_json(name: str, captions: Sequence["Caption"]) -> dict[str, Any]:
    return {
        "image": name,
        "captions": [
            {
                "text": caption.text,
                "log_probability": caption.log_probability,
                "confidence": caption.confidence,
            }
            for caption in captions
        ],
    }


def __getattr__(name: str) -> Any:
    """`from generate import Captioner, Caption`, without torch in every start of the command."""
    if name in ("Captioner", "Caption"):
        import captioner

        return getattr(captioner, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if __name__ == "__main__":
    run_command(main)
