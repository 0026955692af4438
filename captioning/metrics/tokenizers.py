"""Which tokens captions are scored by: those that fit the script of the references.

    ptb      coco-caption's own (`ptb_tokenizer`), for every script whose words stand between spaces
             and whose punctuation is that of English: Latin, Cyrillic, Greek
    script   a character is a token where words are written without spaces (Han, kana, Thai, Khmer,
             Lao, Myanmar, Tibetan), as in sacreBLEU's `zh` and `ja` without a dictionary; what
             stands between is read by PTB's rules, and no punctuation of any script is a token
    spaces   what stands between spaces, as it is: for captions that were segmented beforehand

`auto` looks at the letters of all references. METEOR and SPICE know English alone.

    tokenizer = choose_tokenizer("auto", references)
    tokenizer.name, tokenizer(["一只狗在跑。"])      "script", ["一 只 狗 在 跑"]
"""

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from captioning.metrics.ptb_tokenizer import tokenize_caption

TokenizerName = Literal["auto", "ptb", "script", "spaces"]
SHARE_OF_OTHER_SCRIPTS = 0.05
"""Of the letters, from which on `auto` takes `script`; below, a foreign word stays PTB's."""
PTB_SCRIPTS = ("LATIN", "CYRILLIC", "GREEK", "MODIFIER", "MICRO", "MASCULINE", "FEMININE")
"""First words of the Unicode names of letters whose words PTB's rules find."""
UNSPACED = (
    "\u0e00-\u0e3e\u0e40-\u0eff\u0f00-\u109f\u1780-\u17ff\u1950-\u1aaf\u1b00-\u1b7f"  # to Balinese
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u302f\u3031-\u303c\u3041-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\ua4cf\ua980-\ua9ff\uaa60-\uaadf\uf900-\ufaff"
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
"""Scripts without spaces between words: Thai to Myanmar, Khmer, Tai, Balinese, Han, kana, Yi."""
STACKING = "\u1039\u17d2\u1a60\ua9c0\u1b44"
"""Signs that put the next consonant under this one."""
MARK_RANGES = ((0xE00, 0x1100), (0x1780, 0x1B80), (0x302A, 0x309B), (0xA980, 0xAAE0))
PTB_BRACKETS = frozenset("-lrb- -rrb- -lsb- -rsb- -lcb- -rcb-".split())
JOINED = "\ufe00-\ufe0f\U000e0100-\U000e01ef\u200d"
"""Variation selectors and the joiner, which belong to the character before."""


@dataclass(frozen=True)
class CaptionTokenizer:
    """Captions -> tokens joined by one space."""

    name: str
    description: str
    """For a protocol: what a reader must know to compare the numbers."""
    tokenize: Callable[[str], str]

    def __call__(self, captions: Sequence[str]) -> list[str]:
        """The tokens of each caption."""
        return [self.tokenize(caption) for caption in captions]


def choose_tokenizer(name: str, references: Iterable[Sequence[str]]) -> CaptionTokenizer:
    """The tokenizer of a name; for "auto" that which fits the references of all pictures."""
    if name == "auto":
        name = fitting_name(references)
    return TOKENIZERS[name]


def fitting_name(references: Iterable[Sequence[str]]) -> str:
    """`ptb`, or `script` where letters of other scripts are more than a few."""
    counts: Counter[str] = Counter()
    for texts in references:
        for text in texts:
            if not text.isascii():
                counts.update(text)
            else:
                counts["a"] += sum(map(len, text.split()))
    letters = {char: times for char, times in counts.items() if char.isalpha()}
    others = sum(times for char, times in letters.items() if not _is_ptb_letter(char))
    return "script" if others > SHARE_OF_OTHER_SCRIPTS * sum(letters.values()) else "ptb"


def tokenize_by_script(caption: str) -> str:
    """Characters where words have no spaces between them, PTB's words elsewhere.

    Full and half widths, and ways to compose a letter, are made one (NFKC).
    """
    text = unicodedata.normalize("NFKC", caption).replace("\u200b", " ")
    tokens = []
    for part in _clusters().split(text):
        if _clusters().fullmatch(part):
            tokens.append(part)
        else:
            tokens += tokenize_caption(part).split()
    return " ".join(token for token in tokens if not _is_punctuation(token))


def tokenize_at_spaces(caption: str) -> str:
    """What stands between white space, as it is."""
    return " ".join(caption.split())


@functools.cache
def _clusters() -> re.Pattern[str]:
    """A letter of a script without spaces, with all that is written over and under it."""
    marks = "".join(
        chr(code)
        for first, end in MARK_RANGES
        for code in range(first, end)
        if unicodedata.category(chr(code)).startswith("M")
    )
    of_base = f"(?:[{STACKING}][{UNSPACED}]|[{marks}{JOINED}])*"
    return re.compile(f"([{UNSPACED}]{of_base})")


@functools.lru_cache(maxsize=2**16)
def _is_ptb_letter(char: str) -> bool:
    return unicodedata.name(char, "").partition(" ")[0] in PTB_SCRIPTS


@functools.lru_cache(maxsize=2**16)
def _is_punctuation(token: str) -> bool:
    return token in PTB_BRACKETS or all(unicodedata.category(c).startswith("P") for c in token)


TOKENIZERS = {
    one.name: one
    for one in (
        CaptionTokenizer("ptb", "PTB (CoreNLP 3.4.1's rules, as coco-caption)", tokenize_caption),
        CaptionTokenizer(
            "script",
            "by script: characters where words have no spaces between them, else PTB's words; no "
            "punctuation",
            tokenize_by_script,
        ),
        CaptionTokenizer("spaces", "what stands between spaces, as it is", tokenize_at_spaces),
    )
}
"""By name."""
