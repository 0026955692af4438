"""The benchmark of comparisons, for a few repetitions."""

import json
from pathlib import Path

import pytest

from benchmarks import comparison


def test_numbers_are_printed_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(comparison, "NOISES", comparison.NOISES[:1])
    monkeypatch.setattr(comparison, "SEEDS", (2,))
    assert comparison.main(["--repeats", "2", "--json", str(tmp_path / "out.json")]) == 0
    numbers = json.loads((tmp_path / "out.json").read_text())
    assert [row["models"] for row in numbers["equal"]] == [2, 4]
    assert 0 <= numbers["different"][0]["here"] <= 1
    assert "theory" in capsys.readouterr().out
