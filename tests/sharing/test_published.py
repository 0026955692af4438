"""What is published of a checkpoint says nothing of the machine that it was made on."""

import json
import tomllib
from pathlib import Path

import pytest

from captioning.sharing.published import published_files
from captioning.system.errors import UserError
from captioning.system.files import sha256_of, write_json
from captioning.system.folders import check_files, read_manifest
from captioning.system.rules import TYPED
from config import Config, dump_config, load_config, settings_with

LOCAL = Config(
    DATASET="mine",
    IMAGE_DIR="/home/alice/photos",
    CAPTIONS_FILE="/home/alice/captions.csv",
    DATA_DIR="/big/data",
    OUTPUT_DIR="/home/alice/checkpoints",
    RUN_NAME="birds",
    ENCODER_MODEL_NAME="/home/alice/small clip",
    IMAGE_PROCESSOR_NAME="~/processor",
    WANDB_ENTITY="alice-team",
    WANDB_PROJECT="secret-project",
    HF_REPO_ID="alice/first",
)
STREAM = Config(
    DATASET="mine", STREAM="/home/alice/*.tar; https://alice:PW@host/x.tar?token=tok9 = 2"
)


def make_checkpoint(folder: Path, config: Config) -> Path:
    """A checkpoint of version 0.2.0, whose card names a folder."""
    folder.mkdir()
    (folder / "config.toml").write_text(dump_config(config))
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text(
        f"# birds\n\nThe encoder `{config.ENCODER_MODEL_NAME}`.\n\n"
        f'Captioner.from_pretrained("{config.run_dir}/best")\n'
        f"`python generate.py --checkpoint {config.run_dir}/best --image photo.jpg`\n"
    )
    files = {
        name: {"size": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
        for name in ("config.toml", "model.safetensors")
    }
    encoder = {"name": config.encoder[0], "revision": "", "fingerprint": "f00", "in_checkpoint": 0}
    encoder["in_checkpoint"] = False
    write_json(
        folder / "checkpoint.json", {"format_version": 1, "encoder": encoder, "files": files}
    )
    return folder


@pytest.mark.parametrize("config", [LOCAL, STREAM])
def test_what_is_published_is_whole_and_tells_nothing(tmp_path: Path, config: Config) -> None:
    folder = make_checkpoint(tmp_path / "best", config)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    files = published_files(folder, "me/captioner", left_out=settings_with(TYPED))
    there = tmp_path / "there"
    there.mkdir()
    for name, content in files.items():
        (there / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
        for secret in ("alice", "/home", "/big", "PW", "tok9", "secret-project", "~/"):
            assert secret not in (there / name).read_text(), name
    check_files(there, read_manifest(there))
    found = load_config(there / "config.toml")
    assert not tomllib.loads((there / "config.toml").read_text()).keys() & settings_with(TYPED)
    assert (found.DATASET, found.OUTPUT_DIR) == ("mine", Config.OUTPUT_DIR)
    card = (there / "README.md").read_text()
    assert 'Captioner.from_pretrained("me/captioner")' in card
    assert "--checkpoint me/captioner --image" in card
    if config is LOCAL:
        assert json.loads((there / "checkpoint.json").read_text())["encoder"]["name"] == (
            found.ENCODER_MODEL_NAME
        )
        assert found.ENCODER_MODEL_NAME == "small clip"
    else:
        assert found.STREAM == "*.tar; https://***@host/x.tar?token=*** = 2"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["README.md", "metrics.json", "example-1.png", "config.toml"])
def test_no_link_is_uploaded(tmp_path: Path, name: str) -> None:
    folder = make_checkpoint(tmp_path / "best", LOCAL)
    (tmp_path / "id_rsa").write_text("key")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("../id_rsa")
    with pytest.raises(UserError, match=f"{name} is a link; only files are uploaded"):
        published_files(folder, "me/captioner", left_out=settings_with(TYPED))


def test_a_checkpoint_without_places_is_published_as_it_is(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "best", Config())
    settings = (folder / "config.toml").read_text().splitlines(keepends=True)
    kept = [line for line in settings if line.split(" = ")[0] not in settings_with(TYPED)]
    (folder / "config.toml").write_text("".join(kept))
    files = published_files(folder, "me/captioner", left_out=settings_with(TYPED))
    assert [name for name, content in files.items() if isinstance(content, bytes)] == ["README.md"]
