"""Standard output and error of a command: where they go, and what happens when that place is lost.

A reader may leave (`| head -1`), the disk under a log file may be full, a terminal may be closed.
A command that leaves its results in files goes on: what it says is lost, its work is not. One that
prints its results stops, for there would be nothing left of them. Either way the fault is told by
its own name, and never as that of another file. What a terminal would obey is shown (`terminal`).
"""

import errno
import io
import os
import sys
from typing import Any, TextIO

from captioning.system.terminal import PlainText

STDOUT, STDERR = 1, 2


class OutputLostError(OSError):
    """Standard output takes no more, and a command that prints its results need not go on."""


class OutputStream(io.RawIOBase):
    """What is written to a descriptor, by a command that may outlive it."""

    def __init__(self, descriptor: int, *, is_needed: bool = False) -> None:
        """Where it `is_needed`, what cannot be written raises `OutputLostError`."""
        self._descriptor, self._is_needed = descriptor, is_needed
        self.fault: OSError | None = None
        """Why something was lost, if something was."""

    def write(self, content: Any) -> int:
        """Write what the descriptor takes, and forget the rest where nobody needs it."""
        if self.fault is not None and self._is_needed:
            return len(content)  # it was told, and what is left at the end goes nowhere
        try:
            return os.write(self._descriptor, content)
        except OSError as error:
            is_first, self.fault = self.fault is None, error
            if self._is_needed:
                raise OutputLostError(error.errno, error.strerror) from None
            if is_first and self._descriptor == STDOUT and error.errno != errno.EPIPE:
                print(f"WARNING: {_lost(error)}; the work goes on without it.", file=sys.stderr)
            return len(content)

    def writable(self) -> bool:
        """Yes."""
        return True

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._descriptor)


def open_outputs(*, is_needed: bool) -> OutputStream:
    """Put such streams in the place of standard output, which may be needed, and error, which never
    is; gives that of standard output. Its fault is known at once where it was closed before."""
    output = OutputStream(STDOUT, is_needed=is_needed)
    # Else the next file that is opened would get this number, and what is printed.
    for descriptor in (0, STDOUT, STDERR):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:  # what is printed to None goes to standard output
        sys.stderr = open(STDERR, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(STDOUT, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        output.fault = OSError(errno.EBADF, "it is closed")
    sys.stderr, sys.stdout = _stream(sys.stderr, OutputStream(STDERR)), _stream(sys.stdout, output)
    return output


def told_loss(output: OutputStream) -> str:
    """A sentence on what was lost; "" for nothing, or where the reader itself has left."""
    if output.fault is None or output.fault.errno == errno.EPIPE:
        return ""
    return f"{_lost(output.fault)}. Give it another place: > FILE"


def _lost(fault: OSError) -> str:
    return f"standard output cannot be written: {fault.strerror}"


def _stream(stream: TextIO, raw: OutputStream) -> TextIO:
    """A text stream like `stream` over another file; what is no stream of that descriptor stays."""
    if not isinstance(stream, io.TextIOWrapper) or stream.fileno() != raw.fileno():
        return stream
    stream.flush()
    return PlainText(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        # A terminal that cannot show a caption's letters shows their codes.
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
