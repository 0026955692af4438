"""`caption-scores`: the command that `pip install` brings; scores of captions from two files.

    caption-scores --candidates mine.json --references theirs.json
    caption-scores --candidates mine.json --references theirs.json --json > scores.json
    caption-scores --references captions_val2014.json --make-document-frequencies coco-val.npz

From a clone: `python -m captioning.reports.caption_scores`. Opens no model, and imports torch only
where a CLIP is to judge.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal, NoReturn

from captioning.system.errors import EXIT_DONE, UserError, run_command
from captioning.system.options import parse_options
from captioning.system.rules import at_least


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """What to score, and how."""

    candidates: str = ""
    """A model's captions: {"id": "caption"}, COCO results, JSON Lines, CSV or a folder of .txt."""
    references: str = ""
    """What people wrote: {"id": ["...", ...]}, COCO annotations, Karpathy JSON, JSON Lines, CSV."""
    partial: bool = False
    """Score the candidates that there are, though the references are of more pictures."""
    tokenizer: Literal["auto", "ptb", "script", "spaces"] = "auto"
    """Tokens: ptb (coco-caption's), script (characters where words have no spaces between them),
    spaces (captions were segmented); auto fits the references."""
    document_frequencies: str = ""
    """File by which CIDEr weighs words ("" = the references)."""
    make_document_frequencies: str = ""
    """Count the references' document frequencies into this file; takes no candidates."""
    objects: str = ""
    """List of words of objects; mentions that no reference has are counted (CHAIR)."""
    image_dir: str = ""
    """Folder of the pictures, for clip-model and for the report."""
    clip_model: str = ""
    """CLIP of the Hub or a folder, for CLIPScore, RefCLIPScore and R@1, 5, 10."""
    device: str = "cpu"
    """Where the CLIP runs: cpu, cuda, mps."""
    java: bool = True
    """Compute METEOR and SPICE where Java and their files are there."""
    seed: Annotated[int, at_least(0)] = 0
    """Seed of the bootstrap."""
    output: str = ""
    """Folder for metrics.json, captions.jsonl, captions.json and report.html ("" = none)."""
    json: bool = False
    """Print metrics.json instead of the table."""


def main(argv: Sequence[str] | None = None) -> int:
    """Score two files, or count document frequencies."""
    options = parse_options(
        ScoreOptions,
        sys.argv[1:] if argv is None else argv,
        description="Score captions as coco-caption does, without Java.",
    )
    if options.make_document_frequencies:
        return make_document_frequencies(options)
    missing = [name for name in ("candidates", "references") if not getattr(options, name)]
    if missing:
        raise UserError(*(f"--{name} FILE is missing." for name in missing))
    from captioning.metrics.scoring import ScoringOptions
    from captioning.reports.given_captions import evaluate_files
    from captioning.reports.results import print_evaluation, write_evaluation

    names = (field.name for field in fields(ScoringOptions))
    evaluation = evaluate_files(
        options.candidates,
        options.references,
        ScoringOptions(**{name: getattr(options, name) for name in names}),
        is_partial=options.partial,
        image_dir=options.image_dir,
        device=options.device,
    )
    if options.json:
        print(json.dumps(evaluation.to_json(), indent=2, ensure_ascii=False))
    else:
        print_evaluation(evaluation)
    if options.output:
        write_evaluation(evaluation, Path(options.output))
    return EXIT_DONE


def make_document_frequencies(options: ScoreOptions) -> int:
    """Count document frequencies of references into a file."""
    from captioning.metrics.frequency_files import count_frequencies, save_frequencies
    from captioning.metrics.score_files import read_references

    if options.candidates or not options.references:
        raise UserError(
            "--make-document-frequencies counts --references alone; name them, and leave out "
            "--candidates."
        )
    references = {one.name: one.captions for one in read_references(options.references)}
    frequencies = count_frequencies(references, options.tokenizer)
    save_frequencies(options.make_document_frequencies, frequencies)
    grams = sum(map(len, frequencies.keys))
    print(
        f"{options.make_document_frequencies}: {grams:,} n-grams of {len(references):,} pictures, "
        f"tokens {frequencies.tokenizer}"
    )
    return EXIT_DONE


def entry() -> NoReturn:
    """What the installed command calls."""
    run_command(main, prints_results=True)


if __name__ == "__main__":
    entry()
