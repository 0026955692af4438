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

import torch
from PIL import Image

from captioning.decoding import TokenRules
from captioning.export.checking import Said, Speaker
from captioning.export.graphs import DECODER, ENCODER, OPSET, axes_of, write_decoder, write_encoder
from captioning.export.resizing import how_resized
from captioning.system.files import write_json, write_text

TEMPLATES = Path(__file__).parent / "templates"
PROGRAM, SETTINGS = "caption.py", "captioner.json"


def write_captioner(
    folder: Path,
    *,
    encoder: Any,
    model: Any,
    tokenizer_json: str,
    rules: TokenRules,
    special_ids: Sequence[int],
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
        "forbidden_ids": list(rules.forbidden_ids),
        "special_ids": list(special_ids),
    }
    graphs = {name: axes_of(folder / name) for name in (ENCODER, DECODER)}
    settings = {"preprocessing": preprocessing, "search": search, "opset": OPSET, "graphs": graphs}
    write_json(folder / SETTINGS, settings)


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


def speaker_of_folder(folder: Path) -> Speaker:
    """How to caption with what was written: by its own program, where it has one."""
    path = folder / PROGRAM
    captioner = program(path if path.exists() else TEMPLATES / PROGRAM).Captioner(folder)

    def say(pictures: Sequence[Image.Image], beams: int) -> list[Said]:
        found = [captioner(picture, beam_size=beams)[0] for picture in pictures]
        return [Said(one.text, one.log_probability) for one in found]

    return say
