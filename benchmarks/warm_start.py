"""What a trained model is worth as a beginning: against from nothing, and what is forgotten.

    python benchmarks/warm_start.py --part scenes                     drawn scenes, a changed world
    python benchmarks/warm_start.py --part photos --data data/flickr8k --config base.toml

scenes: a model of the demo's settings learns scenes without ducks, cats, kites, purple and pink.
Then come a few scenes of nothing else, in other words, trained on from that model or from nothing.

photos: pictures of one kind, known by the words of their captions, are set apart from a prepared
data set. A base is trained on the others, and on a few of those set apart it is trained on, against
from nothing and against the base as it is. What it still knows of the others is measured too, with
old pictures mixed in and without.

A training is given the same steps whatever it begins with, unless flags say otherwise; the `best`
of its validations is scored on test pictures that no training has seen. Tables give means over
seeds with Student's 95 % interval; the base is one. What `output` holds is not done again, and a
training that was cut off goes on.
"""

import itertools
import json
import os
import re
import shlex
import shutil
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

sys.path.insert(0, str(Path(__file__).parent.parent))

import train
from benchmarks.flags import last_of_each
from captioner import Captioner
from captioning.comparison.chance import seed_interval
from captioning.metrics.scoring import ScoringOptions, score_split
from captioning.scenes import Scene, draw_scene, make_scene, scene_captions
from captioning.sources.records import PreparedSplit, Record, read_records, write_records
from captioning.system.errors import UserError, run_command
from captioning.system.files import write_json
from captioning.system.options import parse_options
from captioning.system.rules import at_least
from config import parse_config

NEW_THINGS, NEW_COLOURS = {"duck", "cat", "kite"}, {"purple", "pink"}
SCENE_PIXELS = 96
WHERE = {
    "sea": "out on the water",
    "meadow": "amid the green",
    "beach": "by the shore",
    "snow": "where all is white",
}
WHEN = {"day": "around noon", "sunset": "in the evening", "night": "after dark"}
RELATED = {
    "left of": ("{a} with {b} to its right", "{b} with {a} to its left"),
    "above": ("{b} with {a} overhead", "{a}, and under it {b}"),
}
FORMS = (
    "look, {things} {where} {when}",
    "{when} we saw {things} {where}",
    "{where} one finds {things} {when}",
    "a picture taken {when}: {things} {where}",
    "{things}, {where}, {when}",
)
"""Wordings that the demo does not have."""

KINDS = {
    "water": r"water|ocean|sea|waves?|surf\w*|pool|lake|river|swim\w*|beach|boats?|splash\w*",
    "dogs": r"dogs?|pupp(?:y|ies)",
    "children": r"child(?:ren)?|boys?|girls?|kids?|toddlers?|baby|babies",
}
"""Words by which pictures of a kind are known."""
ENOUGH = 3
"""Captions of a picture that must have one; with fewer it belongs to neither side."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    part: Literal["scenes", "photos"] = "scenes"
    """Drawn scenes, or photographs."""
    output: str = "warm-start"
    """Folder for data, runs and numbers."""
    data: str = ""
    """photos: a prepared data set with train and validation."""
    config: str = "presets/demo.toml"
    """Settings of all trainings."""
    kind: Literal["water", "dogs", "children"] = "water"
    """photos: what is set apart."""
    counts: tuple[str, ...] = ()
    """New training pictures (default: 100 300 1000 scenes, 50 150 500 photos)."""
    held_out: Annotated[int, at_least(2)] = 300
    """New pictures for test, besides a third as many for validation."""
    old_pictures: Annotated[int, at_least(0)] = 0
    """Old validation pictures by which forgetting is measured (0 = all)."""
    base_pictures: Annotated[int, at_least(10)] = 2400
    """scenes: old training pictures."""
    seeds: tuple[str, ...] = ("1", "2", "3")
    """Of the trainings on new pictures."""
    steps: Annotated[int, at_least(1)] = 400
    """Of each of them; as many validations as `validations` spread over them."""
    validations: Annotated[int, at_least(1)] = 10
    """Of each training."""
    mixed: str = "150"
    """photos: that many new pictures are also trained on with old ones mixed in, half and half."""
    base: str = ""
    """Further flags of train.py for the base: --base="--NUM_EPOCHS 8"."""
    warm: str = "--LEARNING_RATE 5e-4 --WARMUP_STEPS 20"
    """Further flags for trainings that begin with it."""
    cold: str = "--WARMUP_STEPS 40"
    """Further flags for trainings from nothing."""


@dataclass(frozen=True)
class Bench:
    """Data, runs and numbers under a folder."""

    options: Options

    @property
    def folder(self) -> Path:
        """Of this part."""
        return Path(self.options.output) / self.options.part

    @property
    def data(self) -> Path:
        """Where the data sets lie: `old`, and `new-N` for N new training pictures."""
        return self.folder / "data"

    @property
    def counts(self) -> list[int]:
        """New training pictures."""
        usual = ("100", "300", "1000") if self.options.part == "scenes" else ("50", "150", "500")
        return sorted(int(count) for count in self.options.counts or usual)

    def prepare(self) -> None:
        """Write the data sets, unless they are there."""
        if (self.data / "done").exists():
            return
        shutil.rmtree(self.data, ignore_errors=True)
        held_out, most = self.options.held_out, self.counts[-1]
        draw = self._scenes if self.options.part == "scenes" else self._photos
        old, new = draw(most + held_out + held_out // 3)
        for split, records in old.items():
            place(records, self.data / "old" / split)
        test, validation, rest = new[:held_out], new[held_out:-most], new[-most:]
        for count in self.counts:
            parts = {"train": rest[:count], "validation": validation, "test": test}
            for split, records in parts.items():
                place(records, self.data / f"new-{count}" / split)
        (self.data / "done").touch()

    def _scenes(self, wanted: int) -> tuple[dict[str, list[Record]], list[Record]]:
        """Old scenes by split and new ones, drawn."""
        count, held_out = self.options.base_pictures, self.options.held_out
        old = take(draw_all(self.folder / "drawn", is_new=False), count + held_out)
        new = take(draw_all(self.folder / "drawn", is_new=True), wanted)
        return {"train": old[:count], "validation": old[count:]}, new

    def _photos(self, wanted: int) -> tuple[dict[str, list[Record]], list[Record]]:
        """Pictures of other kinds by split, and those of the kind."""
        if not self.options.data:
            raise UserError(
                "--data is missing; name a prepared data set with train and validation."
            )
        old, new = {}, []
        for split in ("train", "validation"):
            records = read_records(Path(self.options.data) / split)
            old[split] = [one for one in records if not hits(one, self.options.kind)]
            new += [one for one in records if hits(one, self.options.kind) >= ENOUGH]
        if len(new) < wanted:
            raise UserError(
                f"{self.options.data} has {len(new):,} pictures of {self.options.kind}, and "
                f"{wanted:,} are needed; give fewer --counts, or a smaller --held-out."
            )
        return old, new[:wanted]

    def train(self, name: str, *flags: str) -> Path:
        """The best checkpoint of a run, which is trained to its end."""
        folder = self.folder / "runs" / name
        if not (folder / "done").exists():
            words = ["--config", self.options.config, "--DATA_DIR", str(self.data)]
            words += last_of_each([*flags, "--OUTPUT_DIR", str(folder.parent), "--RUN_NAME", name])
            if train.main([*words, "--RESUME_CHECKPOINT_PATH", "auto"]):
                raise UserError(f"{folder} did not come to its end; begin again to go on.")
            (folder / "done").touch()
        return folder / "best"

    def base(self) -> Path:
        """The model that others begin with."""
        return self.train("base", *"--DATASET old".split(), *shlex.split(self.options.base))

    def run(self, arm: str, count: int, seed: str) -> dict[str, Any]:
        """The numbers of a training on `count` new pictures, or of the base as it is."""
        path = self.folder / "numbers" / f"{arm} {count} {seed}.json"
        if not path.exists():
            best = self.base() if arm == "base" else self._train_arm(arm, count, seed)
            found: dict[str, Any] = {"new": self.score(best, f"new-{count}", "test")}
            if arm != "cold":
                found["old"] = self.score(best, "old", "validation")
            found["validations"] = [] if arm == "base" else validations_of(best.parent)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, found)
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def _train_arm(self, arm: str, count: int, seed: str) -> Path:
        options, name = self.options, f"{arm}-{count}-seed{seed}"
        flags = ["--DATASET", f"new-{count}", "--RANDOM_SEED", seed]
        if arm == "cold":
            flags += shlex.split(options.cold)
        else:
            flags += [*shlex.split(options.warm), "--INIT_CHECKPOINT_PATH", str(self.base())]
        if arm == "mixed":
            flags += ["--STREAM", f"{self.data}/new-{count} = 1; {self.data}/old = 1"]
            flags += ["--STREAM_STEPS_PER_EPOCH", str(-(-options.steps // options.validations))]
            flags += ["--NUM_EPOCHS", str(options.validations), "--FEATURE_CACHE", "2GB"]
        else:
            captions = sum(
                len(one.captions) for one in read_records(self.data / f"new-{count}/train")
            )
            batch = batch_size(options.config, flags)
            epochs = max(1, round(options.steps / max(1, -(-captions // batch))))
            every = max(1, epochs // options.validations)
            flags += ["--NUM_EPOCHS", str(epochs), "--VALIDATION_INTERVAL", str(every)]
        return self.train(name, *flags)

    def score(self, best: Path, dataset: str, split: str, limit: int = 0) -> float:
        """CIDEr of a checkpoint on a split, or on its first `limit` pictures."""
        limit = self.options.old_pictures if dataset == "old" else limit
        prepared = PreparedSplit.read(self.data / dataset / split, limit=limit)
        captions = Captioner.from_pretrained(best).captions(prepared.images)
        texts = [one.text for one, *_ in captions]
        return score_split(prepared, texts, ScoringOptions(java=False)).corpus["CIDEr"] or 0.0


def take(records: Iterator[Record], count: int) -> list[Record]:
    """The next so many."""
    return [record for record, _ in zip(records, range(count), strict=False)]


def draw_all(folder: Path, *, is_new: bool) -> Iterator[Record]:
    """Scenes of the old world, or of the new one, drawn as they are asked for, without end; no two
    of which the same could be said."""
    folder.mkdir(parents=True, exist_ok=True)
    seen = set()
    for number in itertools.count():
        scene = make_scene(0, number)
        if scene.combination in seen:
            continue
        seen.add(scene.combination)
        strange = [
            thing.kind in NEW_THINGS or thing.colour in NEW_COLOURS for thing in scene.objects
        ]
        if is_new and all(strange):
            captions = new_captions(scene)
        elif not is_new and not any(strange):
            captions = scene_captions(scene)
        else:
            continue
        path = folder / f"scene_{number:06d}.jpg"
        if not path.exists():
            draw_scene(scene, SCENE_PIXELS).save(path, quality=93)
        yield Record(path, captions)


def new_captions(scene: Scene) -> tuple[str, ...]:
    """Five captions of a scene in words that the demo does not have."""
    names = [f"a {thing.colour} {thing.kind}" for thing in scene.objects]
    said = [names[0]]
    if scene.relation:
        said = [form.format(a=names[0], b=names[1]) for form in RELATED[scene.relation]]
    where, when = WHERE[scene.place], WHEN[scene.time]
    return tuple(
        form.format(things=said[number % len(said)], where=where, when=when)
        for number, form in enumerate(FORMS)
    )


def hits(record: Record, kind: str) -> int:
    """Captions of a picture with a word of a kind."""
    words = re.compile(rf"\b(?:{KINDS[kind]})\b", re.IGNORECASE)
    return sum(bool(words.search(caption)) for caption in record.captions)


def place(records: Iterable[Record], folder: Path) -> None:
    """Write a split; pictures are links to one file each where the disk allows it."""
    folder.mkdir(parents=True)
    placed = []
    for record in records:
        path = folder / record.image.name
        try:
            os.link(record.image, path)
        except OSError:
            shutil.copy(record.image, path)
        placed.append(replace(record, image=path))
    write_records(folder, placed)


def batch_size(config: str, flags: Sequence[str]) -> int:
    """Captions a step."""
    return parse_config(["--config", config, *last_of_each(flags)]).BATCH_SIZE


def validations_of(run: Path) -> list[tuple[int, float]]:
    """Step and CIDEr of each validation of a run."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    found = [one for one in map(json.loads, lines) if one.get("CIDEr") is not None]
    return [(one["step"], one["CIDEr"]) for one in found]


def steps_to(validations: Sequence[Sequence[float]], score: float) -> float | None:
    """The step of the first validation that reaches a score."""
    return next((step for step, found in validations if found >= score), None)


def shown(values: Sequence[float], digits: int = 3) -> str:
    """Mean and interval."""
    if not values:
        return "-"
    interval = seed_interval(values)
    spread = f" ±{(interval.high - interval.low) / 2:.{digits}f}" if interval else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def tables(found: Mapping[tuple[str, int], Sequence[dict[str, Any]]]) -> str:
    """CIDEr on new test pictures; steps to what is reached from nothing; what is still known."""
    counts = sorted({count for _, count in found})
    lines = [
        "| new pictures | from nothing | from the base | its steps to the same CIDEr "
        "| base as it is |",
        "|---|---|---|---|---|",
    ]
    for count in counts:
        cold, warm = found.get(("cold", count), ()), found.get(("warm", count), ())
        base = found.get(("base", count), ())
        aims = [(max(score for _, score in one["validations"]), one["validations"]) for one in cold]
        reached = [
            steps
            for (aim, _), one in zip(aims, warm, strict=False)
            if (steps := steps_to(one["validations"], aim)) is not None
        ]
        needed = [steps_to(validations, aim) or 0 for aim, validations in aims]
        pace = f"{shown(reached, 0)} of {shown(needed, 0)}" if reached else "-"
        cells = [shown([one["new"] for one in part]) for part in (cold, warm)]
        last = shown([one["new"] for one in base])
        lines.append(f"| {count:,} | {cells[0]} | {cells[1]} | {pace} | {last} |")
    lines += [
        "",
        "| CIDEr on old validation pictures | old | new |",
        "|---|---|---|",
    ]
    names = {"base": "the base", "warm": "trained on", "mixed": "trained on, old pictures mixed in"}
    for (arm, count), runs in sorted(found.items(), key=lambda one: (one[0][1], one[0][0])):
        if arm in names and runs:
            old, new = (shown([one[world] for one in runs]) for world in ("old", "new"))
            lines.append(f"| {names[arm]}, {count:,} new | {old} | {new} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing and print the tables after each training."""
    options = parse_options(
        Options,
        sys.argv[1:] if argv is None else argv,
        description=str(__doc__).split("\n\n", 1)[0],
    )
    bench = Bench(options)
    bench.prepare()
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for count in bench.counts:
        found[("base", count)] = [bench.run("base", count, "0")]
    for seed in options.seeds:
        for count in bench.counts:
            arms = ["warm", "cold"]
            if options.part == "photos" and str(count) == options.mixed:
                arms.append("mixed")
            for arm in arms:
                found.setdefault((arm, count), []).append(bench.run(arm, count, seed))
                print(f"\n{tables(found)}\n", flush=True)
    return 0


if __name__ == "__main__":
    run_command(main)
