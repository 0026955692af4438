"""Penn Treebank tokens of a caption, as coco-caption counts them; no Java.

Equal to the tokenizer of pycocoevalcap 1.2 (Stanford CoreNLP 3.4.1 with `-preserveLines
-lowerCase`, then a list of punctuation removed). A token is the longest match of `ptb_rules`, the
first of the longest; a character that no rule matches is dropped. Characters that Java takes for
the end of a line, which there shift all later captions, are spaces here.
"""

import functools
import re
from collections.abc import Iterator, Sequence

from captioning.metrics.ptb_rules import SPLIT_WORDS, compiled_rules, stencil

DROPPED_TOKENS = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))
"""coco-caption's punctuation; it lists brackets too, but in upper case, so they stay."""
LINE_ENDS = re.compile("[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
REACHES_OVER_SPACES = re.compile(r"[\d<]|[^\S ]|(?<!\w)[A-Za-z]\. ")
"""Numbers, tags, odd spaces and initials are read with what follows the next space."""
END = "\n\n"
"""What the rules find behind the last character."""
CACHED_PIECES = 2**17


def tokenize_captions(captions: Sequence[str]) -> list[str]:
    """Each caption's PTB tokens (lower case, no punctuation) joined by one space."""
    return [tokenize_caption(caption) for caption in captions]


def tokenize_caption(caption: str) -> str:
    """The PTB tokens of a caption in lower case, without punctuation, joined by one space."""
    text = LINE_ENDS.sub(" ", caption)
    if REACHES_OVER_SPACES.search(text):
        return _tokens(text)
    return " ".join(filter(None, map(_tokens_of_piece, text.split(" "))))


@functools.lru_cache(CACHED_PIECES)
def _tokens_of_piece(piece: str) -> str:
    """The tokens of what stands between two spaces; few pieces make most captions."""
    lowered = piece.lower()
    if piece.isascii() and piece.isalpha() and lowered not in _split_words():
        return lowered
    return _tokens(piece)


@functools.cache
def _split_words() -> frozenset[str]:
    return frozenset(word.replace(" ", "") for word in SPLIT_WORDS)


def _tokens(text: str) -> str:
    # coco-caption strips the line before it parts the tokens, no-break spaces included.
    line = " ".join(filter(None, _lex(text))).rstrip()
    return " ".join(token for token in line.split(" ") if token not in DROPPED_TOKENS)


def _lex(text: str) -> Iterator[str]:
    """The tokens of a text in lower case, some of them empty, punctuation included."""
    rules = compiled_rules()
    outline = stencil(text) + END
    position = 0
    while position < len(text):
        best, longest = None, position
        for pattern, write in rules:
            match = pattern.match(outline, position)
            if match and match.end() > longest:
                best, longest = (match, write), match.end()
        if best is None:
            position += 1
            continue
        match, write = best
        yield write(text[position : match.end(1)]).lower()
        position = match.end(1)
