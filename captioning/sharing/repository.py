"""Checkpoints on the Hugging Face Hub: load by name, upload.

Reads a checkpoint folder, or fills the Hub's cache (HF_HOME) with one. Only the files of a
checkpoint travel; the optimizer never does. The token is the one of `hf auth login` or HF_TOKEN.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from captioning.sharing.published import CHECKPOINT_FILES, EXAMPLES, published_files
from captioning.system.errors import UserError
from captioning.system.folders import instead_of

FILES_OF_MODEL = (
    *("config.json", "generation_config.json", "preprocessor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt"),
    *("model.safetensors", "model.safetensors.index.json", "model-*.safetensors"),
)
"""What is read of a model of transformers."""
NEEDED_FILES = ("checkpoint.json", "config.toml", "model.safetensors", "tokenizer.json")
REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_ADDRESS = re.compile(
    r"(?:https?://(?:www\.)?(?:huggingface\.co|hf\.co)/|hf://(?:models/)?)"
    r"(?P<name>[\w.-]+/[\w.-]+?)(?:\.git)?/?(?:/(?:tree|blob|resolve)/(?P<revision>[^/?#]+)[^?#]*)?"
    r"(?:[?#].*)?"
)
"""A repository's page, as people copy it from the browser."""
REFUSALS = (400, 401, 403, 404, 413)
"""HTTP statuses that stay the same however often one asks."""
MESSAGE_SCORES = ("CIDEr", "BLEU-4", "ROUGE-L", "METEOR", "validation_loss")


def resolve_checkpoint(name: str, *, revision: str = "") -> Path:
    """The folder of a checkpoint: `name` itself, or that of a Hub repository in the Hub's cache.

    A captioner of transformers (`captioning.gpt2`) is one too. Of a repository the newest state of
    `revision` (a branch, tag or commit; main by default) is fetched; where the Hub cannot be
    reached, the cached one is used. Raises `UserError`.
    """
    is_address = HUB_ADDRESS.fullmatch(name) is not None
    name, revision = _named(name, revision)
    if Path(name).is_dir() and not is_address:
        if revision:
            raise UserError(f"{name} is a folder and has no revision {revision!r}; leave it out.")
        return Path(name)
    if Path(name).is_file():
        raise UserError(f"{name} is a file; name the folder that it lies in: {Path(name).parent}")
    if not REPO_ID.fullmatch(name):
        raise UserError(
            f"{name} is neither a folder nor the name of a Hub repository (user/name, or its "
            "address on huggingface.co). Make a checkpoint with: python train.py"
        )
    from captioning.gpt2.folder import is_foreign

    folder = _with_weights(name, [*CHECKPOINT_FILES, EXAMPLES, *FILES_OF_MODEL], revision)
    if not is_foreign(folder):
        _check_folder(folder, name)
    return folder


def resolve_language_model(name: str, *, revision: str = "") -> Path:
    """The folder of a language model: `name` itself, or that of a Hub repository in its cache.

    Raises `UserError`.
    """
    if Path(name).is_dir():
        return Path(name)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise UserError(
            f"{name} is neither a folder nor the name of a language model of the Hub, such as "
            "distilgpt2; check --DECODER_MODEL_NAME."
        )
    return _with_weights(name, FILES_OF_MODEL, revision)


def full_name(name: str, revision: str) -> str:
    """What a checkpoint is called in a setting: its folder, or repository@revision."""
    name, revision = _named(name, revision)
    return f"{name}@{revision}" if revision else name


def _with_weights(name: str, files: Sequence[str], revision: str) -> Path:
    """The folder of a Hub repository in the Hub's cache, with the files that it has of some; where
    it has a config and no safetensors, that of the pull request with converted ones."""
    from huggingface_hub import snapshot_download

    from captioning.gpt2.folder import has_weights, is_foreign
    from captioning.vision.loading import converted_revision

    def fetched(revision: str) -> Path:
        with _user_errors(name, revision):
            return Path(snapshot_download(name, revision=revision or None, allow_patterns=[*files]))

    folder = fetched(revision)
    if is_foreign(folder) and not has_weights(folder) and (found := converted_revision(name)):
        return fetched(found)
    return folder


def _named(name: str, revision: str) -> tuple[str, str]:
    """A repository's name and revision, also of its page's address; a folder stays as it is."""
    if address := HUB_ADDRESS.fullmatch(name):
        return address["name"], revision or address["revision"] or ""
    return name, revision


def repository_of(name: str) -> str:
    """The repository that the name of a checkpoint means, user/name; "" for a folder."""
    if address := HUB_ADDRESS.fullmatch(name):
        return address["name"]
    return "" if Path(name).is_dir() else name


def upload_checkpoint(
    folder: Path,
    repo_id: str,
    *,
    left_out: Collection[str],
    added: Sequence[Path] = (),
    data_license: str = "",
    private: bool = False,
    message: str = "",
) -> str:
    """Make the repository if it is missing and upload a checkpoint in one commit.

    `left_out`, `added` and `data_license` are as `published_files` takes them. `private` counts
    only where the repository is made. Returns its URL. Raises `UserError`.
    """
    _check_folder(folder, str(folder))
    check_token(repo_id)
    files = published_files(
        folder, repo_id, left_out=left_out, added=added, data_license=data_license
    )
    with _user_errors(repo_id):
        make_repository(repo_id, private=private)
        return commit_files(files, repo_id, message or commit_message(metrics_in(folder)))


def check_token(repo_id: str) -> None:
    """Raise `UserError` if this machine has no token with which to upload to `repo_id`."""
    from huggingface_hub import get_token

    if not REPO_ID.fullmatch(repo_id):
        raise UserError(f"The Hub repository is {repo_id!r}; it must be user/name.")
    if get_token() is None:
        raise UserError(
            f"There is no Hub token to upload to {repo_id} with: run `hf auth login`, or set "
            "HF_TOKEN."
        )


def make_repository(repo_id: str, *, private: bool = False) -> str:
    """Make a model repository unless it is there; returns its URL. Raises the client's errors."""
    from huggingface_hub import HfApi

    return str(HfApi().create_repo(repo_id, private=private, exist_ok=True))


def commit_files(files: Mapping[str, Path | bytes], repo_id: str, message: str) -> str:
    """Upload files of `published_files` in one commit; returns the repository's URL.

    Raises the client's errors. Not `upload_folder`, which may spread a folder over several commits
    and so leave new weights beside old settings.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    commit = HfApi().create_commit(
        repo_id,
        [CommitOperationAdd(name, content) for name, content in files.items()],
        commit_message=message,
    )
    return str(commit.repo_url)


def commit_message(metrics: Mapping[str, Any]) -> str:
    """One line with the scores that there are."""
    shown = [
        f"{name.replace('_', ' ')} {metrics[name]:.3f}"
        for name in MESSAGE_SCORES
        if isinstance(metrics.get(name), int | float)
    ]
    return f"Checkpoint: {', '.join(shown)}" if shown else "Checkpoint"


def explain(error: BaseException, repo_id: str, revision: str = "") -> str:
    """What went wrong with the Hub, and what to do, in one sentence."""
    from huggingface_hub import errors

    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, errors.HFValidationError):
        return f"{repo_id} is not a name that the Hub takes: {_first_line(error)}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo_id} has no revision {revision!r}; its branches and tags are on its Hub page."
    if isinstance(error, errors.GatedRepoError):
        return f"{repo_id} is gated: ask for access on its Hub page, then run `hf auth login`."
    status = _status(error)
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        return (
            f"There is no folder {repo_id} here, and no such repository on the Hub that you may "
            "see. Check the name; if it is private, run `hf auth login`."
        )
    if status == 401:
        return f"The Hub does not accept your token for {repo_id}: run `hf auth login`."
    if status == 403:
        return (
            f"Your token may not do this with {repo_id}: use one with the right to write there, or "
            "a name of your own."
        )
    if status == 429:
        return f"The Hub answers {repo_id} with too many requests (429); wait some minutes."
    if status is not None:
        return f"The Hub failed with status {status} on {repo_id}; try again later."
    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            f"{repo_id} is no folder here, the Hub cannot be reached, and its cache does not hold "
            "it whole; check the name, and the connection (and that HF_HUB_OFFLINE is not set)."
        )
    return f"The Hub cannot be reached for {repo_id}: {_first_line(error)}."


def is_refusal(error: BaseException) -> bool:
    """Whether trying again is in vain."""
    return _status(error) in REFUSALS


@contextmanager
def _user_errors(repo_id: str, revision: str = "") -> Iterator[None]:
    """Turn what the Hub's client raises into a `UserError`."""
    from huggingface_hub.errors import HfHubHTTPError

    # Its bases are OSError and the base error of whatever HTTP library the client is built on.
    client_errors: Any = (*HfHubHTTPError.__bases__, ValueError, RuntimeError)
    try:
        yield
    except UserError:
        raise
    except client_errors as error:
        raise UserError(explain(error, repo_id, revision)) from error


def _status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error, if the Hub answered."""
    from huggingface_hub.errors import HfHubHTTPError

    while error is not None:
        if isinstance(error, HfHubHTTPError):
            return error.response.status_code
        error = error.__cause__
    return None


def _check_folder(folder: Path, name: str) -> None:
    missing = [file for file in NEEDED_FILES if not (folder / file).is_file()]
    if missing:
        raise UserError(
            f"{name} is not a checkpoint of this trainer: it has no {', '.join(missing)}. "
            f"{instead_of(folder)}"
        )


def metrics_in(folder: Path) -> dict[str, Any]:
    """The scores of a checkpoint; empty where it has none. Raises `UserError`."""
    path = folder / "metrics.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {_first_line(error)}.") from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
