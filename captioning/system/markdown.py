"""Names and captions in Markdown: letters, and nothing that they would mean there."""

import re


def as_plain_text(text: str) -> str:
    """Text as Markdown shows it letter by letter: no markup, HTML, link or cell comes of it."""
    active = r"[\\`*\[\]<>&|~@]|(?<!\w)_|_(?!\w)|:(?=//)|(?i:(?<=www)\.)"
    return re.sub(active, lambda found: f"&#{ord(found[0])};", " ".join(text.split()))


def as_code(text: str) -> str:
    """Text as a piece of code in a line of Markdown, whatever is in it."""
    text = " ".join(text.split())
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{space}{text}{space}{fence}"
