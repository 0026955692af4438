"""What stands in the file of a comparison besides settings: tables, seeds, models."""

import difflib
import re
from collections.abc import Sequence

COMPARE_TABLE = "compare"
"""A file with this table describes several runs."""
MODELS_TABLE = "models"
SEEDS = "SEEDS"


def folder_name(model: str) -> str:
    """A model's name as part of a folder's: "CLIP, frozen" -> "clip-frozen"."""
    return re.sub(r"[^\w.]+", "-", model).strip("-.").lower()


def check_seeds(seeds: object) -> list[str]:
    """What is wrong with a list of seeds."""
    if not isinstance(seeds, list) or not seeds or any(type(seed) is not int for seed in seeds):
        return [f"{SEEDS} is {seeds!r}; it must be a list of whole numbers, such as [1, 2, 3]."]
    if min(seeds) < 0 or max(seeds) >= 2**63:
        return [f"{SEEDS} is {seeds!r}; each must be at least 0 and below 2**63."]
    if len(set(seeds)) < len(seeds):
        return [f"{SEEDS} is {seeds!r}; each seed may stand once."]
    return []


def shape_problems(others: Sequence[str], compare: object, models: object) -> list[str]:
    """What is wrong with the tables, `others` among them, whatever the settings in them are."""
    problems = []
    for name in others:
        close = difflib.get_close_matches(name.lower(), (COMPARE_TABLE, MODELS_TABLE), 1, 0.6)
        advice = f"did you mean [{close[0]}]?" if close else "the tables are [compare], [models.X]."
        problems.append(f"there is no table [{name}]; {advice}")
    if not isinstance(compare, dict):
        problems.append(f"the table [{COMPARE_TABLE}] is missing; write below it: {SEEDS} = [1, 2]")
    else:
        unknown = sorted(compare.keys() - {SEEDS})
        problems += [
            f"[{COMPARE_TABLE}] has no {name}; it holds {SEEDS} alone." for name in unknown
        ]
        problems += check_seeds(compare.get(SEEDS))
    if not isinstance(models, dict) or len(models) < 2:
        problems.append(
            f"a comparison needs two models at least; give each a table [{MODELS_TABLE}.NAME] with "
            "the settings in which it differs, such as ENCODER_MODEL_NAME."
        )
        return problems
    problems += [
        f"{MODELS_TABLE}.{name} is {value!r}; it must be a table [{MODELS_TABLE}.{name}]."
        for name, value in models.items()
        if not isinstance(value, dict)
    ]
    by_folder: dict[str, list[str]] = {}
    for name in models:
        by_folder.setdefault(folder_name(name), []).append(name)
    for folder, names in by_folder.items():
        if not folder:
            problems.append(f"[{MODELS_TABLE}.{names[0]!r}] needs a name with letters in it.")
        elif len(names) > 1:
            problems.append(f"the models {', '.join(names)} would share the folder {folder}-seed.")
    return problems
