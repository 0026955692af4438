"""A GPT-2 in a folder, as `save_pretrained` leaves it: a language model, or a ViT-GPT2 captioner.

Small files are read and checked when it is opened; weights when they are filled into a decoder.
Safetensors only: nothing is unpickled, and no code of a repository is run.
"""

import hashlib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from captioning.gpt2.architecture import MODEL_TYPE, READ, GPT2Architecture
from captioning.gpt2.generation import Generation, read_generation
from captioning.gpt2.names import gpt2_names, gpt2_shapes, turned
from captioning.gpt2.vocabulary import Vocabulary, read_vocabulary
from captioning.system.errors import UserError
from captioning.system.files import read_json, sha256_of
from captioning.system.folders import EXPORT_MANIFEST, instead_of
from captioning.system.processes import is_main_process
from captioning.system.tensors import Shapes, read_some, tensor_shapes
from captioning.vision.loading import shard_names

CAPTIONER_TYPE = "vision-encoder-decoder"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PROJECTION = "enc_to_dec_proj"
"""The linear layer between encoder and decoder of a ViT-GPT2, where their widths differ."""
OUTPUT = "lm_head.weight"
MASKS = re.compile(r"h\.\d+\.(attn|crossattention)\.(bias|masked_bias)")
"""Constants that older versions saved with the weights."""


@dataclass(frozen=True)
class GPT2:
    """A language model of the GPT-2 family, whose weights are not read yet."""

    name: str
    architecture: GPT2Architecture
    vocabulary: Vocabulary
    places: Mapping[str, tuple[Path, str]]
    """The file of each weight, and its name there."""
    shapes: Shapes
    prefix: str
    """What stands before GPT-2's own names in the files."""

    def fill(self, weights: Mapping[str, Tensor], *, has_cross_attention: bool) -> None:
        """Fill the weights of a `TransformerDecoder`, by its names, in place; of a language model
        all but cross-attention. Raises `UserError` where names, shapes or numbers do not fit."""
        names = gpt2_names(self.architecture.layers, has_cross_attention=has_cross_attention)
        self._fill(
            {
                self.prefix + theirs: turned(ours, weights[ours].detach())
                for ours, theirs in names.items()
            }
        )

    def fill_projection(self, weights: Mapping[str, Tensor]) -> None:
        """Fill the weights of the linear layer before cross-attention; there may be none."""
        expected = {f"{PROJECTION}.{name}": weight.detach() for name, weight in weights.items()}
        _check_shapes(self.shapes, {k: tuple(one.shape) for k, one in expected.items()}, self.name)
        self._fill(expected)

    def sha256(self) -> str:
        """The hash of its weights: of their file, or of the hashes of several."""
        hashes = [sha256_of(path) for path in sorted({path for path, _ in self.places.values()})]
        whole = hashlib.sha256("".join(hashes).encode()).hexdigest()
        return hashes[0] if len(hashes) == 1 else whole

    def _fill(self, expected: Mapping[str, Tensor]) -> None:
        for path in sorted({self.places[name][0] for name in expected}):
            of_file = {
                self.places[name][1]: weight
                for name, weight in expected.items()
                if self.places[name][0] == path
            }
            for name, weight in read_some(path, of_file):
                of_file[name].copy_(weight)


@dataclass(frozen=True)
class ViTGPT2(GPT2):
    """A captioner of a vision encoder and a GPT-2 that reads it."""

    generation: Generation

    @property
    def settings(self) -> dict[str, Any]:
        """What it is, and how it captions, by the names of our settings."""
        return {
            "ENCODER_MODEL_NAME": self.name,
            "BEAM_SIZE": self.generation.beam_size,
            "LENGTH_PENALTY": self.generation.length_penalty,
            "MAX_SEQ_LEN": self.generation.max_length,
            "PROJECTION_DIM": self.architecture.dim,
            "DECODER_EMBED_DIM": self.architecture.dim,
            "DECODER_LAYERS": self.architecture.layers,
            "DECODER_HEADS": self.architecture.heads,
            "DECODER_FF_DIM": self.architecture.ff_dim,
            "VOCAB_SIZE": self.architecture.vocab_size,
        }


def is_foreign(folder: Path) -> bool:
    """Whether a folder holds a model of transformers and no checkpoint of ours."""
    return (folder / "config.json").is_file() and not (folder / "checkpoint.json").is_file()


def has_weights(folder: Path) -> bool:
    """Whether there are weights that are read."""
    return any((folder / name).is_file() for name in (WEIGHTS, INDEX))


def open_captioner(folder: Path, name: str) -> ViTGPT2:
    """The ViT-GPT2 in a folder, called `name` in messages. Raises `UserError` where it is none.

    What it asks for, and is not followed here, is said on standard error.
    """
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind == MODEL_TYPE:
        raise UserError(
            f"{name} is a language model, which reads no pictures. Train it to, with: python "
            f"train.py --DECODER_MODEL_NAME {name}"
        )
    if kind != CAPTIONER_TYPE and (folder / EXPORT_MANIFEST).is_file():
        raise UserError(f"{name} is not a checkpoint. {instead_of(folder)}")
    parts = [config.get(part) for part in ("encoder", "decoder")]
    if kind != CAPTIONER_TYPE or not all(isinstance(part, dict) for part in parts):
        raise UserError(
            f"{name} is a model of type {kind!r:.80}. Captioners trained here are taken, and "
            f"transformers' {CAPTIONER_TYPE} with a decoder of the GPT-2 family. Any captioner of "
            f"transformers can be scored with: python evaluate.py --model {name}"
        )
    decoder: dict[str, Any] = config["decoder"]
    if decoder.get("model_type") != MODEL_TYPE:
        raise UserError(
            f"{name} has a decoder of type {decoder.get('model_type')!r:.80}. {READ}; as it is, it "
            f"can be scored with: python evaluate.py --model {name}"
        )
    architecture = replace(GPT2Architecture.from_values(decoder, name), is_plainly_projected=True)
    generation = read_generation(folder, name, positions=architecture.max_length)
    if generation.not_followed and is_main_process():
        asked = ", ".join(generation.not_followed)
        print(f"{name} asks for what is not followed here: {asked}.", file=sys.stderr)
    vocabulary = read_vocabulary(
        folder, name, start_id=generation.start_id, end_id=generation.end_id
    )
    found = _opened(folder, name, architecture, vocabulary, ("decoder.transformer.",))
    return ViTGPT2(**vars(found), generation=generation)


def open_language_model(folder: Path, name: str) -> GPT2:
    """The GPT-2 in a folder, called `name` in messages. Raises `UserError` where it is none.

    What stands between its texts, <|endoftext|>, begins and ends captions.
    """
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else None
    if config is None:
        raise UserError(
            f"{name} has no config.json; DECODER_MODEL_NAME takes a language model of the Hub, "
            "such as distilgpt2, or a folder made by save_pretrained."
        )
    if config.get("model_type") == CAPTIONER_TYPE:
        raise UserError(
            f"{name} is a whole captioner, and DECODER_MODEL_NAME takes a language model. Begin "
            f"with all of it: --INIT_CHECKPOINT_PATH {name}"
        )
    architecture = GPT2Architecture.from_values(config, name)
    end = config.get("eos_token_id", 50_256)
    if type(end) is not int or not 0 <= end < architecture.vocab_size:
        raise UserError(
            f"{name}: its config has the eos_token_id {end!r:.40}; it must be the entry that ends "
            f"a text, from 0 to {architecture.vocab_size - 1:,}."
        )
    vocabulary = read_vocabulary(folder, name, start_id=end, end_id=end)
    return _opened(folder, name, architecture, vocabulary, ("transformer.", ""), is_alone=True)


def _opened(
    folder: Path,
    name: str,
    architecture: GPT2Architecture,
    vocabulary: Vocabulary,
    prefixes: tuple[str, ...],
    *,
    is_alone: bool = False,
) -> GPT2:
    """The files of the weights, looked through; `prefixes` may stand before GPT-2's names."""
    if len(vocabulary.entries) > architecture.vocab_size:
        raise UserError(
            f"{name} has a vocabulary of {len(vocabulary.entries):,} entries, and its decoder "
            f"embeds {architecture.vocab_size:,}. Take tokenizer and weights of one model."
        )
    found = [
        (path, key, shape)
        for path in _weight_files(folder, name)
        for key, shape in tensor_shapes(path).items()
    ]
    places = {key: (path, key) for path, key, _ in found}
    shapes = {key: shape for _, key, shape in found}
    prefix = next((one for one in prefixes if f"{one}h.0.ln_1.weight" in shapes), prefixes[0])
    embedding, output = prefix + "wte.weight", prefix.removesuffix("transformer.") + OUTPUT
    if embedding in shapes:
        _check_tied(places, embedding, output, name)
    elif output in shapes:  # one of two names is saved, and not always the same
        places[embedding], shapes[embedding] = places[output], shapes[output]
    known = gpt2_shapes(architecture, has_cross_attention=not is_alone)
    _check_shapes(shapes, {prefix + key: shape for key, shape in known.items()}, name)
    for key in sorted(shapes):
        inner = key.removeprefix(prefix)
        is_inside = key.startswith(prefix) and inner.startswith(("h.", "wte.", "wpe.", "ln_f."))
        if is_inside and not (inner in known or MASKS.fullmatch(inner)):
            raise UserError(
                f"{name} has the weight {key}, which no GPT-2 of its config has, so that its "
                "captions would not be its own. Merge adapters first, or take another model."
            )
    return GPT2(name, architecture, vocabulary, places, shapes, prefix)


def _check_shapes(found: Shapes, expected: Shapes, name: str) -> None:
    """Raise `UserError` where weights are missing, or have other shapes than a config says: so
    nothing is built that is larger than its files."""
    problems = [f"it lacks {key}" for key in expected if key not in found]
    problems += [
        f"{key} is {found[key]}, and its config makes it {shape}"
        for key, shape in expected.items()
        if key in found and found[key] != shape
    ]
    if problems:
        more = f" (and {len(problems) - 2:,} more)" if len(problems) > 2 else ""
        raise UserError(
            f"{name} has weights that do not fit its config: {'; '.join(problems[:2])}{more}. Take "
            "config.json and weights of one model."
        )


def _weight_files(folder: Path, name: str) -> list[Path]:
    """The files with weights."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return [folder / shard for shard in shard_names(folder / INDEX)]
    raise UserError(
        f"{name} has no weights in safetensors format, and pickled ones are never opened. Convert "
        "them (https://huggingface.co/docs/safetensors/convert-weights) or give the revision that "
        "holds converted ones, such as refs/pr/NUMBER."
    )


def _check_tied(
    places: Mapping[str, tuple[Path, str]], embedding: str, output: str, name: str
) -> None:
    """Raise `UserError` where words are chosen by another matrix than they are read by."""
    if output not in places:
        return
    first, second = (next(read_some(*_of(places[key])))[1] for key in (embedding, output))
    if first.shape != second.shape or not first.equal(second):
        raise UserError(
            f"{name} chooses words by another matrix ({output}) than it reads them by "
            f"({embedding}); only decoders with one for both are read."
        )


def _of(place: tuple[Path, str]) -> tuple[Path, list[str]]:
    return place[0], [place[1]]
