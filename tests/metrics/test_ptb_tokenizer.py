"""The PTB tokenizer against what CoreNLP was seen to give."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.metrics.ptb_tokenizer import DROPPED_TOKENS, tokenize_caption

SEEN = {
    # Punctuation goes, brackets and doubled marks stay.
    "A dog runs .": "a dog runs",
    "Look, a dog; it: runs!": "look a dog it runs",
    "end!! what?! no...": "end !! what ?! no",
    "(aside) [sic] {x}": "-lrb- aside -rrb- -lsb- sic -rsb- -lcb- x -rcb-",
    "a - b -- c --- d ----- e": "a b c d ----- e",
    # Contractions.
    "can't don’t cannot gonna it's they've": "ca n't do n't can not gon na it 's they 've",
    "don`t": "do n`t",
    "y'all o'clock O'Brien l'eau Hawai'i": "y' all o'clock o'brien l'eau hawai'i",
    "'tis 'Twas ’tis": "'t is 't was tis",
    "rock'n'roll 'em '90s '05 '051": "rock 'n' roll 'em '90s '05 051",
    "'hello' kids' “hi” “”": "hello kids hi ``''",
    # Abbreviations.
    "Mr. Smith, etc. vs. U.S. e.g. end.": "mr. smith etc. vs. u.s. e.g. end",
    "in. oz. ft. No. 5 no. five": "in oz ft. no. 5 no five",
    "Pa. pa. wash. Wash. MTG. mtg.": "pa. pa wash wash. mtg mtg.",
    "s. The dog s. Theo": "s the dog s. theo",
    "etc.x etc.xy aa., aa.!": "etc. x etc.xy aa. aa",
    # Compounds.
    "t-shirt a_b 21-year-old non-U.S. team U.S.-based": (
        "t-shirt a_b 21-year-old non-u.s. team u.s.-based"
    ),
    "and/or a/b/c/d AT&T at&t C++ C# A#": "and/or a/b/c / d at&t at & t c++ c# a #",
    "yes!no dog.A .hidden": "yes!no dog.a hidden",
    # Numbers.
    "3.5 1,000 5% $5 #1 10:30am 5ft. -5 1+1": "3.5 1,000 5 % $ 5 # 1 10:30 am 5ft -5 1 +1",
    "1 1/2 cups ½ cup": "1\xa01/2 cups 1/2 cup",
    "(555) 555-1234": "-lrb-555-rrb-\xa0555-1234",
    "£5 €5 ¢5 5° m²": "# 5 $ 5 cents 5 5 ° m ²",
    # Names of the net, markup, faces.
    "www.a.com http://ab.com/c, me@a.com @home #tag": (
        "www.a.com http://ab.com/c me@a.com @home #tag"
    ),
    "at http://ab.com/c\xa0": "at http://ab.com/c",
    "5.jpg 5.mp4 my-file.jpg": "5.jpg 5 mp4 my-file jpg",
    '<b> <a b="c d"> <3 &amp; &LT; &#39;': '<b> <a\xa0b="c\xa0d"> < 3 & < &#39;',
    ":-) =D :)x ^_^": ":--rrb- =d -rrb- x ^_^",
    # Other scripts.
    "café हिन्दी 日本語 Ελλάς": "café हिन्दी 日本語 ελλάς",
    "a😀b zero\u200bwidth soft\xadhyphen 「x」": "a b zero width softhyphen x",
    "": "",
    " \t\xa0": "",
}


@pytest.mark.parametrize("caption", SEEN, ids=ascii)
def test_tokens_are_those_that_java_gave(caption: str) -> None:
    assert tokenize_caption(caption) == SEEN[caption]


@pytest.mark.parametrize("kind", ["caption", "degraded", "adversarial"])
def test_all_shared_strings_are_tokenized_exactly(real_data: Path, kind: str) -> None:
    with gzip.open(real_data / "metrics/tokenization.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    wrong = [
        (row["text"], row["tokens"], tokenize_caption(row["text"]))
        for row in rows
        if row["kind"] == kind and tokenize_caption(row["text"]) != row["tokens"]
    ]
    assert wrong == []


@pytest.mark.parametrize("line_end", "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029", ids=ascii)
def test_what_java_takes_for_the_end_of_a_line_is_a_space(line_end: str) -> None:
    assert tokenize_caption(f"a dog{line_end}runs 5{line_end}") == "a dog runs 5"
    assert tokenize_caption(f"http://a.com/b{line_end}runs") == "http://a.com/b runs"


@given(st.text(alphabet=st.characters(codec="utf-16"), max_size=40))
def test_any_text_becomes_clean_tokens(caption: str) -> None:
    tokens = tokenize_caption(caption)
    assert tokens == "" or all(tokens.split(" "))
    assert not DROPPED_TOKENS & set(tokens.split(" "))
    assert len(tokens.splitlines()) <= 1


@given(st.lists(st.sampled_from(list(SEEN)), max_size=4))
def test_captions_do_not_change_each_other(captions: list[str]) -> None:
    assert [tokenize_caption(caption) for caption in captions] == [SEEN[c] for c in captions]


@given(st.lists(st.from_regex(r"[a-z]{1,8}", fullmatch=True), max_size=8))
def test_plain_words_with_spaces_between_are_the_same_joined_or_apart(words: list[str]) -> None:
    apart = [tokenize_caption(word) for word in words]
    assert tokenize_caption("  ".join(words)) == " ".join(apart)
