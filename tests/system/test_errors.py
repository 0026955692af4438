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
        (
            "raise OSError(28, 'No space left on device', 'a.json')",
            2,
            "error: a.json: No space left on device. Mend that, then give the same command "
            "again.\n",
        ),
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


SAYS_MUCH = f"""
import pathlib, sys
{IMPORT}
def main():
    for i in range(5):
        print(i, "x" * 100_000, flush=True)
        print("also", file=sys.stderr)
    pathlib.Path(sys.argv[1]).write_text("done")
    return 0
run_command(main, prints_results=bool(sys.argv[2:]))
"""
CLOSED = "error: standard output cannot be written: it is closed. Give it another place: > FILE\n"
FULL = "standard output cannot be written: No space left on device"


@pytest.mark.parametrize(
    ("output", "needed", "code", "is_done", "said"),
    [
        ("| head -c 5 > /dev/null", "", 0, True, ""),
        ("| head -c 5 > /dev/null", "needed", 0, False, ""),
        ("2>&1 | head -c 5 > /dev/null", "", 0, True, ""),
        ("> /dev/full", "", 1, True, FULL),
        ("> /dev/full", "needed", 1, False, FULL),
        (">&-", "", 2, False, CLOSED),
        (">&-", "needed", 2, False, CLOSED),
        ("2>&- > /dev/null", "", 0, True, ""),
        ("2> /dev/full > /dev/null", "", 0, True, ""),
    ],
)
def test_an_output_that_is_lost_is_told_by_its_name(
    tmp_path: Path, output: str, needed: str, code: int, is_done: bool, said: str
) -> None:
    mark = tmp_path / "mark"
    words = f"'{sys.executable}' - '{mark}' {needed} <<'END' {output}\n{SAYS_MUCH}\nEND\n"
    done = subprocess.run(
        ["bash", "-c", f"{words}exit ${{PIPESTATUS[0]}}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, mark.exists()) == (code, is_done), done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert said in done.stderr
    if not said:
        assert done.stderr.replace("also\n", "") == ""


def test_no_file_gets_the_number_of_a_closed_output(tmp_path: Path) -> None:
    path = tmp_path / "file"
    program = f"""
import os, sys
{IMPORT}
def main():
    with open(sys.argv[1], "w") as file:
        os.write(2, b"a warning of some library")
    print("said")
    return 0
run_command(main)
"""
    words = f"'{sys.executable}' - '{path}' 2>&- <&- 3<<'END' </dev/fd/3\n{program}\nEND\n"
    done = subprocess.run(["bash", "-c", words], cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"said\n")
    assert path.read_bytes() == b""
