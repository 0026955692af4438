"""Document frequencies that were counted elsewhere."""

from pathlib import Path

import numpy as np
import pytest

from captioning.metrics import score_captions
from captioning.metrics.frequency_files import (
    count_frequencies,
    load_frequencies,
    save_frequencies,
)
from captioning.metrics.scoring import ScoringOptions, score_everything
from captioning.system.errors import UserError

REFERENCES = {
    "a": ["a cat sits on a mat", "the cat's mat"],
    "b": ["a dog runs on grass", "a brown dog runs"],
    "c": ["two birds on a roof"],
}
CANDIDATES = {"a": "a cat on a mat", "b": "a dog runs", "c": "a bird"}


def test_counted_on_the_references_they_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    save_frequencies(path, count_frequencies(REFERENCES))
    loaded = load_frequencies(path)
    assert loaded.tokenizer == "ptb"
    here = score_captions(CANDIDATES, REFERENCES)
    fixed = score_captions(CANDIDATES, REFERENCES, frequencies=loaded)
    np.testing.assert_array_equal(fixed.per_image["CIDEr"], here.per_image["CIDEr"])


def test_a_part_is_scored_as_within_the_whole(tmp_path: Path) -> None:
    """What they are for: one picture has no frequencies of its own."""
    save_frequencies(tmp_path / "all.npz", count_frequencies(REFERENCES))
    options = ScoringOptions(java=False, document_frequencies=str(tmp_path / "all.npz"))
    whole = score_everything(CANDIDATES, REFERENCES, options)
    part = score_everything({"b": CANDIDATES["b"]}, {"b": REFERENCES["b"]}, options)
    assert part.corpus["CIDEr"] == whole.of(1)["CIDEr"] > 0
    assert part.protocol["document frequencies"] == "all.npz, of 3 pictures"
    without = score_everything(CANDIDATES, REFERENCES, ScoringOptions(java=False))
    assert "document frequencies" not in without.protocol


def test_words_that_the_file_has_not_seen_weigh_most(tmp_path: Path) -> None:
    frequencies = count_frequencies({str(n): ["a dog"] for n in range(8)} | {"x": ["a cat"]})
    scores = score_captions(CANDIDATES, REFERENCES, frequencies=frequencies)
    assert np.isfinite(scores.per_image["CIDEr"]).all()


def test_other_scripts_have_their_own(tmp_path: Path) -> None:
    chinese = {"a": ["一只狗在草地上"], "b": ["两个孩子"]}
    path = tmp_path / "zh.npz"
    save_frequencies(path, count_frequencies(chinese))
    loaded = load_frequencies(path)
    assert loaded.tokenizer == "script"
    assert score_captions({"a": "一只狗", "b": "孩子"}, chinese, frequencies=loaded).corpus["CIDEr"]
    with pytest.raises(UserError, match="tokens of 'script'"):
        score_captions(CANDIDATES, REFERENCES, frequencies=loaded)


def test_what_is_no_such_file_gets_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with pytest.raises(UserError, match="cannot be read: No such file"):
        load_frequencies(path)
    path.write_text("text")
    with pytest.raises(UserError, match="holds no document frequencies"):
        load_frequencies(path)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(UserError, match="holds no document frequencies"):
        load_frequencies(path)
    np.savez(path, pictures=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="holds no document frequencies"):
        load_frequencies(path)
    save_frequencies(path, count_frequencies(REFERENCES))
    with np.load(path) as arrays:
        content = dict(arrays)
    content["keys_2"] = content["keys_2"][::-1]
    np.savez(path, **content)
    with pytest.raises(UserError, match="damaged"):
        load_frequencies(path)
