"""An exported folder: two graphs, the vocabulary, `captioner.json`, and the program that uses them.

    encoder.onnx     a picture's pixels -> what the decoder reads of it   (`graphs`)
    decoder.onnx     one step of captions
    tokenizer.json   the vocabulary
    captioner.json   what is done to a picture, how captions are searched, the graphs' axes
    caption.py       captions with the folder that it lies in
    export.json      of which checkpoint it is, versions, checksums; written last, by whoever asks

The page of `--format web` reads the same files but the program.
"""

import sys
from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image

from captioning.decoding import TokenRules
from captioning.export.checking import Said, Speaker
from captioning.export.graphs import DECODER, ENCODER, OPSET, axes_of, write_decoder, write_encoder
from captioning.export.quantising import MOST_CHANGE, quantise_graph
from captioning.export.resizing import how_resized
from captioning.system.errors import UserError
from captioning.system.files import read_json, write_json, write_text

TEMPLATES = Path(__file__).parent / "templates"
PROGRAM, SETTINGS = "caption.py", "captioner.json"
MOST_SAMPLES = 12
"""Runs of a graph by which it is measured what 8 bits do to products."""
MOST_LOSS = 0.1
"""Of the log-probability of a token, in the mean, where weights are rounded to 8 bits."""


def write_captioner(
    folder: Path,
    *,
    encoder: Any,
    model: Any,
    tokenizer_json: str,
    rules: TokenRules,
    early_stop: str,
    beam_size: int,
    length_penalty: float,
) -> None:
    """Write graphs, vocabulary and settings of an encoder and a caption model.

    Raises `UserError` where its pictures or its encoder cannot be had without torch.
    """
    preprocessing = how_resized(encoder.preprocessor, program(TEMPLATES / PROGRAM).pixels_of)
    height, width = encoder.preprocessor.size
    with torch.no_grad():
        pixels = torch.zeros(2, 3, height, width, dtype=torch.uint8)
        memory = model.encode_memory(encoder(pixels).float())
    write_encoder(encoder, model, folder / ENCODER)
    write_decoder(model.decoder, memory, folder / DECODER)
    write_text(folder / "tokenizer.json", tokenizer_json)
    search = {
        "beam_size": beam_size,
        "length_penalty": length_penalty,
        "max_length": rules.max_length,
        "start_id": rules.start_id,
        "end_id": rules.end_id,
        "min_length": rules.min_length,
        "no_repeat_ngram": rules.no_repeat_ngram,
        "early_stop": early_stop,
        "forbidden_ids": list(rules.forbidden_ids),
        "special_ids": sorted({*rules.forbidden_ids, rules.start_id, rules.end_id}),
    }
    graphs = {name: axes_of(folder / name) for name in (ENCODER, DECODER)}
    settings = {"preprocessing": preprocessing, "search": search, "opset": OPSET, "graphs": graphs}
    write_json(folder / SETTINGS, settings)
    note_sizes(folder)


def note_sizes(folder: Path) -> None:
    """Say in `captioner.json` how large the files are that captions need."""
    large = sorted((*folder.glob("*.onnx"), *folder.glob("*.wasm"), folder / "tokenizer.json"))
    sizes = {path.name: path.stat().st_size for path in large}
    write_json(folder / SETTINGS, {**read_json(folder / SETTINGS), "sizes": sizes})


def add_program(folder: Path) -> None:
    """Put `caption.py` into a folder."""
    write_text(folder / PROGRAM, (TEMPLATES / PROGRAM).read_text(encoding="utf-8"))


def program(path: Path) -> ModuleType:
    """`caption.py` as a module, without a trace in `sys.path`."""
    spec = spec_from_file_location("exported_caption", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their annotations
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    return module


def quantise(folder: Path, pictures: Sequence[Image.Image]) -> str:
    """Store the graphs of a folder in 8 bits; on pictures it is measured what suffers too much.

    Says what came of it. Raises `UserError` where captions became much less likely.
    """
    caption = program(TEMPLATES / PROGRAM)
    captioner = caption.Captioner(folder)
    how, search = captioner.settings["preprocessing"], captioner.settings["search"]
    shown = [caption.pixels_of(caption.load(picture), how) for picture in pictures]
    samples = {}
    for name in (ENCODER, DECODER):
        part = name.removesuffix(".onnx")
        recorder = _Recorder(getattr(captioner, part))
        setattr(captioner, part, recorder)
        samples[name] = recorder.feeds
    said = [caption.greedy(caption.State(captioner, pixels), search)[0] for pixels in shown]
    before, found = _megabytes(folder), []
    for name, feeds in samples.items():
        changes = quantise_graph(folder / name, feeds[:: max(1, len(feeds) // MOST_SAMPLES)])
        kept = sum(change > MOST_CHANGE for change in changes.values())
        found.append(f"{len(changes) - kept} of {len(changes)} products of {name} in integers")
    note_sizes(folder)
    loss = _loss(caption, caption.Captioner(folder), shown, said)
    if not loss <= MOST_LOSS:
        raise UserError(
            f"with --int8 the captions of the checkpoint lose {loss:.2f} of their log-probability "
            f"a token, more than {MOST_LOSS:g}, so the export is not kept. Leave --int8 out."
        )
    return (
        f"{', '.join(found)}; {before:.1f} MB became {_megabytes(folder):.1f} MB; captions lose "
        f"{loss:.3f} of their log-probability a token"
    )


def _loss(caption: ModuleType, captioner: Any, shown: Sequence[Any], said: Sequence[Any]) -> float:
    """How much less likely the tokens of captions have become, in the mean, each after those before
    it; below 0 where more."""
    start = captioner.settings["search"]["start_id"]
    lost = []
    for pixels, row in zip(shown, said, strict=True):
        state = caption.State(captioner, pixels)
        for before, token, sure in zip(
            (start, *row.tokens), row.tokens, row.log_probabilities, strict=False
        ):
            now = state.step(np.array([before]), np.array([0]))[0]
            lost.append(sure - float(now[token]))
    return float(np.mean(lost))


class _Recorder:
    """A session that keeps what it was given."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.feeds: list[dict[str, Any]] = []
        self.get_inputs, self.get_outputs = session.get_inputs, session.get_outputs

    def run(self, outputs: Any, feeds: dict[str, Any]) -> Any:
        self.feeds.append(dict(feeds))
        return self.session.run(outputs, feeds)


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.glob("*.onnx*")) / 1e6


def speaker_of_folder(folder: Path) -> Speaker:
    """How to caption with what was written: by its own program, where it has one."""
    path = folder / PROGRAM
    captioner = program(path if path.exists() else TEMPLATES / PROGRAM).Captioner(folder)

    def say(pictures: Sequence[Image.Image], beams: int) -> list[Said]:
        found = [captioner(picture, beam_size=beams)[0] for picture in pictures]
        return [Said(one.text, one.log_probability) for one in found]

    return say
