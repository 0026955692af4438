"""The characters of the PTB tokenizer: which stand in a word, alone, or nowhere.

Measured on the tokenizer of CoreNLP 3.4.1, one character of the basic plane at a time. It knows
Unicode as of 2012: letters that came later, which it drops, count as letters here.
"""

import functools
import re
import unicodedata

BASIC_PLANE_END = 0x10000
LETTER, DIGIT, MARK, UNKNOWN = "\ue000", "\ue001", "\ue002", "\ue003"
"""What stands in a stencil for the letters, digits and marks beyond ASCII, and for themselves."""
STENCILLED = re.compile("[^\x00-\x7f]")

WORD_MARKS = """
02C2-02C5 02D2-02DF 02E5-02EB 02ED 02EF-036F 0375 0378-0379 0384-0385 03F6 0483-0487 055A-055F
0591-05BD 05BF 05C1-05C2 05C4-05C5 05C7 0615-061A 064B-065E 0670 06D6-06E4 06E7-06ED 06FD-06FE
070F 0711 0730-074C 07A6-07B0 07EB-07F3 0900-0903 093C 093E-094E 0951-0955 0962-0963 0981-0983
09BC 09BE-09C4 09C7-09C8 09CB-09CD 09D7 09E2-09E3 0A01-0A03 0A3C 0A3E-0A4F 0A81-0A83 0ABC
0ABE-0ACF 0B82 0BBE-0BC2 0BC6-0BC8 0BCA-0BCD 0C01-0C03 0C3E-0C56 0D3E-0D44 0D46-0D48 0E31
0E34-0E3A 0E47-0E4E 0EB1 0EB4-0EBC 0EC8-0ECD
"""
"""Accents, vowel signs and others that a word may hold besides letters and digits."""

LONE_SYMBOLS = """
0024-0027 002A 003B-003E 005C 005E 0060 007C 007E 00A1 00A5-00A9 00AC 00AE-00B4 00B6-00B9 00BF
00D7 00F7 037E 0387 0589 05BE 05C0 05C3 05C6 05F3-05F4 0600-0603 0606-060C 0614 061B 061E-061F
066A 066D 06D4 0700-070D 07F6-07F8 0964-0965 0E3F 0E4F 1FBD 2016-2017 201A 201E-2023 2030-2038
203B 203E-2042 2044 2070 2074-207E 2080-208E 20A4 2100-2101 2103-2106 2108-2109 2114 2116-2118
211E-2123 2125 2127 2129 212E 213A-213B 2140-2144 214A-214D 214F 2155-215E 2190-2BFF 3001-3002
3012 30FB FF01-FF0F FF1A-FF20 FF3B-FF40 FF5B-FF65 FFE0-FFE1 FFE5-FFE6
"""
"""Symbols that are a token each; a character in no list is dropped, and ends a token."""


def character_class(table: str) -> str:
    """`"0061-0063 00AD"` as the body of a regular-expression class."""
    return "".join(
        "-".join(re.escape(chr(int(end, 16))) for end in span.split("-")) for span in table.split()
    )


def stencil(text: str) -> str:
    """The text with one letter, digit and mark for all of those beyond ASCII, place by place.

    Patterns on it need not list the letters of all scripts.
    """
    if text.isascii():
        return text
    return STENCILLED.sub(lambda match: _stencil_of(match[0]), text)


@functools.cache
def _stencil_of(character: str) -> str:
    category = unicodedata.category(character)
    if ord(character) >= BASIC_PLANE_END or LETTER <= character <= UNKNOWN:
        return UNKNOWN
    if category in ("Lu", "Ll", "Lt", "Lm", "Lo"):
        return LETTER
    if category == "Nd":
        return DIGIT
    return MARK if _word_marks().match(character) else character


@functools.cache
def _word_marks() -> re.Pattern[str]:
    return re.compile(f"[{character_class(WORD_MARKS)}]")
