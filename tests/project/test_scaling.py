"""The page on larger runs: its numbers are those that its calculation gives."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import scaling

PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("part", "table"),
    [
        ("inputs", scaling.inputs_table),
        ("runs", scaling.runs_table),
        ("epochs", scaling.epochs_table),
        ("kernels", scaling.kernels_table),
    ],
)
def test_the_page_says_what_the_calculation_gives(part: str, table: Callable[[], str]) -> None:
    found = re.search(f"<!-- {part} -->\n(.*?)\n<!-- /{part} -->", PAGE, re.DOTALL)
    assert found is not None
    assert found.group(1) == table()


def test_what_no_gpu_has_measured_is_not_called_measured() -> None:
    rows = [row for row in scaling.inputs_table().splitlines() if "GPU" in row]
    assert len(rows) == 4
    assert not any("measured" in row for row in rows)


def test_the_kernels_of_a_step_are_the_arithmetic_that_was_measured_of_it() -> None:
    found = scaling.kernels()
    assert sum(one.gflop for one in found) / scaling.BATCH == pytest.approx(
        scaling.DECODER_GFLOP_A_PAIR, rel=0.1
    )
    h100, small = scaling.CARDS
    for kernel in found:
        assert kernel.microseconds(small)[0] > kernel.microseconds(h100)[0]
    assert found[-1].microseconds(h100)[1] == "memory"


def test_more_gpus_never_take_longer_and_features_pay_with_epochs() -> None:
    for data in scaling.DATA:
        for way in (scaling.live, scaling.from_features):
            hours = [way(data, gpus).hours for gpus in scaling.GPUS]
            assert hours == sorted(hours, reverse=True)
    once, often = (replace(scaling.DATA[2], epochs=epochs) for epochs in (1, 20))
    assert scaling.live(once, 8).hours < scaling.from_features(once, 8).hours
    assert scaling.live(often, 8).hours > 2 * scaling.from_features(often, 8).hours


def test_a_run_is_as_long_as_what_binds_it() -> None:
    cc12m = scaling.DATA[2]
    took = scaling.seconds(cc12m, 1)
    run = scaling.live(cc12m, 1)
    assert run.bound == "decoding"
    assert run.hours == pytest.approx(cc12m.epochs * took["decoding"] / 3600)
    assert took["decoding"] == pytest.approx(10.9e6 / (544 * 12))
    assert run.cores_a_gpu > scaling.CORES_A_GPU
