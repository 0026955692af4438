"""What the tokens of the PTB tokenizer look like, and how each is written.

The rules describe what the tokenizer of CoreNLP 3.4.1 was seen to do. They stand in the order that
decides between matches of one length, and are matched against a stencil (see `ptb_characters`).
"""

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from captioning.metrics.ptb_characters import DIGIT, LETTER, LONE_SYMBOLS, MARK, character_class

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
        "SYMBOLS": character_class(LONE_SYMBOLS),
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


def _expand(pattern: str, names: Mapping[str, str]) -> str:
    return re.sub(r"\{([A-Z_]+)\}", lambda match: names[match[1]], pattern)


def _any_of(words: str) -> str:
    """A pattern for any of the words, which prefers the longer ones."""
    return "|".join(sorted(words.split(), key=len, reverse=True))


def _any_capitalised(words: str) -> str:
    return "|".join(f"{word[0]}(?i:{word[1:]})" for word in _any_of(words).split("|"))
