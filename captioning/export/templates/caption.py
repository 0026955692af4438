"""Caption pictures with the model that lies in this folder.

    pip install onnxruntime tokenizers numpy pillow

    python caption.py photo.jpg                  # the caption, alone
    python caption.py *.jpg --beam-size 1        # path<TAB>caption, a line a picture; greedy search
    python caption.py photo.jpg --num-captions 3 --json

In Python, from this folder or with it on the path:

    from caption import Captioner

    captioner = Captioner("folder/of/the/export")
    best, *others = captioner("photo.jpg", num_captions=3)
    print(best.text, best.confidence)

`captioner.json` says what is done to a picture and how captions are searched. A picture that cannot
be read is reported, the others are captioned, and the exit code is 1.
"""

import argparse
import json
import math
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tokenizers import Tokenizer

Array = NDArray[Any]
Picture = str | os.PathLike[str] | Image.Image
LONGEST_TO_SHORTEST = 100
"""A picture longer than this many times its shorter side is cut to its middle."""
DEPTHS = (255.0, 1_023.0, 4_095.0, 16_383.0, 65_535.0)
"""White of 8 to 16 bits a grey."""
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
BIDI = re.compile(r"[\u202a-\u202e\u2066-\u2069]+")


@dataclass(frozen=True)
class Caption:
    """What the model says of a picture, and how sure it is."""

    text: str
    log_probability: float
    """Sum of the log-probabilities of its tokens, the end counted."""
    confidence: float
    """Geometric mean of the probabilities of its tokens, 0 to 1."""


@dataclass
class Row:
    """A caption that is being written: its tokens, and the log-probability of each."""

    tokens: tuple[int, ...] = ()
    log_probabilities: tuple[float, ...] = ()
    score: float = 0.0
    """Their sum; of a finished one, over its length to the power of the length penalty."""


class Captioner:
    """The model of an exported folder."""

    def __init__(self, folder: str | os.PathLike[str] = "", *, threads: int = 0) -> None:
        """Read the folder (that of this file by default); 0 threads are as many as cores."""
        place = Path(folder or Path(__file__).parent)
        self.settings = json.loads((place / "captioner.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.from_file(str(place / "tokenizer.json"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.encoder, self.decoder = (
            onnxruntime.InferenceSession(
                place / f"{name}.onnx", options, providers=["CPUExecutionProvider"]
            )
            for name in ("encoder", "decoder")
        )

    def __call__(
        self, picture: Picture, *, beam_size: int = 0, num_captions: int = 1
    ) -> list[Caption]:
        """The best captions of a picture, best first; 0 beams are those of training."""
        search = self.settings["search"]
        beams = max(beam_size or search["beam_size"], num_captions)
        state = State(self, pixels_of(load(picture), self.settings["preprocessing"]))
        if beams == 1:
            rows = greedy(state, search)
        else:
            rows = beam_search(state, search, beams, num_captions)
        return [self.caption(row) for row in rows[:num_captions]]

    def caption(self, row: Row) -> Caption:
        """The text of a finished row, and how sure the model is of it."""
        special = self.settings["search"]["special_ids"]
        text = self.tokenizer.decode([one for one in row.tokens if one not in special])
        total = math.fsum(row.log_probabilities)
        return Caption(
            CONTROL.sub(" ", BIDI.sub("", text)).strip(),
            total,
            math.exp(total / len(row.log_probabilities)),
        )


class State:
    """The decoder on one picture: reads a token of each row, remembers those before."""

    def __init__(self, captioner: Captioner, pixels: Array) -> None:
        self.decoder = captioner.decoder
        outputs = [one.name for one in captioner.encoder.get_outputs()]
        memory = captioner.encoder.run(None, {"pixels": pixels[None]})
        self.memory = dict(zip(outputs, memory, strict=True))
        self.past = {
            one.name: np.zeros((1, one.shape[1], 0, one.shape[3]), np.float32)
            for one in self.decoder.get_inputs()
            if one.name.startswith("past.")
        }

    def step(self, tokens: Array, rows: Array) -> Array:
        """(W, vocabulary) log-probabilities of what follows the newest tokens (W) of rows that go
        on from the old `rows` (W)."""
        feeds = {"tokens": tokens[None], "rows": rows[None], **self.memory, **self.past}
        log_probabilities, *cache = self.decoder.run(None, feeds)
        self.past = dict(zip(self.past, cache, strict=True))
        newest: Array = log_probabilities[0]
        return newest


def greedy(state: State, search: dict[str, Any]) -> list[Row]:
    """The likeliest token each time, until the end."""
    row, token = Row(), search["start_id"]
    for _ in range(search["max_length"]):
        (scores,) = allowed(state.step(np.array([token]), np.array([0])), [row], search)
        token = int(scores.argmax())
        row = Row((*row.tokens, token), (*row.log_probabilities, float(scores[token])))
        if token == search["end_id"]:
            break
    return [row]


def beam_search(state: State, search: dict[str, Any], width: int, wanted: int) -> list[Row]:
    """The likeliest captions for their length, of which `wanted` count.

    A step weighs the 2 * width likeliest continuations of the open rows. Those of the first
    `width` that end are finished, the likeliest `width` that do not end go on, until the best of
    them, for its length, is no better than the worst of `width` finished ones. (`early_stop` of
    the settings may say otherwise: until there are so many, or until none can come among the
    wanted ones any more.)
    """
    end, penalty, longest = search["end_id"], search["length_penalty"], search["max_length"]
    rows, parents, finished = [Row()], [0], []
    newest = [search["start_id"]]
    for length in range(1, longest + 1):
        log_probabilities = state.step(np.array(newest), np.array(parents))
        allowed(log_probabilities, rows, search)
        before = np.array([row.score for row in rows], np.float32)
        totals = (log_probabilities + before[:, None]).flatten()
        drafts = []
        for place in best_places(totals, min(2 * width, totals.size)):
            parent, token = divmod(int(place), log_probabilities.shape[1])
            row = rows[parent]
            sure = (*row.log_probabilities, float(log_probabilities[parent, token]))
            drafts.append((parent, Row((*row.tokens, token), sure, totals.item(place))))
        by_length = np.float32(length**penalty)
        for _, row in drafts[:width]:
            if row.tokens[-1] == end or length == longest:
                score = np.float32(row.score) / by_length
                finished.append(Row(row.tokens, row.log_probabilities, score.item()))
        finished = sorted(finished, key=lambda row: -row.score)[:width]
        going_on = [(parent, row) for parent, row in drafts if row.tokens[-1] != end][:width]
        parents, rows = [parent for parent, _ in going_on], [row for _, row in going_on]
        newest = [row.tokens[-1] for row in rows]
        if not rows or is_done(rows, finished, length, width, wanted, search):
            break
    return [row for row in finished if row.score > -np.inf]


def is_done(
    rows: list[Row],
    finished: list[Row],
    length: int,
    width: int,
    wanted: int,
    search: dict[str, Any],
) -> bool:
    """Whether no open row of so many tokens may still beat a finished one that counts."""
    way, penalty = search["early_stop"], search["length_penalty"]
    counting = wanted if way == "exact" else width
    if len(finished) < counting:
        return False
    if way == "exact" and penalty > 0:  # sums only fall; the greatest length flatters them most
        length = search["max_length"]
    best_open = np.float32(max(row.score for row in rows)) / np.float32(length**penalty)
    return bool(way == "first" or best_open <= finished[counting - 1].score)


def allowed(scores: Array, rows: list[Row], search: dict[str, Any]) -> Array:
    """Scores (W, vocabulary) of what follows the rows, -inf where it must not; in place."""
    scores[:, search["forbidden_ids"]] = -np.inf
    size = search["no_repeat_ngram"]
    for number, row in enumerate(rows):
        end = scores[number, search["end_id"]]
        for start in range(len(row.tokens) - size + 1 if size else 0):
            *before, token = row.tokens[start : start + size]
            if tuple(before) == row.tokens[len(row.tokens) - size + 1 :]:
                scores[number, token] = -np.inf
        scores[number, search["end_id"]] = -np.inf
        if len(row.tokens) >= search["min_length"] or np.isneginf(scores[number]).all():
            scores[number, search["end_id"]] = end
    return scores


def best_places(values: Array, count: int) -> Array:
    """Where the `count` largest values stand, the largest first."""
    places = np.sort(np.argpartition(-values, count - 1)[:count])
    order: Array = places[np.argsort(-values[places], kind="stable")]
    return order


def load(picture: Picture) -> Image.Image:
    """The picture as RGB: upright by its EXIF orientation, transparency laid on white, greys of 16
    and 32 bits scaled to 8."""
    if not isinstance(picture, Image.Image):
        with Image.open(picture) as opened:
            return load(opened)
    picture.load()
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F" or picture.mode.startswith("I"):
        greys = np.nan_to_num(np.asarray(picture).astype(np.float64))
        whites = (1.0, *DEPTHS) if picture.mode == "F" else (*DEPTHS, 2.0**31 - 1)
        white = next((level for level in whites if greys.max() <= level), greys.max())
        picture = Image.fromarray(np.clip(greys / white * 255 + 0.5, 0, 255).astype(np.uint8))
    elif picture.has_transparency_data:
        opaque = Image.new("RGBA", picture.size, "white")
        opaque.alpha_composite(picture.convert("RGBA"))
        picture = opaque
    return picture.convert("RGB")


def pixels_of(picture: Image.Image, how: dict[str, Any]) -> Array:
    """The uint8 pixels (3, height, width) of an RGB picture: resized, then cut to the middle, or
    laid on black where it is smaller."""
    width, height = picture.size
    most = min(width, height) * LONGEST_TO_SHORTEST
    picture = middle(picture, min(width, most), min(height, most))
    if how["shortest_edge"]:
        edge, (width, height) = how["shortest_edge"], picture.size
        long = int(edge * max(width, height) / min(width, height))
        size = (edge, long) if width <= height else (long, edge)
    else:
        size = (how["resized_width"], how["resized_height"])
    picture = picture.resize(size, Image.Resampling[how["resample"].upper()])
    picture = middle(picture, how["width"], how["height"])
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def middle(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The middle of a picture, with black around it where it is smaller."""
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def main() -> int:
    """Caption the pictures that the command line names."""
    parser = argparse.ArgumentParser(description="Caption pictures with the model of this folder.")
    parser.add_argument("pictures", nargs="+", help="picture files")
    parser.add_argument("--beam-size", type=int, default=0, help="beams; 1 is greedy search")
    parser.add_argument("--num-captions", type=int, default=1, help="captions of each picture")
    parser.add_argument("--json", action="store_true", help="a JSON line a picture")
    options = parser.parse_args()
    if options.beam_size < 0 or options.num_captions < 1:
        parser.error("--beam-size must be at least 0 and --num-captions at least 1")
    captioner, failed = Captioner(), 0
    for name in options.pictures:
        try:
            picture = load(name)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            print(f"error: {name} cannot be read: {error}", file=sys.stderr)
            failed = 1
            continue
        captions = captioner(
            picture, beam_size=options.beam_size, num_captions=options.num_captions
        )
        if options.json:
            print(json.dumps({"image": name, "captions": [vars(one) for one in captions]}))
            continue
        start = f"{name}\t" if len(options.pictures) > 1 else ""
        for one in captions:
            print(start + " ".join(one.text.split()))
    return failed


if __name__ == "__main__":
    sys.exit(main())
