"""A captioner of the Hub or a folder, as `transformers` has it, asked as its users ask it.

One class loads all of them (`AutoModelForImageTextToText`); they differ in what they are asked
with: BLIP and GIT with a picture, to which a prompt may add the caption's first words; ViT-GPT2
with a picture alone; chat models with a conversation of one turn, a picture and a prompt.
Weights are read from safetensors only, and no code of a repository is run.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioning.decoding import SearchOptions
from captioning.sources.images import load_image
from captioning.system.errors import UserError
from captioning.vision.loading import check_weight_files, silenced, without_code

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

CHAT_PROMPT = "Describe this picture in one short sentence."
"""What a chat model is asked where the user gives no prompt."""
MAX_NEW_TOKENS = 64
BATCH_SIZE = 16
ENCODER_DECODER = "vision-encoder-decoder"
KINDS = (
    "--model takes a captioner that transformers knows (BLIP, GIT, ViT-GPT2, chat models of "
    "pictures and text): the id of one on the Hub, such as Salesforce/blip-image-captioning-base, "
    "or a folder made by save_pretrained; or a file of captions."
)


class Rival:
    """A captioner that somebody else trained."""

    def __init__(
        self, model: Any, image_processor: Any, tokenizer: Any, *, prompt: str, device: Any
    ) -> None:
        """`image_processor` may be a whole processor, which reads text too."""
        self.model = model.to(device).eval()
        self.processor = image_processor
        self.tokenizer = tokenizer
        self.device = device
        self.is_chat = bool(getattr(image_processor, "chat_template", None))
        self.prompt = prompt or (CHAT_PROMPT if self.is_chat else "")
        self._batch_size = BATCH_SIZE

    @classmethod
    def from_pretrained(
        cls, name: str, *, prompt: str = "", device: "str | torch.device" = "cpu"
    ) -> "Rival":
        """Load a captioner by its Hub id (`name@revision`) or folder.

        Raises `UserError` where it is none, cannot be had whole, or would need code of its own.
        """
        repository, revision = (name, "") if Path(name).exists() else _split(name)
        with silenced(), _explained(name):
            model, processor, tokenizer = _load(repository, revision or None, str(device))
        if prompt and model.config.model_type == ENCODER_DECODER:
            raise UserError(f"{name} writes captions of pictures alone; leave out --prompt.")
        tokenizer.padding_side = "left"  # what is written goes on from the prompt's end
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return cls(model, processor, tokenizer, prompt=prompt, device=device)

    @property
    def parameters(self) -> int:
        """How many it has."""
        return sum(weight.numel() for weight in self.model.parameters())

    @property
    def precision(self) -> str:
        """The type of its weights, such as "float32"."""
        return str(self.model.dtype).removeprefix("torch.")

    def captions(
        self, images: Sequence[str | os.PathLike[str]], search: SearchOptions
    ) -> Iterator[str]:
        """A caption of each picture, in order, in batches that fit the device."""
        import torch

        done = 0
        while done < len(images):
            batch = images[done : done + self._batch_size]
            try:
                found = self._caption([load_image(image) for image in batch], search)
            except torch.OutOfMemoryError:
                if self._batch_size == 1:
                    raise UserError(
                        "one picture at a time is more than the device's memory holds for this "
                        "model; take a smaller one, or --device cpu."
                    ) from None
                self._batch_size //= 2
                continue
            yield from found
            done += len(batch)

    def _caption(self, pictures: "Sequence[Image]", search: SearchOptions) -> list[str]:
        import torch

        with silenced(), torch.inference_mode():
            inputs = self._inputs(pictures)
            inputs = {
                name: value.to(self.device, self.model.dtype)
                if torch.is_floating_point(value)
                else value.to(self.device)
                for name, value in inputs.items()
            }
            ids = self.model.generate(
                **inputs,
                max_new_tokens=MAX_NEW_TOKENS,
                do_sample=False,
                num_beams=search.beam_size if search.method == "beam" else 1,
                length_penalty=search.length_penalty if search.method == "beam" else 1.0,
            )
        if self.is_chat:
            ids = ids[:, inputs["input_ids"].shape[1] :]
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [self._without_prompt(" ".join(text.split())) for text in texts]

    def _inputs(self, pictures: "Sequence[Image]") -> dict[str, Any]:
        """What the model is given of some pictures."""
        if self.is_chat:
            turns = [
                [
                    {
                        "role": "user",
                        "content": [
                            {"type": "image", "image": picture},
                            {"type": "text", "text": self.prompt},
                        ],
                    }
                ]
                for picture in pictures
            ]
            given = self.processor.apply_chat_template(
                turns,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True},
            )
            return dict(given)
        text = {"text": [self.prompt] * len(pictures)} if self.prompt else {}
        given = dict(self.processor(images=list(pictures), return_tensors="pt", **text))
        if text and self.model.config.model_type == "git":
            given["input_ids"] = given["input_ids"][:, :-1]  # the end of a text that goes on
            given["attention_mask"] = given["attention_mask"][:, :-1]
        return given

    def _without_prompt(self, text: str) -> str:
        """What was written, without the beginning that was given."""
        begins = not self.is_chat and text.lower().startswith(self.prompt.lower())
        return text[len(self.prompt) :].strip() if begins else text


def _load(name: str, revision: str | None, device: str) -> tuple[Any, Any, Any]:
    """Model, processor and tokenizer; raises what transformers raises, or `UserError`."""
    import torch
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModelForImageTextToText,
        AutoProcessor,
        AutoTokenizer,
    )

    place: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    config = AutoConfig.from_pretrained(name, **place)
    check_weight_files(name, revision or "")
    if type(config) not in AutoModelForImageTextToText._model_mapping:
        raise UserError(f"{name} is a model of type {config.model_type!r}. {KINDS}")
    model, info = AutoModelForImageTextToText.from_pretrained(
        name,
        config=without_code(config),
        dtype=torch.float32 if device == "cpu" else "auto",
        use_safetensors=True,
        output_loading_info=True,
        **place,
    )
    if info["missing_keys"]:
        raise UserError(
            f"{name} lacks {len(info['missing_keys']):,} of the weights that a {config.model_type} "
            f"has, such as {min(info['missing_keys'])}: its captions would be random."
        )
    if config.model_type == ENCODER_DECODER:
        return (
            model,
            AutoImageProcessor.from_pretrained(name, **place),
            AutoTokenizer.from_pretrained(name, **place),
        )
    processor = AutoProcessor.from_pretrained(name, **place)
    if not hasattr(processor, "tokenizer"):
        raise UserError(f"{name} has no processor of pictures and text beside its weights.")
    return model, processor, processor.tokenizer


def _split(name: str) -> tuple[str, str]:
    repository, _, revision = name.partition("@")
    return repository, revision


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """What transformers says of a model that it cannot load, in one sentence."""
    from safetensors import SafetensorError

    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "trust_remote_code" in str(error):
            reason = "it needs code of its own repository, which is never run here."
        elif "safetensors" in str(error):
            reason = "it has no weights in safetensors, and others are never unpickled here."
        raise UserError(f"{name} cannot be loaded: {reason} {KINDS}") from None
