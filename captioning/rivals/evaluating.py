"""Captions a prepared split with a rival, or takes what another program wrote of it, and scores.

The same pictures, references, tokens and number of beams as for a checkpoint of ours, so that
`comparison` may set them side by side. A file of captions may be in any form that
`metrics.score_files` reads; where each of its rows (JSON Lines, or a JSON list) has `seconds`, that
is the time of its captions.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from captioning.decoding import SearchOptions
from captioning.metrics.score_files import NamedCaptions, read_candidates
from captioning.metrics.score_pairs import pair
from captioning.metrics.scoring import ScoringOptions, references_a_picture, score_split
from captioning.reports.results import Evaluation, captioned_pictures
from captioning.rivals.model import Rival
from captioning.scenes.truth import check_records, right_shares
from captioning.sources.records import PreparedSplit, Record
from captioning.system.errors import UserError
from captioning.system.progress import Progress
from captioning.system.runtime import Runtime
from captioning.tracking.effort import Effort, Measuring
from captioning.tracking.provenance import data_fingerprint, provenance

SECONDS = "seconds"


def evaluate_rival(
    name: str,
    split: PreparedSplit,
    search: SearchOptions,
    scoring: ScoringOptions,
    runtime: Runtime,
    *,
    prompt: str = "",
) -> Evaluation:
    """Score a captioner of the Hub or a folder, or a file of captions, on a split."""
    if Path(name).is_file():
        captions, effort = read_captions(name, split)
        of_model: dict[str, Any] = {"parameters_frozen": 0}
        asked: dict[str, object] = {"decoding": "another program's"}
    else:
        rival = Rival.from_pretrained(name, prompt=prompt, device=runtime.device)
        measuring = Measuring(runtime.device, runtime.gpu_uuids)
        captions = []
        with Progress("captions", len(split.records), is_shown=runtime.is_main) as progress:
            for caption in rival.captions(split.images, search):
                captions.append(caption)
                progress.advance(1)
        effort = measuring.finish(len(captions))
        of_model = {"parameters_frozen": rival.parameters}
        asked = {"decoding": search.description, "weights": rival.precision}
        asked |= {"prompt": rival.prompt} if rival.prompt else {}
    return _evaluation(name, split, captions, effort, of_model, asked, scoring, runtime)


def read_captions(path: str, split: PreparedSplit) -> tuple[list[str], Effort]:
    """Another program's caption of each picture of a split, and the time they took if told.

    Raises `UserError` where a picture has none.
    """
    candidates = read_candidates(path)
    wanted = [NamedCaptions("", name, captions) for name, captions in split.references.items()]
    pairs = pair(candidates, wanted)
    found = dict(zip(pairs.places, pairs.candidates.values(), strict=True))
    captions = [found[place] for place in range(len(wanted))]
    return captions, Effort(captions=len(captions), seconds=_told_seconds(Path(path)))


def _evaluation(
    name: str,
    split: PreparedSplit,
    captions: Sequence[str],
    effort: Effort,
    of_model: Mapping[str, Any],
    asked: Mapping[str, object],
    scoring: ScoringOptions,
    runtime: Runtime,
) -> Evaluation:
    records = split.records
    sheet = score_split(split, captions, scoring, device=str(runtime.device))
    truth, correct = _truth(records, captions)
    record = provenance({}, device=runtime.description, data=data_fingerprint(split.folder.parent))
    return Evaluation(
        title=f"{Path(name).name} on {split.folder.parent.name}",
        subtitle=f"{name}, {record['started'][:10]}; not trained by us",
        pictures=captioned_pictures(records, captions, sheet, correct),
        sheet=sheet,
        protocol={
            "data": split.folder.parent.name,
            "split": split.folder.name,
            "pictures": len(records),
            "references a picture": references_a_picture(split.references.values()),
            **sheet.protocol,
            **asked,
        },
        checkpoint=name,
        model={
            "encoder": name,
            "feature_tokens": 0,
            "feature_width": 0,
            "parameters_trained": 0,
            **of_model,
        },
        truth=truth,
        provenance=record,
        effort=effort,
    )


def _truth(
    records: Sequence[Record], captions: Sequence[str]
) -> tuple[dict[str, float | None], list[bool | None]]:
    """On drawn scenes, whose truth is known: shares of what is right, and which captions are."""
    checked = check_records(records, captions)
    if checked is None:
        return {}, [None] * len(records)
    scenes, checks = checked
    return dict(right_shares(scenes, checks)), [check.objects_and_colours for check in checks]


def _told_seconds(path: Path) -> float | None:
    """The sum of the times of all rows; None where not every row has one."""
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        rows = json.loads(text)
    except ValueError:
        try:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError:
            return None
    if not isinstance(rows, list) or not rows:
        return None
    times = [row.get(SECONDS) if isinstance(row, dict) else None for row in rows]
    numbers = [one for one in times if isinstance(one, int | float) and one > 0]
    if not numbers:
        return None
    if len(numbers) < len(times):
        raise UserError(
            f"{path}: {len(times) - len(numbers):,} of {len(times):,} rows have no {SECONDS} above "
            "0; give the time of every caption, or of none."
        )
    return float(sum(numbers))
