"""The benchmark of captioning a folder, at toy size."""

from pathlib import Path

import pytest

from benchmarks import folder


def test_all_sides_caption_the_pictures_and_ratios_are_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = folder.small_captioner(side=32)
    monkeypatch.setattr(folder, "small_captioner", lambda: small)
    options = folder.Options(pictures=5, size=40, repeats=1)
    found = folder.speed(tmp_path, options)
    assert len(list((tmp_path / "captions").rglob("*.txt"))) == 5
    assert found["folder_to_encoder"] == pytest.approx(found["folder"] / found["encoder"])
    assert set(found) == {"encoder", "in_turn", "folder", "folder_to_encoder", "folder_to_in_turn"}
