"""What the tokens of the PTB tokenizer look like, and how each is written.

The rules describe what the tokenizer of CoreNLP 3.4.1 was seen to do. They stand in the order that
decides between matches of one length, and are matched against a stencil of the text. Which
characters stand in a word, alone, or nowhere was measured on the whole basic plane. The tokenizer
knows Unicode as of 2012: letters that came later, which it drops, count as letters here.
"""

import functools
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass

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
SPLIT_WORDS = ("can not", "gon na", "got ta", "wan na", "gim me", "lem me")
"""Words that are written as one and counted as two."""
CLOSING_ABBREVIATIONS = """
al ala apr ariz assn aug bancorp bhd bldg blvd bros calif co colo conn corp cos ct dak dec ed\\.d
esq est etc ext feb fla fri ga inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon
mont neb nev nov oct okla penn ph\\.d plc rd rt sep sept seq sq sr sys tel tenn thu thurs tue tues
univ va vt wed wis wisc wyo
"""
"""Abbreviations with which a sentence may end."""
CAPITALISED_ABBREVIATIONS = "Ark Az Del Ill La Mass Miss Ore Pa Tex Wash"
"""More of them, which are no abbreviations in lower case."""
OPENING_ABBREVIATIONS = """
adj adm adv alex assoc asst atty attys ave brig capt cf cie cmdr col comdr cpl dept det dr drs elec
ens ft gen gov govs hon insp invt jos lieut lt maj messrs mlle mme mr mrs ms msgr mt natl pfc ph
pres prof profs pvt rep reps rev sen sens sfc sgt spc st ste supt supts treas vs wm
"""
"""Abbreviations that stand before a name or a number."""
NUMBER_ABBREVIATIONS = "art ca fig figs no nos op pp prop"
"""Those that keep their period before a number only."""
SENTENCE_STARTERS = """
A About According Additionally After An As At But Earlier He Her Here However If In It Last Many
More Now Once One Other Our She Since So Some Such That The Their Then There These They This We
What When While Yet You
"""
FILE_ENDINGS = """
bat bmp c cgi class cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov mp3 pdf php pl png
ppt ps py sql tar txt wav x xml zip
"""

ENTITIES = dict.fromkeys(("&md;", "&mdash;", "&ndash;"), "--") | {
    "&amp;": "&",
    "&lt;": "<",
    "&gt;": ">",
    "&nbsp;": "",
}
LOWER_CASE_ENTITIES = {"&quot;": "''", "&apos;": "'"}
ROUND_BRACKETS = {"(": "-lrb-", ")": "-rrb-"}
BRACKETS = ROUND_BRACKETS | {"[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
FRACTIONS = {"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}
CURRENCIES = {"£": "#", "¢": "cents", "\x80": "$", "¤": "$", "₠": "$", "€": "$"}
DASHES = dict.fromkeys("\x96\x97–—―", "--")
OTHERS = {"…": "...", '"': "''"}
WRITTEN_AS = BRACKETS | FRACTIONS | CURRENCIES | DASHES | OTHERS
"""Tokens that are replaced by others."""
QUOTES = {
    **dict.fromkeys("\x91‘‛‹", "`"),
    **dict.fromkeys("\x92’›", "'"),
    **dict.fromkeys("\x93“«", "``"),
    **dict.fromkeys("\x94”»", "''"),
}

PATTERNS = {
    "SPACE": "[ \t\xa0\u2000-\u200a\u3000]",
    "SPACE_OR_END": "[ \t\xa0\u2000-\u200a\u3000\n]",
    "APOSTROPHE": "(?:['\x92’]|(?i:&apos;))",
    "ANY_APOSTROPHE": "(?:['`\x91‘‛\x92’]|(?i:&apos;))",
    "HYPHEN": "[-_\u058a\u2010\u2011]",
    "AND": "(?:(?i:&amp;)|&)",
    "ACCENTED": "(?i:&[aeiou](?:acute|grave|uml);)",
    "LETTER": "(?:[{LETTERS}{MARKS}\xad]|{ACCENTED})",
    "WORD_CHARACTER": "(?:[{LETTERS}{DIGITS}{MARKS}\xad]|{ACCENTED})",
    # yes!no
    "WORD": "{LETTER}{WORD_CHARACTER}*(?:[.!?]{LETTER}{WORD_CHARACTER}*)*",
    # o'clock, 21-year-old, a_b
    "COMPOUND_PART": "(?:[dDoOlL]{ANY_APOSTROPHE}[{LETTERS}{DIGITS}])?[{LETTERS}{DIGITS}]+",
    "COMPOUND": "{COMPOUND_PART}(?:{HYPHEN}{COMPOUND_PART})*",
    # and/or
    "SLASHED_PART": "[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}",
    # U.S.-based, non-U.S., 3.5-inch
    "INITIALS": r"[A-Za-z](?:\.[A-Za-z])+",
    "DOTTED_COMPOUND": r"[A-Za-z0-9][A-Za-z0-9.,\xad]*(?:-(?:{INITIALS}\.|[A-Za-z0-9\xad]+))+",
    # AT&T, A+B
    "FIRM": "[A-Z]+(?:(?:\\+|{AND})[A-Z]+)+",
    "REDUCED_VERB": "{APOSTROPHE}(?:[msdMSD]|(?i:re|ve|ll))",
    "NUMBER": "(?:[{DIGITS}]*(?:[.:,\xad\u066b\u066c][{DIGITS}]+)+|[{DIGITS}]+)",
    "SHORT_NUMBER": "[{DIGITS}]{1,4}",
    "TAG_NAME": r"[A-Za-z][A-Za-z0-9_:.\-]*",
    "TAG_VALUE": r"""(?:'[^'\n]*'|"[^"\n]*")""",
    "TAG": r"<(?:[!?][A-Za-z-][^>\n]*|/{TAG_NAME}|"
    r"{TAG_NAME}(?: +{TAG_NAME}(?: *= *{TAG_VALUE})?)* */?) *>",
    "CLOSING_ABBREVIATION": "(?:(?i:{CLOSING_ABBREVIATIONS})|{CAPITALISED_ABBREVIATIONS}"
    "|[Pp][Pp]?t[ye][Ss]?)",
    "URL_BODY": r"""[^ \t\n"<>|(){}]+[^ \t\n"<>|.!?(){},\-]""",
    "PATH": r"""[^ \t\n"<>|()]+[^ \t\n"<>|.!?(){},\-]""",
    "SITE": r"""(?:(?i:www)\.(?:[^ \t\n"<>|.!?(){},]+\.)+[a-zA-Z]{2,4}"""
    r"""|(?:[^ \t\n"`'<>|.!?(){},-_$]+\.)+(?i:com|net|org|edu))""",
    "MAIL_CHARACTER": r"""[^ \t\n"<>|(){}\xa0]""",
    "MAIL_NAME": r"""[^ \t\n"<>|(){}\xa0.]+""",
    "SMILEY": r"[<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]]",
}
"""Parts of the patterns below; a name in braces stands for the pattern of that name."""


@dataclass(frozen=True)
class Rule:
    """One kind of token."""

    pattern: str
    """What it looks like."""
    ahead: str = ""
    """What must follow; it counts for the length of the match but stays in the text."""
    write: Callable[[str], str] = str
    """The token as it is written, before lower case."""


def _unhyphenated(token: str) -> str:
    """Without soft hyphens, and with plain ampersands."""
    return re.sub("(?i:&amp;)", "&", token.replace("\xad", ""))


def _replaced(token: str) -> str:
    return WRITTEN_AS.get(token, token)


def _entity(token: str) -> str:
    return LOWER_CASE_ENTITIES.get(token) or ENTITIES.get(token.lower(), token)


def _quotes(token: str) -> str:
    return "".join(QUOTES.get(character, character) for character in token)


def _plain_apostrophe(token: str) -> str:
    return _quotes(token.replace("&apos;", "'"))


def _joined(token: str) -> str:
    """With no-break spaces, at which BLEU and CIDEr split and ROUGE-L does not."""
    spaced = re.sub(PATTERNS["SPACE"], "\xa0", token)
    return "".join(ROUND_BRACKETS.get(character, character) for character in spaced)


def _dropped(token: str) -> str:
    return ""


def _hyphens(token: str) -> str:
    return "--" if 2 <= len(token) <= 4 else token


def _ellipsis(token: str) -> str:
    return "..."


MARKUP_RULES = (
    Rule("{TAG}", write=_joined),
    Rule("(?i:&(?:amp|lt|gt|quot|nbsp|apos|md|mdash|ndash);)", write=_entity),
    Rule("(?i:&(?:HT|TL|UR|LR|QC|QL|QR|odq|cdq|#[0-9]+);)"),
)
WORD_RULES = (
    Rule("{WORD}", ahead="{REDUCED_VERB}", write=_unhyphenated),
    Rule(
        "[A-Za-z\xad]*[A-MO-Za-mo-z]\xad*",
        ahead="[nN]{ANY_APOSTROPHE}[tT]",
        write=_unhyphenated,
    ),
    Rule("{WORD}", write=_unhyphenated),
    Rule("{APOSTROPHE}[nN]{APOSTROPHE}"),  # rock 'n' roll
    Rule("{APOSTROPHE}[nN]"),
    Rule("'[tT]", ahead="(?i:is|was)"),
    Rule("[lLdDjJ]{APOSTROPHE}"),
    Rule("(?:Dunkin|[Ss]omethin|(?i:ol)){APOSTROPHE}"),
    Rule("{APOSTROPHE}(?:(?i:em|till?|cause)|[2-9]0[sS])"),
    Rule("[cC]{APOSTROPHE}(?i:mon|est)"),
    Rule("[A-HJ-XZn]{ANY_APOSTROPHE}[{LETTERS}]{2}[{LETTERS}]*"),  # O'Brien
    Rule("[{LETTERS}]+[aeiouyAEIOUY]{ANY_APOSTROPHE}[aeiouA-Z][{LETTERS}]*"),  # Hawai'i
    Rule("[Ss]{APOSTROPHE}mores|[Nn]or{APOSTROPHE}easter|[Cc]ont{APOSTROPHE}d\\."),
    Rule("(?i:e{APOSTROPHE}er|li{APOSTROPHE}l)|[Oo]{APOSTROPHE}o"),
    Rule("[yY]{APOSTROPHE}", ahead="[{LETTERS}]"),
    Rule("{REDUCED_VERB}", ahead="[^A-Za-z]", write=_plain_apostrophe),
    Rule("'", ahead=r"[A-Za-z][^ \t\n\xa0]"),
    Rule("{REDUCED_VERB}", write=_plain_apostrophe),
    Rule("[nN]{ANY_APOSTROPHE}[tT]", ahead="[^A-Za-z]", write=_plain_apostrophe),
    Rule("{APOSTROPHE}[0-9]{2}", ahead="{SPACE_OR_END}"),
)
NAME_RULES = (
    Rule("(?i:https?)://{URL_BODY}"),
    Rule("{SITE}"),
    Rule("{SITE}/{PATH}"),
    Rule(
        r"(?:(?i:&lt;)|<)?[a-zA-Z0-9]{MAIL_CHARACTER}*@(?:{MAIL_NAME}\.)*{MAIL_NAME}(?:(?i:&gt;)|>)?"
    ),
    Rule("@[a-zA-Z_][a-zA-Z_0-9]*"),
    Rule("#{LETTER}+"),
    Rule(r"[cC]\+\+|[cCfF]#"),
    Rule(r"-(?i:[lr][rcs]b)-|C\.D\.s|pro-|anti-|S{AND}P-500|S{AND}Ls", write=_unhyphenated),
)
NUMBER_RULES = (
    Rule("[{DIGITS}]{1,2}[-/][{DIGITS}]{1,2}[-/][{DIGITS}]{2,4}"),
    Rule("[-+]?{NUMBER}", write=_unhyphenated),
    Rule("[\u207a\u207b\u208a\u208b]?(?:[\u2070\xb9\xb2\xb3\u2074-\u2079]+|[\u2080-\u2089]+)"),
    Rule("(?:{SHORT_NUMBER}[- \xa0])?{SHORT_NUMBER}(?:\\\\?/|\u2044){SHORT_NUMBER}", write=_joined),
    Rule(r"\([0-9]{2,3}\)[ \xa0]?[0-9]{3,4}[- \xa0]?[0-9]{3,5}", write=_joined),
    Rule(
        r"(?:\+\+?)?(?:[0-9]{2,4}[- \xa0])?[0-9]{2,4}[- \xa0][0-9]{3,4}[- \xa0]?[0-9]{3,5}",
        write=_joined,
    ),
    Rule(r"(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}"),
    Rule(r"[A-Z]*\$"),
)
PERIOD_RULES = (
    Rule(r"[A-Za-z](?:\.[A-Za-z])*\."),
    Rule(
        "[A-Za-z]",
        ahead=r"\.{SPACE_OR_END}+(?:{SENTENCE_STARTERS}|M[rs]\.|{TAG}){SPACE_OR_END}",
    ),
    Rule(r"{CLOSING_ABBREVIATION}\.", ahead="(?s:..)"),
    Rule(r"{CLOSING_ABBREVIATION}\."),
    Rule(r"(?:(?i:{OPENING_ABBREVIATIONS})|[Mm][ft][Gg])\."),
    Rule(r"(?i:{NUMBER_ABBREVIATIONS})\.", ahead="{SPACE}?[{DIGITS}]"),
    *(
        Rule(pattern + r"\.", ahead="[,;:\u3001]", write=_unhyphenated)
        for pattern in ("{WORD}", "{COMPOUND}", "{DOTTED_COMPOUND}", "{FIRM}")
    ),
    Rule(
        r"(?:[0-9]|{LETTER})+(?:\.(?:[0-9]|{LETTER})+)*\.(?i:{FILE_ENDINGS})",
        ahead=r"(?:{SPACE_OR_END}|[.?!,])",
    ),
)
COMPOUND_RULES = (
    Rule("{SLASHED_PART}(?:\\\\?/{SLASHED_PART}){1,2}"),
    Rule("{COMPOUND}", write=_unhyphenated),
    Rule("{DOTTED_COMPOUND}", write=_unhyphenated),
    Rule("{FIRM}", write=_unhyphenated),
)
SYMBOL_RULES = (
    Rule("[\xbc-\xbe\u2153-\u215e\xa2-\xa4\x80\u20a0\u20ac]", write=_replaced),
    Rule("{SMILEY}", ahead="[^A-Za-z0-9]", write=_joined),
    Rule("[-^x=~<>']_[-^x=~<>']"),
    Rule(r"\([-^x=~<>'][_.]?[-^x=~<>']\)", write=_joined),
    Rule(r"\([\^x=~<>']-[\^x=~<>'`]\)", write=_joined),
    Rule(r"[()\[\]{}]", write=_replaced),
    Rule("-+", write=_hyphens),
    Rule(r"\.\.\.+|\.(?:[ \xa0]\.){2,}", write=_ellipsis),
    Rule('[.,:"\u2026\x96\x97\u2013-\u2015]', write=_replaced),
    Rule(r"@+|#+|_+|\*+|(?:\\\*){1,3}|<<|>>|[?!]+|[/+]"),
    Rule("''|``"),
    Rule("[`\x91-\x94\u2018-\u201f‹›«»]{1,2}", write=_quotes),
    Rule("[{SYMBOLS}]"),
    Rule("{SPACE}+", write=_dropped),
)


@functools.cache
def compiled_rules() -> tuple[tuple[re.Pattern[str], Callable[[str], str]], ...]:
    """The rules as pairs of a pattern, whose group 1 is the token, and the way to write it."""
    names = {
        "LETTERS": f"A-Za-z{LETTER}",
        "DIGITS": f"0-9{DIGIT}",
        "MARKS": MARK,
        "SYMBOLS": _character_class(LONE_SYMBOLS),
        "CLOSING_ABBREVIATIONS": _any_of(CLOSING_ABBREVIATIONS),
        "CAPITALISED_ABBREVIATIONS": _any_capitalised(CAPITALISED_ABBREVIATIONS),
        "OPENING_ABBREVIATIONS": _any_of(OPENING_ABBREVIATIONS),
        "NUMBER_ABBREVIATIONS": _any_of(NUMBER_ABBREVIATIONS),
        "SENTENCE_STARTERS": _any_capitalised(SENTENCE_STARTERS),
        "FILE_ENDINGS": _any_of(FILE_ENDINGS),
    }
    for name, pattern in PATTERNS.items():
        names[name] = _expand(pattern, names)
    split_words = (word.split() for word in SPLIT_WORDS)
    rules = (
        *(Rule(f"(?i:{first})", ahead=f"(?i:{second})") for first, second in split_words),
        *MARKUP_RULES,
        *WORD_RULES,
        *NAME_RULES,
        *NUMBER_RULES,
        *PERIOD_RULES,
        *COMPOUND_RULES,
        *SYMBOL_RULES,
    )
    return tuple(
        (re.compile(_expand(f"({rule.pattern}){rule.ahead}", names)), rule.write) for rule in rules
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
    return re.compile(f"[{_character_class(WORD_MARKS)}]")


def _character_class(table: str) -> str:
    """`"0061-0063 00AD"` as the body of a regular-expression class."""
    return "".join(
        "-".join(re.escape(chr(int(end, 16))) for end in span.split("-")) for span in table.split()
    )


def _expand(pattern: str, names: Mapping[str, str]) -> str:
    return re.sub(r"\{([A-Z_]+)\}", lambda match: names[match[1]], pattern)


def _any_of(words: str) -> str:
    """A pattern for any of the words, which prefers the longer ones."""
    return "|".join(sorted(words.split(), key=len, reverse=True))


def _any_capitalised(words: str) -> str:
    return "|".join(f"{word[0]}(?i:{word[1:]})" for word in _any_of(words).split("|"))
