"""Time of tokenizing and scoring captions, beside pycocoevalcap's in the same run.

Reads the captions of a JSON file, `{"id": ["...", ...]}` (gzip or not); writes nothing but the
JSON file asked for. The captions scored are those of the pictures' neighbours.

    python benchmarks/metrics.py --references captions.json.gz --json benchmark.json

Both sides are timed cold: nothing compiled or remembered here, Java's start-up included there.
pycocoevalcap and Java come with `pip install -e .[java]`; without them only our time is printed.
"""

import contextlib
import gzip
import importlib.util
import io
import json
import re
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from captioning.metrics import ptb_rules, ptb_tokenizer, score_captions, tokenize_captions
from captioning.metrics.cider import CiderD, DocumentFrequencies
from captioning.system.errors import UserError, run_command
from captioning.system.options import parse_options

HYPOTHESES_A_CALL = 320
"""5 sampled captions of each of 64 pictures, as in a step of reward-based training."""

Captions = dict[str, str]
References = dict[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    references: str
    """JSON file with the captions of each picture, {"id": ["...", ...]}, gzip or not."""
    pictures: int = 1000
    """How many of its pictures to score."""
    repeats: int = 5
    """How often to measure each side; medians are reported."""
    json: str = ""
    """File for the numbers as JSON."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, write the JSON file."""
    options = parse_options(Options, sys.argv[1:] if argv is None else argv, description=__doc__)
    references = read_captions(options.references, options.pictures)
    pictures = list(references)
    neighbours = [*pictures[1:], pictures[0]]
    candidates = {
        picture: references[neighbour][0]
        for picture, neighbour in zip(pictures, neighbours, strict=True)
    }
    ours = median_seconds(lambda: score_cold(candidates, references), options.repeats)
    result: dict[str, Any] = {
        "pictures": len(references),
        "references": sum(map(len, references.values())),
        "repeats": options.repeats,
        "seconds": ours,
        "pycocoevalcap_seconds": None,
        "ratio_to_pycocoevalcap": None,
        "cider_d_hypotheses_per_second": cider_d_rate(candidates, references, options.repeats),
    }
    if shutil.which("java") and importlib.util.find_spec("pycocoevalcap"):
        theirs = median_seconds(
            lambda: score_with_pycocoevalcap(candidates, references), options.repeats
        )
        result |= {"pycocoevalcap_seconds": theirs, "ratio_to_pycocoevalcap": ours / theirs}
    for name, value in result.items():
        print(f"{name:32}{'not measured' if value is None else f'{value:12,.4g}'}")
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def read_captions(path: str, pictures: int) -> References:
    """The captions of the first pictures of a file."""
    try:
        content = Path(path).read_bytes()
        text = gzip.decompress(content) if path.endswith(".gz") else content
        references = dict(list(json.loads(text).items())[:pictures])
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f'{path} must hold JSON, {{"id": ["...", ...]}}: {error}.') from None
    if len(references) < 2:
        raise UserError(f"{path} gives {len(references)} pictures; at least 2 are needed.")
    return references


def median_seconds(run: Callable[[], object], repeats: int) -> float:
    """The median wall-clock time of some runs."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def score_cold(candidates: Captions, references: References) -> None:
    """Score with nothing left of earlier runs."""
    ptb_tokenizer._tokens_of_piece.cache_clear()
    ptb_rules.compiled_rules.cache_clear()
    re.purge()
    score_captions(candidates, references)


def score_with_pycocoevalcap(candidates: Captions, references: References) -> None:
    """The same three metrics by pycocoevalcap, silently."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    with contextlib.redirect_stdout(io.StringIO()):
        others = PTBTokenizer().tokenize(
            {key: [{"caption": text} for text in texts] for key, texts in references.items()}
        )
        captions = PTBTokenizer().tokenize(
            {key: [{"caption": caption}] for key, caption in candidates.items()}
        )
        for scorer in (Bleu(4), Rouge(), Cider()):
            scorer.compute_score(others, captions)


def cider_d_rate(candidates: Captions, references: References, repeats: int) -> float:
    """Tokenized captions that CIDEr-D scores in a second, in calls of one training step's size."""
    others = [tokenize_captions(texts) for texts in references.values()]
    captions = tokenize_captions(list(candidates.values()))
    cider = CiderD(DocumentFrequencies.of(others))
    rows = [row % len(captions) for row in range(HYPOTHESES_A_CALL)]
    hypotheses, of_each = [captions[row] for row in rows], [others[row] for row in rows]
    seconds = median_seconds(lambda: cider.score(hypotheses, of_each), 4 * repeats)
    return HYPOTHESES_A_CALL / seconds


if __name__ == "__main__":
    run_command(main)
