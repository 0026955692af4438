"""Caption pictures with a trained model.

    python generate.py --image photo.jpg                 # the caption, alone on standard output
    python generate.py --image holiday/ 'more/*.png'     # path<TAB>caption, a line a picture
    python generate.py --image photo.jpg --method sample --num-captions 5 --json
    python generate.py --image photo.jpg --attention words.png
    python generate.py --image photo.jpg --checkpoint user/repo

Takes files, folders, globs and URLs. Everything but captions goes to standard error. A picture that
cannot be read is reported, the others are captioned, and the exit code is 1. Several captions of a
picture are several lines, best first.
"""

import io
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioning.system.errors import (
    EXIT_DONE,
    EXIT_PARTLY_DONE,
    EXIT_USER_ERROR,
    UserError,
    run_command,
)
from captioning.system.options import parse_options
from captioning.system.processes import ending_together, is_main_process
from captioning.system.progress import Progress
from generate_options import GenerateOptions, check_options, search_options, token_rules

if TYPE_CHECKING:
    from PIL import Image

    from captioner import Caption, Captioner
    from captioning.sources.image_inputs import ImageInput

USUAL_BEAM_SIZE = 3
"""Stands for that of a model as long as none is loaded."""


def main(argv: Sequence[str] | None = None) -> int:
    """Load a model, caption, print."""
    options = parse_options(
        GenerateOptions,
        sys.argv[1:] if argv is None else argv,
        description="Caption pictures with a trained model.",
    )
    check_options(options)
    clock = Clock()
    inputs = _inputs(options)
    search_options(options, USUAL_BEAM_SIZE)  # finds what does not fit before a model is loaded
    from captioner import Captioner

    clock.lap("imports")
    with ending_together():
        captioner = Captioner.from_pretrained(
            options.checkpoint or _newest(options.output_dir),
            revision=options.revision,
            device=options.device,
            precision=options.precision,
            trust_remote_code=options.trust_remote_code,
        )
        clock.lap("loading the model")
        broken = caption_all(captioner, inputs, options)
        clock.lap("captions")
        if options.timing and is_main_process():
            print(clock, file=sys.stderr)
        if broken and len(inputs) > 1 and is_main_process():
            print(f"{broken} of {len(inputs)} pictures could not be captioned.", file=sys.stderr)
    if broken == len(inputs):
        return EXIT_USER_ERROR
    return EXIT_PARTLY_DONE if broken else EXIT_DONE


def caption_all(
    captioner: "Captioner", inputs: Sequence["ImageInput"], options: GenerateOptions
) -> int:
    """Caption and print pictures batch by batch; returns how many could not be read."""
    from captioning.sources.images import load_image
    from pipeline import each_shared_batch

    runtime = captioner.pipeline.runtime
    search = search_options(options, captioner.config.BEAM_SIZE)
    rules = token_rules(options, captioner)

    def caption(numbers: Sequence[int]) -> list["Sequence[Caption] | str"]:
        """The captions of each picture, or what is wrong with it."""
        images, problems = _read(inputs, numbers)
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
    is_drawn = not options.attention
    is_shown = runtime.is_main and len(inputs) > 1
    with Progress("captions", len(inputs), is_shown=is_shown, has_lines=False) as bar:
        for results in each_shared_batch(
            runtime, len(inputs), caption, batch_size=options.batch_size
        ):
            good = {n: one for n, one in enumerate(results, done) if not isinstance(one, str)}
            if runtime.is_main:
                with bar.aside():
                    _print_results(inputs, done, results, options)
                    if good and not is_drawn:
                        number, captions = next(iter(good.items()))
                        image = load_image(inputs[number].read(), name=inputs[number].name)
                        _write_strip(captioner, image, captions[0], options)
                        is_drawn = True
            done += len(results)
            broken += len(results) - len(good)
            bar.advance(len(results))
    return broken


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


def _inputs(options: GenerateOptions) -> list["ImageInput"]:
    """The pictures to caption; `UserError` where none of them exists."""
    from captioning.sources.image_inputs import expand

    inputs = expand(options.image)
    inputs = inputs[: options.limit] if options.limit else inputs
    if all(one.is_missing for one in inputs):
        raise UserError(*(f"{one.name} is missing; check the path." for one in inputs))
    return inputs


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
    inputs: Sequence["ImageInput"],
    first: int,
    results: Sequence["Sequence[Caption] | str"],
    options: GenerateOptions,
) -> None:
    """Print what was found of the pictures from number `first` on."""
    for problem in results:
        if isinstance(problem, str):
            print(f"error: {problem}", file=sys.stderr)
    for one, captions in zip(inputs[first:], results, strict=False):
        if not isinstance(captions, str):
            name = one.name if len(inputs) > 1 or options.json else ""
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
        yield json.dumps({"image": name, "captions": shown}, ensure_ascii=False)
        return
    for caption in captions:
        text = " ".join(caption.text.split())
        yield f"{name}\t{text}" if name else text


def _keep_any_file_name() -> None:
    """Let standard output pass on names of files that are not UTF-8, as they are."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")


def _write_strip(
    captioner: "Captioner", image: "Image.Image", caption: "Caption", options: GenerateOptions
) -> None:
    from attention import lacks_letters, load_font, write_strip

    words = captioner.attention(image, caption, rollout=options.rollout)
    write_strip(image, words, options.attention, font_file=options.font)
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
    run_command(main)
