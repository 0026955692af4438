"""Work that is done ahead, in threads, while its results are used in their order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    items: Iterable[Item], work: Callable[[Item], Result], *, threads: int, most: int
) -> Iterator[Result]:
    """`work(item)` of each item in order, by `threads`, at most `most` of them ahead.

    No more items are taken than that, so memory does not depend on how many there are. Pillow,
    zlib and torch leave the interpreter free, so threads scale like processes. An error comes when
    its item's turn does.
    """
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
