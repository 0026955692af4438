"""What `generate.py` is asked for: its options, their rules, and what they mean to a search."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from captioning.system.errors import UserError

if TYPE_CHECKING:
    from captioner import Captioner
    from captioning.decoding import SearchOptions, TokenRules

METHODS_OF = {
    "beam_size": ("beam", "diverse"),
    "length_penalty": ("beam", "diverse", "sample"),
    "groups": ("diverse",),
    "diversity_penalty": ("diverse",),
    "temperature": ("sample",),
    "top_k": ("sample",),
    "top_p": ("sample",),
    "min_p": ("sample",),
    "seed": ("sample",),
}
"""The methods for which an option means something."""
LEAST = {
    "num_captions": 1,
    "batch_size": 1,
    "beam_size": 0,
    "groups": 0,
    "limit": 0,
    "min_length": 0,
    "max_length": 0,
}
"""The smallest value of an option."""


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """What to caption, and how."""

    image: tuple[str, ...]
    """Pictures: files, folders, globs, URLs; several at once."""
    checkpoint: str = ""
    """Checkpoint folder or Hub repository ("" = the newest `best` under output-dir)."""
    revision: str = ""
    """Branch, tag or commit of the Hub repository."""
    output_dir: str = "checkpoints"
    """Where to look for the newest `best`."""
    method: Literal["greedy", "beam", "sample", "diverse"] = "beam"
    """How to search."""
    beam_size: int = 0
    """Beams (0 = as in training, or as many as captions are asked for)."""
    num_captions: int = 1
    """Captions of each picture."""
    length_penalty: float = 1.0
    """Above 1 favours longer captions, below 1 shorter ones."""
    groups: int = 0
    """Groups of a diverse beam search (0 = as many as beams)."""
    diversity_penalty: float = 0.5
    """How strongly groups of a diverse beam search avoid each other's words."""
    temperature: float = 1.0
    """Sampling: below 1 plainer, above 1 wilder."""
    top_k: int = 0
    """Sampling: from the k most probable tokens (0 = off)."""
    top_p: float = 1.0
    """Sampling: from the most probable tokens that sum to p (1 = off)."""
    min_p: float = 0.0
    """Sampling: from tokens at least this many times as probable as the best (0 = off)."""
    seed: int = 0
    """Sampling: the same seed gives the same captions."""
    min_length: int = 0
    """Tokens of a caption at least."""
    max_length: int = 0
    """Tokens of a caption at most, its end counted (0 = as in training, which cannot be passed)."""
    no_repeat_ngram: int = 0
    """No sequence of this many tokens comes twice (0 = off)."""
    repetition_penalty: float = 1.0
    """Above 1 disfavours tokens that were used already."""
    forbid: tuple[str, ...] = ()
    """Words, or beginnings of words, that captions never contain, as typed and capitalised."""
    force: tuple[str, ...] = ()
    """Words, or beginnings of words, that each caption contains."""
    attention: str = ""
    """PNG to draw: the (first) picture, and what each word of its caption looked at."""
    rollout: bool = False
    """Follow attention through the encoder too, where it has any (Abnar and Zuidema, 2020)."""
    font: str = ""
    """Font file of the attention's words, for scripts that DejaVu lacks, such as Chinese."""
    json: bool = False
    """Print a JSON line a picture."""
    limit: int = 0
    """Caption the first so many pictures only (0 = all)."""
    batch_size: int = 32
    """Pictures computed together; halved where memory does not suffice."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the model."""
    trust_remote_code: bool = False
    """Run code that the encoder's repository brings along. Only for repositories you trust."""
    timing: bool = False
    """Say on standard error where the time went."""


def check_options(options: GenerateOptions) -> None:
    """Raise `UserError` with all that can be told without a model."""
    problems = []
    for field in fields(options):
        flag, value = f"--{field.name.replace('_', '-')}", getattr(options, field.name)
        if field.name in LEAST and value < LEAST[field.name]:
            problems.append(f"{flag} is {value}; it must be at least {LEAST[field.name]}.")
        methods = METHODS_OF.get(field.name, (options.method,))
        if value != field.default and options.method not in methods:
            problems.append(
                f"{flag} means nothing to --method {options.method}; leave it out, or add "
                f"--method {methods[0]}."
            )
    if options.font and not Path(options.font).is_file():
        problems.append(f"--font is {options.font!r}; it must name a .ttf or .otf file.")
    if options.attention and Path(options.attention).suffix.lower() != ".png":
        problems.append(f"--attention is {options.attention!r}; it must name a .png file.")
    for name in ("rollout", "font"):
        if getattr(options, name) and not options.attention:
            problems.append(f"--{name} draws nothing by itself; add --attention FILE.png")
    words = {"forbid": options.forbid, "force": options.force}
    problems += [
        f"--{flag} is {word!r}; it must be a word, without spaces around it."
        for flag, many in words.items()
        for word in many
        if not word or word != word.strip()
    ]
    both = sorted(set(options.forbid) & set(options.force))
    problems += [f"{word!r} is both forced and forbidden; choose one." for word in both]
    if problems:
        raise UserError(*problems)


def search_options(options: GenerateOptions, trained_beam_size: int) -> "SearchOptions":
    """How to search, with what the checkpoint was trained with where the options are silent."""
    from captioning.decoding import SearchOptions, Warp

    groups = options.groups or 1
    wide_enough = max(trained_beam_size, options.num_captions)
    beam_size = options.beam_size or -(-wide_enough // groups) * groups
    return SearchOptions(
        method=options.method,
        num_captions=options.num_captions,
        beam_size=beam_size,
        length_penalty=options.length_penalty,
        groups=options.groups or beam_size,
        diversity_penalty=options.diversity_penalty,
        warp=Warp(
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            min_p=options.min_p,
        ),
        seed=options.seed,
    )


def token_rules(options: GenerateOptions, captioner: "Captioner") -> "TokenRules":
    """What captions may hold.

    A forbidden word is meant at the start of a caption and after a space, a forced one after a
    space; both in the tokens that the vocabulary spells it with.
    """
    tokenizer = captioner.pipeline.tokenizer
    usual = captioner.pipeline.rules()
    if max(options.max_length, options.min_length + 1) > usual.max_length:
        raise UserError(
            f"this model writes {usual.max_length} tokens at most, its end counted; lower "
            "--max-length and --min-length."
        )

    def ids(word: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(word)[1:-1])

    forms = {
        ids(start + form)
        for word in options.forbid
        for form in (word, word[:1].upper() + word[1:])
        for start in ("", " ")
    }
    return replace(
        usual,
        max_length=options.max_length or usual.max_length,
        min_length=options.min_length,
        no_repeat_ngram=options.no_repeat_ngram,
        repetition_penalty=options.repetition_penalty,
        forbidden_words=tuple(sorted(forms)),
        forced_words=tuple(dict.fromkeys(ids(f" {word}") for word in options.force)),
    )
