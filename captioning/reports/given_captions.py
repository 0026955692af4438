"""Captions that are given, by whomever written, scored against references from a file.

    evaluation = evaluate_files("mine.json", "theirs.json", ScoringOptions())
    print_evaluation(evaluation)

Opens no model, but a CLIP where that is to judge them beside their pictures.
"""

from pathlib import Path

from captioning.metrics.score_files import read_candidates, read_references
from captioning.metrics.score_pairs import find_pictures, pair
from captioning.metrics.scoring import ScoringOptions, references_a_picture, score_everything
from captioning.reports.results import Evaluation
from captioning.sources.records import CaptionedPicture


def evaluate_files(
    candidates: str,
    references: str,
    scoring: ScoringOptions,
    *,
    is_partial: bool = False,
    image_dir: str = "",
    device: str = "cpu",
) -> Evaluation:
    """Score one file against another; raises `UserError` where they do not fit together.

    `is_partial` allows references of more pictures; `image_dir` holds the pictures, if they are to
    be shown or judged.
    """
    pairs = pair(read_candidates(candidates), read_references(references), is_partial=is_partial)
    images = find_pictures(image_dir, pairs.names) if image_dir else None
    sheet = score_everything(
        pairs.candidates, pairs.references, scoring, images=images, device=device
    )
    return Evaluation(
        title=Path(candidates).name,
        subtitle=f"against {references}",
        pictures=tuple(
            CaptionedPicture(
                image=images[number] if images else Path(),
                caption=caption,
                references=pairs.references[name],
                scores=sheet.of(number),
            )
            for number, (name, caption) in enumerate(pairs.candidates.items())
        ),
        sheet=sheet,
        protocol={
            "candidates": candidates,
            "references": references,
            **pairs.protocol,
            "pictures": len(pairs.candidates),
            "references a picture": references_a_picture(pairs.references.values()),
            **sheet.protocol,
        },
        warnings=(pairs.warning,) if pairs.warning else (),
    )
