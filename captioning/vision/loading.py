"""Vision towers of the Hugging Face Hub: the part of a model that reads pictures, alone in memory.

Reads a Hub repository or a local folder, safetensors only; nothing is unpickled. A tower is found
by looking: at the config for the part that describes vision, at the library for the class that
belongs to it, at the checkpoint's own names for the prefix under which the tower lies there.
"""

import importlib
import inspect
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from captioning.system.errors import UserError
from captioning.system.files import read_json
from captioning.system.tensors import Shapes, built_within, tensor_shapes
from captioning.vision.limits import check_config, in_words

SETTING = "--ENCODER_MODEL_NAME"
SPARE_NUMBERS = 10**6
CONVERSION_BOT, CONVERSION_TITLE = "SFconvertbot", "Adding `safetensors` variant of this model"
"""Who converts pickled weights on the Hub, and what its pull requests are called."""
CODE_KEYS = {
    *("attn_implementation", "_attn_implementation_internal", "transformers_weights"),
    *("experts_implementation", "_experts_implementation_internal", "use_kernels"),
}
"""What a config says of how it is computed, and of other files; that is for us to say."""


@dataclass(frozen=True)
class LoadedTower:
    """A vision tower with its weights."""

    model: nn.Module
    missing: frozenset[str]
    """Names of weights that the checkpoint does not hold; they are random."""
    revision: str
    """As it was asked for, or of the converted weights that were found instead."""


def load_config(name: str, *, revision: str = "", trust_remote_code: bool = False) -> Any:
    """The config of the vision part of a Hub model or folder; `UserError` where it has none."""
    from transformers import AutoConfig

    if _looks_local(name) and not Path(name, "config.json").is_file():
        raise UserError(
            f"{name} is no folder with a config.json; {SETTING} takes a model of the Hub, such as "
            "openai/clip-vit-base-patch32, or a folder made by save_pretrained."
        )
    try:
        if file := _found_file(name, "config.json", revision):
            check_config(read_json(file), name)
        config = AutoConfig.from_pretrained(
            name, revision=revision or None, trust_remote_code=trust_remote_code
        )
    except UserError:
        raise
    except Exception as error:  # of the Hub, or whatever the library stumbles over in a config
        raise _explained(name, error) from None
    return _vision_part(without_code(config))


def commit_of(name: str, revision: str = "") -> str:
    """The commit that a revision of a repository stands for, so that all files are read from one
    state of it and what was read can be had again; "" for a folder."""
    if _looks_local(name):
        return ""
    try:
        file = _found_file(name, "config.json", revision)
    except Exception as error:  # of the Hub
        raise _explained(name, error) from None
    return file.parent.name if file else revision  # the Hub's cache has a folder for each commit


def without_code(config: Any) -> Any:
    """A config, and those in it, without what would have kernels of the Hub fetched and run, or
    other files read as weights."""
    from transformers import PreTrainedConfig

    for part in vars(config).values():
        if isinstance(part, PreTrainedConfig):
            without_code(part)
    for key in vars(config).keys() & CODE_KEYS:
        setattr(config, key, None)
    return config


def load_tower(
    name: str, config: Any, *, revision: str = "", trust_remote_code: bool = False
) -> LoadedTower:
    """The tower that `config` (of `load_config`) describes, with the weights of `name`, float32."""
    tower_class = find_class(config, name, trust_remote_code=trust_remote_code)
    try:
        try:
            model, info = _read_weights(tower_class, name, config, revision)
        except OSError as error:
            is_elsewhere = not _looks_local(name) and "safetensors" in str(error)
            found = converted_revision(name) if is_elsewhere else ""
            if not found:
                raise
            revision = commit_of(name, found)
            config = load_config(name, revision=revision, trust_remote_code=trust_remote_code)
            model, info = _read_weights(tower_class, name, config, revision)
        prefix = _prefix(set(info["missing_keys"]), set(info["unexpected_keys"]))
        if prefix:
            mapping = {f"^{re.escape(prefix)}": ""}
            model, info = _read_weights(tower_class, name, config, revision, key_mapping=mapping)
    except UserError:
        raise
    except Exception as error:  # of the Hub, or whatever the library stumbles over in the files
        raise _explained(name, error) from None
    return LoadedTower(model, frozenset(info["missing_keys"]), revision)


def build_tower(
    config_values: dict[str, Any], *, seed: int = 0, weights: Shapes | None = None
) -> nn.Module:
    """The tower that a config's values describe, with random weights made from `seed`.

    `weights` are the shapes of those that will fill it; no more than these are built.
    """
    from transformers import CONFIG_MAPPING

    name = "The encoder's config"
    model_type = config_values.get("model_type", "")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise UserError(f"The encoder's config names a model type unknown here: {model_type!r}.")
    check_config(config_values, name)
    limits = nullcontext() if weights is None else built_within(weights, "model.safetensors")
    with in_words(name), torch.random.fork_rng(devices=[]), limits:
        config = _vision_part(without_code(CONFIG_MAPPING[model_type].from_dict(config_values)))
        tower_class = find_class(config, f"{name} ({model_type})")
        torch.manual_seed(seed)
        tower: nn.Module = tower_class(config)
    return tower


def find_class(config: Any, name: str, *, trust_remote_code: bool = False) -> Any:
    """The model class that belongs to a vision config; `UserError` for what reads no pictures."""
    from transformers import MODEL_MAPPING, PreTrainedModel
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    if trust_remote_code and "AutoModel" in getattr(config, "auto_map", {}):
        return get_class_from_dynamic_module(config.auto_map["AutoModel"], name)
    found = MODEL_MAPPING.get(type(config), None)
    if found is None:
        # BLIP's tower, for one, has no entry there; it stands beside its config all the same.
        module_name = type(config).__module__.replace(".configuration_", ".modeling_")
        found = next(
            (
                member
                for member in vars(importlib.import_module(module_name)).values()
                if inspect.isclass(member)
                and issubclass(member, PreTrainedModel)
                and getattr(member, "config_class", None) is type(config)
                and member.__name__.endswith("Model")
                and not member.__name__.endswith("PreTrainedModel")
            ),
            None,
        )
    reads = getattr(found, "main_input_name", "")
    if reads != "pixel_values":
        what = {"input_ids": "text", "input_features": "sound", "input_values": "sound"}
        raise UserError(
            f"{name} is a model of type {config.model_type}, which reads "
            f"{what.get(reads, 'something else')}, not pictures; {SETTING} takes a vision model, "
            "such as openai/clip-vit-base-patch32."
        )
    return found


def _vision_part(config: Any) -> Any:
    """The part of a config that describes vision: CLIP has one beside its text, BLIP too; an
    encoder-decoder calls it its encoder; a ViT is all vision."""
    from transformers import PreTrainedConfig

    parts = (getattr(config, part, None) for part in ("vision_config", "encoder"))
    return next((part for part in parts if isinstance(part, PreTrainedConfig)), config)


def _read_weights(
    tower_class: Any, name: str, config: Any, revision: str, **options: Any
) -> tuple[nn.Module, dict[str, Any]]:
    shapes = _weight_shapes(name, revision)
    # A pooler may be missing, which makes a small model no more than twice as large.
    spare = sum(map(math.prod, shapes.values())) + SPARE_NUMBERS
    limits = built_within(shapes, name, spare=spare) if shapes else nullcontext()
    with silenced(), torch.random.fork_rng(devices=[]), limits:
        model, info = tower_class.from_pretrained(
            name,
            config=config,
            revision=revision or None,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    return model, info


def _found_file(name: str, file: str, revision: str) -> Path | None:
    """A file of a folder or repository, where there is one; what else is wrong is told later."""
    from transformers.utils import cached_file

    found = cached_file(
        name,
        file,
        revision=revision or None,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return Path(found) if found else None


def _weight_shapes(name: str, revision: str) -> Shapes:
    """Shapes of all tensors of a folder or repository, from the headers of its files; empty where
    there are none."""
    from transformers.utils.hub import get_checkpoint_shard_files

    files = [_found_file(name, "model.safetensors", revision)]
    if index := None if files[0] else _found_file(name, "model.safetensors.index.json", revision):
        shard_names(index)
        shards, _ = get_checkpoint_shard_files(name, str(index), revision=revision or None)
        files = [Path(shard) for shard in shards]
    return {key: shape for file in files if file for key, shape in tensor_shapes(file).items()}


def check_weight_files(name: str, revision: str = "") -> None:
    """Raise `UserError` where the index of a folder or repository names other files than
    safetensors beside itself."""
    if index := _found_file(name, "model.safetensors.index.json", revision):
        shard_names(index)


def shard_names(index: Path) -> list[str]:
    """The files that an index names, in order. Raises `UserError` where one is no safetensors file
    beside it."""
    names = read_json(index).get("weight_map")
    found: set[str] = set()
    for name in names.values() if isinstance(names, dict) else [names]:
        if not isinstance(name, str) or not name or Path(name).name != name or "\\" in name:
            raise UserError(f"{index} names {name!r} for weights; it must be a file beside it.")
        if not name.endswith(".safetensors"):
            raise UserError(
                f"{index} names {name!r}, which is no safetensors file; others are never opened."
            )
        found.add(name)
    return sorted(found)


def converted_revision(name: str) -> str:
    """The pull request in which the Hub's own bot keeps safetensors of a repository without any;
    "" where there is none."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        found = [
            discussion.git_reference or ""
            for discussion in HfApi().get_repo_discussions(
                name, author=CONVERSION_BOT, discussion_type="pull_request"
            )
            if discussion.title == CONVERSION_TITLE
        ]
    except (OSError, HfHubHTTPError):
        return ""
    return found[0] if found else ""


def _prefix(missing: set[str], unexpected: set[str]) -> str:
    """What stands before the tower's names in the checkpoint, such as `vision_model.`.

    Of all prefixes that lead to one of the missing names, the one that leads to most.
    """
    if not missing:
        return ""
    probe = max(missing, key=lambda name: (len(name), name))
    found = {name[: -len(probe)] for name in unexpected if name.endswith(f".{probe}")}
    reach = {prefix: sum(prefix + name in unexpected for name in missing) for prefix in found}
    return max(sorted(reach), key=lambda prefix: reach[prefix], default="")


@contextmanager
def silenced() -> Iterator[None]:
    """Without transformers' own bars, advice and table of weights: what matters is checked here."""
    from transformers.utils import logging

    level, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_bars:
            logging.enable_progress_bar()


def _looks_local(name: str) -> bool:
    return os.path.exists(name) or name.startswith((".", "/", "~")) or name.count("/") > 1


def _explained(name: str, error: BaseException) -> UserError:
    """What went wrong in loading a model, and what to do about it."""
    from huggingface_hub import errors as hub

    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    text = str(error)
    if isinstance(error, ImportError) and (found := re.search(r"requires the (\S+) library", text)):
        return UserError(
            f"{name} is read by the package {found[1]}, which is not installed: pip install "
            f"{found[1]}. Or take an encoder in transformers' own format, such as "
            "google/vit-base-patch16-224-in21k."
        )
    if "trust_remote_code" in text:
        return UserError(f"{name} runs code of its own repository, which is not done here.")
    if "safetensors" in text and isinstance(error, OSError):
        return UserError(
            f"{name} has no weights in safetensors format, and pickled ones are never opened. "
            "Convert them (https://huggingface.co/docs/safetensors/convert-weights) or give the "
            f"revision that holds converted ones: --ENCODER_MODEL_NAME {name}@refs/pr/NUMBER."
        )
    if caused_by(hub.GatedRepoError):
        return UserError(
            f"{name} is gated: accept its terms at https://huggingface.co/{name} and log in with: "
            "hf auth login"
        )
    if caused_by(hub.RevisionNotFoundError):
        return UserError(f"{name} has no such revision; check what stands behind the @.")
    if caused_by(hub.RepositoryNotFoundError, hub.HFValidationError):
        return UserError(
            f"{name} is neither a folder nor a model of the Hub that you may read; check "
            f"{SETTING}, or log in with: hf auth login"
        )
    if caused_by(hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled):
        return UserError(
            f"{name} is not on this machine and the Hub cannot be reached. Connect, or fetch it "
            f"where there is a connection with: hf download {name}"
        )
    return UserError(
        f"{name} could not be loaded as an encoder: {_first_line(error)}. Check that its files are "
        "whole and that this version of transformers knows the model."
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
