"""A comparison as Markdown and as JSON: for papers and slides, and for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from captioning.comparison.comparing import COMPARED, RANKED_BY, Comparison, Estimate, ModelResult
from captioning.comparison.findings import (
    caveats,
    duration_text,
    findings,
    number_text,
    p_text,
    percent,
)
from captioning.metrics.intervals import Interval
from captioning.system.markdown import as_plain_text
from captioning.tracking.console import count_text

FORMAT_VERSION = 1
EFFORT = ("captions/s", "peak memory", "energy a caption")


def markdown(comparison: Comparison, *, title: str, subtitle: str = "") -> str:
    """Findings, the table of models, the table of differences."""
    comparison = _in_plain_names(comparison)
    lines = [
        f"# {as_plain_text(title)}",
        "",
        *([as_plain_text(subtitle), ""] if subtitle else []),
        " ".join(findings(comparison)),
    ]
    if notes := caveats(comparison):
        lines += ["", "What it cannot show:", "", *(f"* {note}" for note in notes)]
    lines += ["", *_table(*models_table(comparison))]
    lines += [
        "",
        "Intervals are 95 %: over seeds Student's t, over pictures bootstrap. "
        f"{protocol_text(comparison)}",
    ]
    if comparison.differences:
        lines += ["", *_table(*differences_table(comparison)), "", chance_text(comparison)]
    return "\n".join(lines) + "\n"


def _in_plain_names(comparison: Comparison) -> Comparison:
    """The same comparison with names that mean nothing in Markdown."""
    return replace(
        comparison,
        models=tuple(replace(one, name=as_plain_text(one.name)) for one in comparison.models),
        differences=tuple(
            replace(one, first=as_plain_text(one.first), second=as_plain_text(one.second))
            for one in comparison.differences
        ),
    )


def models_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Head and a row a model, best first: scores, what is right, size, time."""
    others = [name for name in comparison.metrics if name != RANKED_BY]
    head = [
        *("model", RANKED_BY, "over seeds", "over pictures"),
        *others,
        *(name.replace("_", " ") for name in comparison.truths),
        *("trained", "frozen", "features", "a picture", "an epoch", "to the best"),
        *(EFFORT if comparison.has_effort else ()),
    ]
    rows = []
    for model in comparison.models:
        ranked, cost = model.scores[RANKED_BY], model.cost
        rows.append(
            [
                model.name,
                number_text(ranked.value),
                interval_text(ranked.seeds),
                interval_text(ranked.pictures),
                *(number_text(model.scores[name].value) for name in others),
                *(percent(model.truth[name]) for name in comparison.truths),
                count_text(cost.parameters_trained),
                count_text(cost.parameters_frozen),
                f"{cost.feature_tokens} × {cost.feature_width}" if cost.feature_tokens else "–",
                bytes_text(cost.feature_bytes) if cost.feature_tokens else "–",
                duration_text(model.seconds_an_epoch),
                duration_text(model.seconds_to_best),
                *(effort_texts(model) if comparison.has_effort else ()),
            ]
        )
    return head, rows


def differences_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Head and a row a pair of models."""
    head = ["difference", *(part for name in COMPARED for part in (name, "95 %", "p")), "over"]
    rows = []
    for one in comparison.differences:
        if one.metric != RANKED_BY:
            continue
        row = [f"{one.first} − {one.second}"]
        for metric in COMPARED:
            found = comparison.difference(one.first, one.second, metric)
            row += [
                number_text(found.value, signed=True),
                interval_text(found.interval),
                p_text(found.p_adjusted),
            ]
        rows.append([*row, "pictures, seeds" if one.covers_seeds else "pictures alone"])
    return head, rows


def chance_text(comparison: Comparison) -> str:
    """What intervals and p-values of differences are of, in a sentence or two."""
    covered = {one.covers_seeds for one in comparison.differences}
    seeds = "Student's t over seeds with Welch's degrees of freedom"
    pictures = "the bootstrap over the same pictures"
    if covered == {True}:
        text = f"Chance is of pictures and seeds: {seeds}, and {pictures}."
    elif covered == {False}:
        text = f"Chance is of pictures alone, by {pictures}: other seeds are not covered."
    else:
        text = (
            f"Chance is of pictures, by {pictures}, and of seeds, by {seeds}, where both models "
            'have two or more; other seeds are not covered where it says "pictures alone".'
        )
    return f"{text} p after Holm's correction for the number of pairs."


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Every number, for programs."""
    return {
        "format_version": FORMAT_VERSION,
        "pictures": comparison.pictures,
        "findings": findings(comparison),
        "caveats": caveats(comparison),
        "differing_settings": list(comparison.differing),
        "models": [_model_json(model) for model in comparison.models],
        "differences": [
            {**asdict(one), "interval": _interval_json(one.interval)}
            for one in comparison.differences
        ],
        "protocol": comparison.models[0].runs[0].protocol,
        "hardware": comparison.models[0].runs[0].hardware,
    }


def interval_text(interval: Interval | None) -> str:
    """[low, high], or a dash."""
    return (
        "–" if interval is None else f"[{number_text(interval.low)}, {number_text(interval.high)}]"
    )


def effort_texts(model: ModelResult) -> tuple[str, str, str]:
    """What captioning took, in the order of `EFFORT`; dashes for what is not known."""
    pace, memory, joules = (
        model.captions_per_second,
        model.peak_memory_bytes,
        model.joules_a_caption,
    )
    return (
        "–" if pace is None else f"{pace:.3g}",
        "–" if memory is None else f"{memory / 2**20:,.0f} MiB",
        "–" if joules is None else f"{joules:.3g} J",
    )


def bytes_text(size: int) -> str:
    """12,345 -> "12.3 kB"."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def protocol_text(comparison: Comparison) -> str:
    """How the captions were made and scored, in a sentence."""
    run = comparison.models[0].runs[0]
    protocol, shown = run.protocol, ("data", "split", "pictures", "decoding", "tokenizer")
    parts = [f"{name} {protocol[name]}" for name in shown if name in protocol]
    return f"Protocol: {'; '.join(parts)}."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]


def _model_json(model: ModelResult) -> dict[str, Any]:
    return {
        "name": model.name,
        "scores": {name: _estimate_json(one) for name, one in model.scores.items()},
        "truth": model.truth,
        **asdict(model.cost),
        "feature_bytes": model.cost.feature_bytes,
        "captions_per_second": model.captions_per_second,
        "peak_memory_bytes": model.peak_memory_bytes,
        "joules_a_caption": model.joules_a_caption,
        "seconds_an_epoch": model.seconds_an_epoch,
        "seconds_to_best": model.seconds_to_best,
        "epochs_to_best": model.epochs_to_best,
        "runs": [
            {
                "seed": run.seed,
                "checkpoint": run.checkpoint,
                "scores": run.scores.corpus,
                "truth": run.truth,
                "curve": [asdict(point) for point in run.curve],
            }
            for run in model.runs
        ],
    }


def _estimate_json(one: Estimate) -> Mapping[str, Any]:
    return {
        "value": one.value,
        "each_seed": list(one.each),
        "over_seeds_95": _interval_json(one.seeds),
        "over_pictures_95": _interval_json(one.pictures),
    }


def _interval_json(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]
