"""A captioner of random weights on a tiny encoder, without any training, that says real words.

Drawn captions (`--method sample`) differ from picture to picture; the likeliest hardly do.
"""

from dataclasses import fields, replace
from pathlib import Path

from captioner import Captioner
from captioning.decoding import TokenRules
from captioning.system.runtime import Runtime
from config import parse_config
from pipeline import CaptionPipeline
from tests.helpers.small_runs import arguments, write_encoder

SAID = ["a red ball lies on the grass.", "two dogs run beside a blue house.", "a cat sits."]


class WordPipeline(CaptionPipeline):
    """Writes whole words alone."""

    def rules(self) -> TokenRules:
        """The usual rules, without parts of words."""
        usual = super().rules()
        pieces = {i: self.tokenizer.decode([i]) for i in range(len(self.tokenizer))}
        parts = [i for i, one in pieces.items() if not (one[:1] == " " and one[1:].isalpha())]
        return replace(usual, forbidden_ids=tuple({*parts} - {self.tokenizer.end_id}))


def make_captioner(folder: Path) -> Captioner:
    """Always the same; its encoder lies under `folder`."""
    write_encoder(folder)
    config = parse_config(arguments(folder, MAX_SEQ_LEN=8), description="")
    usual = CaptionPipeline.from_settings(config, Runtime.create("cpu"), SAID * 4)
    pipeline = WordPipeline(**{one.name: getattr(usual, one.name) for one in fields(usual)})
    pipeline.encoder.eval()
    pipeline.model.eval()
    return Captioner(pipeline, config)
