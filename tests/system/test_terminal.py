"""Text from others is shown on a terminal, never obeyed, and JSON stays what it was."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tqdm import tqdm

from captioning.system.terminal import PlainText, json_line, one_line, words_of

ROOT = Path(__file__).parents[2]
UNSAFE = [
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA0)),
    *"\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
]
SAFE = "A dog é, 狗, كلب, אב, 🐕, \u200e\u200d\u00a0\u3000x"


def written(*texts: str) -> str:
    """What reaches a terminal of texts that are printed."""
    raw = io.BytesIO()
    stream = PlainText(raw, encoding="utf-8", errors="surrogateescape", newline="")
    for text in texts:
        assert stream.write(text) == len(text)
    stream.flush()
    return raw.getvalue().decode(errors="surrogateescape")


@pytest.mark.parametrize("character", UNSAFE)
def test_no_character_that_a_terminal_obeys_is_written(character: str) -> None:
    text = f"a{character}b"
    assert one_line(text).isprintable()
    line = json_line({text: [text]})
    assert line.isprintable()
    assert json.loads(line) == {text: [text]}
    if character not in "\n\t":
        assert written(f"{text}\n") == f"a\\u{ord(character):04x}b\n"
    assert character not in words_of(text)


def test_all_other_letters_stay() -> None:
    assert one_line(SAFE) == words_of(SAFE) == SAFE
    assert json.loads(json_line(SAFE)) == SAFE
    assert written(f"{SAFE}\n\tmore\n") == f"{SAFE}\n\tmore\n"


def test_a_name_that_is_no_utf8_passes_in_text_and_is_valid_json() -> None:
    name = b"caf\xe9-\x9b2J.jpg".decode(errors="surrogateescape")
    assert one_line(name) == "caf\udce9-\\udc9b2J.jpg"
    line = json_line({"image": name})
    assert json.loads(line.encode()) == {"image": name}
    assert written(name) == "caf\udce9-\\udc9b2J.jpg"


def test_a_bar_may_move_and_what_it_shows_may_not() -> None:
    raw = io.BytesIO()
    stream = PlainText(raw, encoding="utf-8", write_through=True, newline="")
    with tqdm(total=2, desc="a\x1b[2Jb\rc", file=stream, ascii=True) as bar:
        bar.update(2)
    found = raw.getvalue().decode()
    assert found.startswith("\ra\\u001b[2Jb\\u000dc")
    assert found.endswith("\n")
    assert written("\n\n", "\x1b[A\x1b[A", "\r   \r") == "\n\n\x1b[A\x1b[A\r   \r"
    assert written("x\x1b[A") == "x\\u001b[A"


def test_everything_that_a_command_prints_goes_this_way() -> None:
    program = """
import sys
from captioning.system.errors import UserError, run_command
from captioning.system.progress import say

def main():
    print("out \\x1b]0;PWNED\\x07 https://me:pw@host/")
    say("said \\x9b2J")
    sys.stderr.write("err \\u202e\\n")
    raise UserError("bad\\nerror: forged \\x1b[31m https://me:pw@host/?token=tok9", "two")

run_command(main)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == "out \\u001b]0;PWNED\\u0007 https://***@host/\n"
    assert done.stderr == (
        "said \\u009b2J\nerr \\u202e\n"
        "error: bad\\nerror: forged \\u001b[31m https://***@host/?token=***\nerror: two\n"
    )
