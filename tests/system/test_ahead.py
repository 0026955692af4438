"""Work ahead of its use: in order, and no further than it may go."""

import threading
from collections.abc import Iterator

import pytest

from captioning.system.ahead import ahead


def test_results_come_in_order_and_no_more_is_taken_than_may_wait() -> None:
    taken: list[int] = []
    used = 0

    def items() -> Iterator[int]:
        for number in range(30):
            taken.append(number)
            assert len(taken) - used <= 4 + 1
            yield number

    names = set()

    def work(number: int) -> int:
        names.add(threading.current_thread().name)
        return number**2

    for number, square in enumerate(ahead(items(), work, threads=2, most=4)):
        assert square == number**2
        used += 1
    assert used == 30
    assert threading.main_thread().name not in names


def test_an_error_comes_in_its_turn() -> None:
    results = ahead([1, 0, 1], lambda number: 1 // number, threads=2, most=2)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
