"""What cannot be loaded gives one sentence that says what to do."""

import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
import transformers as hf
from huggingface_hub import errors as hub
from safetensors.torch import load_file

from captioning.system.errors import UserError
from captioning.vision import VisionTower, loading
from captioning.vision.loading import build_tower, load_config, load_tower
from tests.helpers.tiny_encoders import FAMILIES


def test_folder_without_config(tmp_path: Path) -> None:
    for name in (str(tmp_path), str(tmp_path / "nowhere"), "./nowhere"):
        with pytest.raises(UserError, match=r"is no folder with a config\.json"):
            load_config(name)


def test_name_that_is_not_here_while_offline() -> None:
    with pytest.raises(UserError, match="hf download nobody/no-such-model"):
        load_config("nobody/no-such-model")


def test_config_of_no_known_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "wonder"}', encoding="utf-8")
    with pytest.raises(UserError, match="wonder"):
        load_config(str(tmp_path))
    with pytest.raises(UserError, match="'wonder'"):
        build_tower({"model_type": "wonder"})


def test_a_model_of_a_package_that_is_not_there_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> object:
        raise ImportError("\nTimmWrapperConfig requires the timm library but it was not found")

    monkeypatch.setattr(hf.AutoConfig, "from_pretrained", missing)
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}', encoding="utf-8")
    with pytest.raises(UserError, match=r"by the package timm, .* pip install timm\. Or take an"):
        load_config(str(tmp_path))


def test_all_files_are_of_one_commit_which_is_known_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--a--b"
    (repository / "refs").mkdir(parents=True)
    older, newer = ("0" * 40, "c0ffee" + "1" * 34)
    fingerprints = {}
    for commit, family in ((older, "vit"), (newer, "clip")):  # as the Hub's client leaves them
        FAMILIES[family].save(repository / "snapshots" / commit)
        (repository / "refs" / "main").write_text(commit)
        tower = VisionTower.from_pretrained("a/b")
        assert tower.revision == commit
        fingerprints[commit] = tower.fingerprint()
    assert fingerprints[older] != fingerprints[newer]
    again = VisionTower.from_pretrained("a/b", revision=older)
    assert (again.revision, again.fingerprint()) == (older, fingerprints[older])


def test_prefix_is_the_one_that_leads_to_most() -> None:
    missing = {"layers.0.attention.weight", "patches.weight", "norm.weight"}
    vision = {f"vision.{name}" for name in missing}
    text = {"writer.layers.0.attention.weight", "writer.norm.weight", "writer.words.weight"}
    assert loading._prefix(missing, vision | text) == "vision."
    assert loading._prefix(missing, {"classifier.weight"}) == ""
    assert loading._prefix(set(), vision) == ""


def response(status: int) -> object:
    import httpx

    return httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co/a/b"))


@pytest.mark.parametrize(
    ("cause", "advice"),
    [
        (hub.GatedRepoError, "accept its terms at https://huggingface.co/a/b"),
        (hub.RepositoryNotFoundError, "neither a folder nor a model of the Hub"),
        (hub.RevisionNotFoundError, "check what stands behind the @"),
        (hub.LocalEntryNotFoundError, "hf download a/b"),
    ],
)
def test_what_the_hub_says(
    cause: type[Exception], advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        if issubclass(cause, hub.HfHubHTTPError):
            raise OSError("something long\nand technical") from cause("no", response=response(403))
        raise OSError("something long\nand technical") from cause("no")

    monkeypatch.setattr(hf.AutoConfig, "from_pretrained", refuse)
    with pytest.raises(UserError, match=advice):
        load_config("a/b")


def test_code_of_a_repository_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}', encoding="utf-8"
    )
    (tmp_path / "own.py").write_text("raise SystemExit('ran')", encoding="utf-8")
    with pytest.raises(UserError, match="runs code of its own repository"):
        load_config(str(tmp_path))


def test_pickled_weights_are_not_opened(tmp_path: Path) -> None:
    FAMILIES["vit"].save(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled ones are never opened"):
        load_tower(str(tmp_path), load_config(str(tmp_path)))


@pytest.mark.parametrize("kept_bytes", [0, 5, 500, 9000])
def test_truncated_weights(kept_bytes: int, tmp_path: Path) -> None:
    FAMILIES["vit"].save(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept_bytes])
    with pytest.raises(UserError, match=r"could not be loaded|is damaged"):
        load_tower(str(tmp_path), load_config(str(tmp_path)))


def test_weights_of_half_precision_are_read_in_full(tmp_path: Path) -> None:
    FAMILIES["vit"].whole().half().save_pretrained(tmp_path)
    tower = load_tower(str(tmp_path), load_config(str(tmp_path))).model
    assert {tensor.dtype for tensor in tower.parameters()} == {torch.float32}


def test_weights_of_another_size(tmp_path: Path) -> None:
    FAMILIES["vit"].save(tmp_path)
    config = load_config(str(tmp_path))
    config.intermediate_size = 20
    with pytest.raises(UserError, match="could not be loaded"):
        load_tower(str(tmp_path), config)


def test_converted_weights_are_found_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FAMILIES["vit"].save(tmp_path)
    config = load_config(str(tmp_path))
    asked = []

    def read(tower_class: object, name: str, config: object, revision: str) -> object:
        asked.append(revision)
        if revision != "refs/pr/7":
            raise OSError("a/b does not appear to have a file named model.safetensors")
        return hf.ViTModel(config), {"missing_keys": [], "unexpected_keys": []}

    def discussions(self: object, name: str, **wanted: str) -> list[SimpleNamespace]:
        assert wanted == {"author": "SFconvertbot", "discussion_type": "pull_request"}
        return [
            SimpleNamespace(title="Typo", git_reference="refs/pr/9"),
            SimpleNamespace(title=loading.CONVERSION_TITLE, git_reference="refs/pr/7"),
        ]

    monkeypatch.setattr(loading, "_read_weights", read)
    monkeypatch.setattr(loading, "load_config", lambda *_, **__: config)
    monkeypatch.setattr(huggingface_hub.HfApi, "get_repo_discussions", discussions)
    assert load_tower("a/b", config).revision == "refs/pr/7"
    assert asked == ["", "refs/pr/7"]
    monkeypatch.setattr(huggingface_hub.HfApi, "get_repo_discussions", lambda *_, **__: [])
    with pytest.raises(UserError, match="pickled ones are never opened"):
        load_tower("a/b", config)


@pytest.mark.parametrize(
    ("shard", "told"),
    [
        ("w.bin", "is no safetensors file"),
        ("pytorch_model.safetensors.bin", "is no safetensors file"),
        ("../outside.safetensors", "must be a file beside it"),
        ("/etc/outside.safetensors", "must be a file beside it"),
        ("sub/inside.safetensors", "must be a file beside it"),
        ("..\\outside.safetensors", "must be a file beside it"),
        ("", "must be a file beside it"),
        (7, "must be a file beside it"),
    ],
)
def test_an_index_names_safetensors_beside_it(tmp_path: Path, shard: object, told: str) -> None:
    FAMILIES["vit"].save(tmp_path / "vit")
    weights = tmp_path / "vit" / "model.safetensors"
    keys = load_file(weights).keys()
    for other in ("w.bin", "pytorch_model.safetensors.bin"):
        torch.save({}, tmp_path / "vit" / other)
    (tmp_path / "vit" / "sub").mkdir()
    for place in (tmp_path / "outside.safetensors", tmp_path / "vit/sub/inside.safetensors"):
        place.write_bytes(weights.read_bytes())
    weights.unlink()
    index = {"metadata": {}, "weight_map": dict.fromkeys(keys, shard)}
    (tmp_path / "vit" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=told):
        load_tower(str(tmp_path / "vit"), load_config(str(tmp_path / "vit")))


def test_a_config_chooses_neither_kernels_nor_other_files(tmp_path: Path) -> None:
    FAMILIES["clip"].save(tmp_path / "clip")
    path = tmp_path / "clip" / "config.json"
    code = {
        "_attn_implementation": "kernels-community/evil",
        "attn_implementation": "kernels-community/evil",
        "_attn_implementation_internal": "kernels-community/evil",
        "_experts_implementation": "kernels-community/evil",
        "transformers_weights": "adapter_model.bin",
    }
    values = json.loads(path.read_text())
    values["vision_config"] |= code
    path.write_text(json.dumps(values | code))
    config = load_config(str(tmp_path / "clip"))
    loaded = load_tower(str(tmp_path / "clip"), config)
    built = build_tower(values["vision_config"] | code)
    for tower in (loaded.model, built):
        assert "evil" not in tower.config.to_json_string()
        assert tower.config._attn_implementation in ("sdpa", "eager")
