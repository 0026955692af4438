"""What fifty corrected captions are worth, in a world that the model has not seen.

    python benchmarks/corrections.py --output corrections

A base of the demo's settings has learnt scenes without ducks, cats, kites, purple and pink. Of 200
scenes of nothing else, in other words (those of `warm_start.py`), it drafts captions as the page of
`app.py` does; the 50 that come first under Review, of which it is least sure, are corrected by the
truth, one caption each, through the page's own store. What the page then says under Learn is typed.
Scored are 200 other scenes of the changed world, and what is still known of the old one, before and
after. Seeds choose the 200 scenes, the wording and the training; the base is one.
"""

import json
import random
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).parent.parent))

import train
from app import PageModel, learning_settings
from benchmarks import warm_start
from benchmarks.warm_start import Bench, shown
from captioner import Captioner
from captioning.app.album import Album
from captioning.app.corrections import Corrections
from captioning.app.drafts import Drafting
from captioning.app.learning import Beginning, commands
from captioning.sources.records import read_records
from captioning.system.errors import UserError, run_command
from captioning.system.files import write_json
from captioning.system.options import parse_options
from captioning.system.rules import at_least


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    output: str = "corrections"
    """Folder for data, runs and numbers; a base that `warm_start.py` trained there is used."""
    pictures: Annotated[int, at_least(10)] = 200
    """In the folder."""
    corrected: Annotated[int, at_least(3)] = 50
    """Of these."""
    scored: Annotated[int, at_least(2)] = 200
    """Other pictures."""
    config: str = "presets/demo.toml"
    """Settings of the base."""
    base: str = "--NUM_EPOCHS 4"
    """Further flags of train.py for the base."""
    base_pictures: Annotated[int, at_least(10)] = 2400
    """Old training pictures."""
    seeds: tuple[str, ...] = ("1", "2", "3")
    """Of folder, wording and training."""


def bench_of(options: Options) -> Bench:
    """Data and base of `warm_start.py`."""
    pool = max(1_000, 2 * options.pictures) if options.pictures >= 100 else options.pictures
    of_base = warm_start.Options(
        output=options.output,
        config=options.config,
        counts=(str(pool),),
        held_out=max(300, options.scored) if options.scored >= 100 else options.scored,
        base=options.base,
        base_pictures=options.base_pictures,
    )
    return Bench(of_base)


def corrected_folder(
    bench: Bench, base: Path, place: Path, seed: str, options: Options
) -> tuple[Album, PageModel]:
    """A folder of which the least confident captions were corrected, as on the page."""
    draw = random.Random(seed)
    records = read_records(bench.data / f"new-{bench.counts[-1]}" / "train")
    chosen = draw.sample(records, options.pictures)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    truth = {record.image.name: draw.choice(record.captions) for record in chosen}
    for record in chosen:
        shutil.copy(record.image, place)
    album = Album(place, Corrections(place / "corrections.jsonl"))
    model = PageModel(str(base), Captioner.from_pretrained(base))
    drafting = Drafting(album, model.drafts, place / ".drafts.jsonl")
    drafting.resume()
    while drafting.is_busy:
        drafting.step()
    drafting.close()
    for number in album.order()[: options.corrected]:
        name = album.names[number]
        album.corrections.change(name, 0, "edited", truth[name], by="benchmark")
    album.corrections.write(album.number_of.__contains__)
    album.corrections.close()
    return album, model


def learn(album: Album, model: PageModel, bench: Bench, seed: str, count: int) -> Path:
    """The best checkpoint of what the page says to type."""
    beginning = Beginning(model.name, learning_settings(model.captioner.config))
    words = shlex.split(commands(album, beginning, count)["alone"])[2:]
    words += ["--RANDOM_SEED", seed, "--WANDB_MODE", "disabled"]
    words += ["--DATA_DIR", str(album.folder.parent / "data"), "--OUTPUT_DIR"]
    words += [str(album.folder.parent / "runs")]
    run = album.folder.parent / "runs" / words[words.index("--RUN_NAME") + 1]
    shutil.rmtree(run, ignore_errors=True)
    if train.main(words):
        raise UserError(f"{run} did not come to its end.")
    return run / "best"


def scores(bench: Bench, path: Path, best: Path, options: Options) -> dict[str, float]:
    """CIDEr of a checkpoint on new and old pictures, unless `path` has it."""
    if not path.exists():
        new = bench.score(best, f"new-{bench.counts[-1]}", "test", limit=options.scored)
        write_json(path, {"new": new, "old": bench.score(best, "old", "validation")})
    return dict(json.loads(path.read_text(encoding="utf-8")))


def measure(bench: Bench, seed: str, options: Options) -> dict[str, dict[str, float]]:
    """The numbers before and after."""
    place = bench.folder / f"corrected-{options.corrected}-seed{seed}"
    base, path = bench.base(), place / "after.json"
    best = Path()
    if not path.exists():
        album, model = corrected_folder(bench, base, place / f"folder{seed}", seed, options)
        best = learn(album, model, bench, seed, options.corrected)
    return {
        "before": scores(bench, bench.folder / "before.json", base, options),
        "after": scores(bench, path, best, options),
    }


def table(found: Sequence[dict[str, dict[str, float]]], options: Options) -> str:
    """Means over seeds with their intervals."""
    lines = [
        f"| CIDEr | {options.scored} other scenes of the changed world | scenes of the old world |",
        "|---|---|---|",
    ]
    names = {"before": "before", "after": f"after {options.corrected} corrections"}
    for key, name in names.items():
        cells = (shown([one[key][world] for one in found]) for world in ("new", "old"))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    gains = [one["after"]["new"] - one["before"]["new"] for one in found]
    return "\n".join([*lines, f"\nGain on the changed world: {shown(gains)}"])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing, and print the table."""
    options = parse_options(
        Options,
        sys.argv[1:] if argv is None else argv,
        description=str(__doc__).split("\n\n", 1)[0],
    )
    bench = bench_of(options)
    bench.prepare()
    found = []
    for seed in options.seeds:
        found.append(measure(bench, seed, options))
        print(f"\n{table(found, options)}\n", flush=True)
    return 0


if __name__ == "__main__":
    run_command(main)
