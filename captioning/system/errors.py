"""How a command ends: one clear sentence for what the user can mend, and the exit codes.

Every command runs through `run_command`, which turns `UserError`, and a place that cannot be
written to, into text on standard error and exit code 2. Anything else is a bug of ours and keeps
its traceback.
"""

import errno
import os
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from captioning.system.output import OutputLostError, open_outputs, told_loss
from captioning.system.privacy import mask_urls
from captioning.system.terminal import one_line

DISK_FAULTS = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
)
"""What the place of a file does to whoever writes there; no bug, and for the user to mend."""
EXIT_DONE = 0
EXIT_PARTLY_DONE = EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_SIGNAL = 128
"""Added to the number of the signal that stopped a command."""
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
PATIENCE_SECONDS = 1.0


class UserError(ValueError):
    """Something the user can mend. Its text gives the value seen, the rule, and what to type next.

    Several problems found together are one error: `UserError("first ...", "second ...")`. Secrets
    in the addresses that they name are masked.
    """

    def __init__(self, *problems: str) -> None:
        problems = tuple(map(mask_urls, problems))
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


def run_command(main: Callable[[], int], *, prints_results: bool = False) -> NoReturn:
    """Run a command's `main` and leave the process with its exit code.

    One that `prints_results` ends where standard output takes no more; others leave theirs in
    files and go on, and fail at their end.
    """
    _speak_utf8()
    output = open_outputs(is_needed=prints_results)
    # Colours of tracebacks (Python 3.13) would be shown, like all that a terminal obeys.
    os.environ.setdefault("NO_COLOR", "1")
    try:
        if loss := told_loss(output):
            raise UserError(loss)
        code = main()
        sys.stdout.flush()
    except UserError as error:
        if os.environ.get("RANK", "0") != "0":
            # Of several processes that find the same mistake the first one tells it.
            time.sleep(PATIENCE_SECONDS)
        for problem in error.problems:
            print(f"error: {one_line(problem)}", file=sys.stderr)
        code = EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except OutputLostError:
        code = EXIT_DONE  # the reader (`| head`) has what it wanted, unless something is told
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        place = f"{error.filename}: " if error.filename else ""
        what = one_line(f"{place}{error.strerror or error}")
        print(f"error: {what}. Mend that, then give the same command again.", file=sys.stderr)
        code = EXIT_USER_ERROR
    if not code and (loss := told_loss(output)):
        print(f"error: {loss}", file=sys.stderr)
        code = EXIT_FAILED
    sys.exit(code)


def _speak_utf8() -> None:
    """Begin anew with UTF-8 for names of files where the locale has another encoding.

    What is written in captions files and settings is UTF-8 everywhere, and must find its files.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    if sys.stdout is not None:
        sys.stdout.flush()
    os.execve(sys.executable, sys.orig_argv, {**os.environ, "PYTHONUTF8": "1"})
