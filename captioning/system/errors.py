"""How a command ends: one clear sentence for what the user can mend, and the exit codes.

Every command runs through `run_command`, which turns `UserError` into text on standard error and
exit code 2. Anything else is a bug of ours and keeps its traceback.
"""

import io
import os
import sys
import time
from collections.abc import Callable
from typing import NoReturn

EXIT_DONE = 0
EXIT_PARTLY_DONE = EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
PATIENCE_SECONDS = 1.0


class UserError(ValueError):
    """Something the user can mend. Its text gives the value seen, the rule, and what to type next.

    Several problems found together are one error: `UserError("first ...", "second ...")`.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


def run_command(main: Callable[[], int]) -> NoReturn:
    """Run a command's `main` and leave the process with its exit code."""
    _speak_utf8()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a caption's letters shows their codes.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = main()
        sys.stdout.flush()
    except UserError as error:
        if os.environ.get("RANK", "0") != "0":
            # Of several processes that find the same mistake the first one tells it.
            time.sleep(PATIENCE_SECONDS)
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        code = EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone: not an error, but nothing may be flushed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_DONE
    sys.exit(code)


def _speak_utf8() -> None:
    """Begin anew with UTF-8 for names of files where the locale has another encoding.

    What is written in captions files and settings is UTF-8 everywhere, and must find its files.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    sys.stdout.flush()
    os.execve(sys.executable, sys.orig_argv, {**os.environ, "PYTHONUTF8": "1"})
