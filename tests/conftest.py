"""Offline, quiet and deterministic surroundings for every test."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("no time is asserted", deadline=None)
settings.load_profile("no time is asserted")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
CODE_OF_MODELS = tempfile.TemporaryDirectory()
os.environ["HF_MODULES_CACHE"] = CODE_OF_MODELS.name
"""Where transformers copies what `trust_remote_code` runs."""


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with real photographs and captions; tests that need it are skipped without it."""
    folder = os.environ.get("CAPTION_TEST_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("CAPTION_TEST_DATA names no folder with real data")
    return Path(folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small data and a tiny CLIP, for the runs of one module."""
    from tests.helpers.small_runs import write_data, write_encoder

    folder = tmp_path_factory.mktemp("small run é")
    write_data(folder)
    write_encoder(folder)
    return folder
