"""How a command ends."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMPORT = "from captioning.system.errors import *"


def run(body: str) -> subprocess.CompletedProcess[str]:
    program = f"{IMPORT}\ndef main():\n    {body}\nrun_command(main)"
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("body", "code", "stderr"),
    [
        ("return 0", 0, ""),
        ("return 1", 1, ""),
        ("raise UserError('one', 'two')", 2, "error: one\nerror: two\n"),
        ("raise KeyboardInterrupt", 130, "Interrupted.\n"),
        ("raise BrokenPipeError", 0, ""),
    ],
)
def test_exit_codes(body: str, code: int, stderr: str) -> None:
    done = run(body)
    assert (done.returncode, done.stderr) == (code, stderr)


def test_a_bug_keeps_its_traceback() -> None:
    done = run("raise KeyError('ours')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_terminal_that_cannot_show_a_letter_shows_its_code() -> None:
    program = f"{IMPORT}\ndef main():\n    print('\\u4e2d')\n    return 0\nrun_command(main)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        check=False,
        env={"PYTHONIOENCODING": "latin-1", "PATH": ""},
    )
    assert (done.returncode, done.stdout) == (0, b"\\u4e2d\n")
