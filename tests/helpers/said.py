"""A caption, as what writes captions takes it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Said:
    """A caption."""

    text: str
    log_probability: float = -1.0
    confidence: float = 0.5
