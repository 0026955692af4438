"""The corrections that are measured are those that the page would have made."""

from pathlib import Path

import pytest
from PIL import Image

from benchmarks import corrections
from benchmarks.warm_start import Bench
from captioner import Captioner
from captioning.sources.caption_files import read_captions
from captioning.sources.records import Record, write_records
from tests.helpers.app_page import Parrot


def test_the_least_confident_are_corrected_by_the_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = corrections.Options(output=str(tmp_path), pictures=10, corrected=3, scored=2)
    bench: Bench = corrections.bench_of(options)
    train = bench.data / "new-10" / "train"
    train.mkdir(parents=True)
    records = [Record(train / f"{red}.png", (f"truth {red}",)) for red in range(0, 200, 10)]
    for record in records:
        Image.new("RGB", (8, 8), (int(record.image.stem), 0, 0)).save(record.image)
    write_records(train, records)
    monkeypatch.setattr(Captioner, "from_pretrained", lambda _: None)
    monkeypatch.setattr(corrections, "PageModel", lambda *_: Parrot())
    place = tmp_path / "folder"
    album, _ = corrections.corrected_folder(bench, Path("base"), place, "1", options)
    assert len(album.names) == 10
    reds = sorted(int(name.removesuffix(".png")) for name in album.names)[:3]
    found = {(one.file_name, one.captions) for one in read_captions(place / "corrections.jsonl")}
    assert found == {(f"{red}.png", (f"truth {red}",)) for red in reds}


def test_the_table_has_means_and_intervals() -> None:
    found = [
        {"before": {"new": 0.2, "old": 3.0}, "after": {"new": 0.5 + gain, "old": 1.0}}
        for gain in (0.0, 0.1)
    ]
    text = corrections.table(found, corrections.Options())
    assert "| after 50 corrections | 0.550 ±0.635 | 1.000 ±0.000 |" in text
    assert text.endswith("Gain on the changed world: 0.350 ±0.635")
