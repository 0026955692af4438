"""The benchmark of a ViT-GPT2 beside transformers, at toy size."""

from pathlib import Path

from benchmarks import vit_gpt2
from captioning.scenes import write_scenes


def test_both_sides_open_the_folder_and_say_the_same(tmp_path: Path) -> None:
    options = vit_gpt2.Options(pictures=3, tokens=5, width=32)
    vit_gpt2.save_model(tmp_path, options)
    write_scenes(tmp_path / "pictures", seed=0, count=3, size=40)
    found = {side: [vit_gpt2.caption(tmp_path, side)] for side in vit_gpt2.SIDES}
    captions = found["ours"][0]["captions"]
    assert all(captions)
    assert captions == found["transformers"][0]["captions"]
    assert vit_gpt2.table(found).endswith("3 of 3 captions equal")
