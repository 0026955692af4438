"""The vocabulary: exact round trips, truncation, words, the command."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tokenizer as tokenizer_module
from captioning.sources.records import Record, write_records
from captioning.system.errors import UserError
from tokenizer import SPECIAL_TOKENS, CaptionTokenizer, train_tokenizer

CAPTIONS = [
    "Two dogs run across the green grass.",
    "A dog jumps over a fence.",
    "Two children play in the sand near the sea.",
] * 5
TOKENIZER = train_tokenizer(CAPTIONS, 400)


@given(st.text())
@example("says <END> and <PAD>")
@example(" leading, trailing ")
@example("tab\tnewline\n\r\u2028 zero\x00 width\u200d")
@example("🧑‍🚀 مرحبا שלום e\u0301 é")
@example("")
def test_any_caption_comes_back(caption: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(caption)) == caption


def test_a_lone_surrogate_does_no_harm() -> None:
    assert TOKENIZER.decode(TOKENIZER.encode("a\ud800b")) == "a?b"


def test_special_tokens_stand_first_and_frame_a_caption() -> None:
    ids = TOKENIZER.encode("Two dogs")
    assert (ids[0], ids[-1]) == (TOKENIZER.start_id, TOKENIZER.end_id)
    assert (TOKENIZER.pad_id, TOKENIZER.start_id, TOKENIZER.end_id, TOKENIZER.unk_id) == (
        0,
        1,
        2,
        3,
    )
    assert not set(ids[1:-1]) & set(range(len(SPECIAL_TOKENS)))


def test_a_caption_that_names_a_special_token_does_not_get_it() -> None:
    assert TOKENIZER.encode("<END>").count(TOKENIZER.end_id) == 1


def test_truncation_keeps_end_only_where_the_caption_ended() -> None:
    whole = TOKENIZER.encode(CAPTIONS[0])
    assert TOKENIZER.encode(CAPTIONS[0], len(whole)) == whole
    cut = TOKENIZER.encode(CAPTIONS[0], len(whole) - 1)
    assert cut == whole[:-1]
    assert TOKENIZER.end_id not in cut


def test_frequent_words_become_one_token() -> None:
    assert len(TOKENIZER.encode(" the")) == 3


def test_words_join_their_tokens() -> None:
    ids = TOKENIZER.encode("Two xylophones, run 🧑‍🚀")[1:-1]
    words = TOKENIZER.words(ids)
    assert [word.text for word in words] == ["Two", "xylophones,", "run", "🧑‍🚀"]
    assert [word.start for word in words] == [0, *[word.stop for word in words[:-1]]]
    assert words[-1].stop == len(ids)


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "tokenizer.json")
    loaded = CaptionTokenizer.load(tmp_path)
    assert len(loaded) == len(TOKENIZER) <= 400
    assert loaded.encode("Two <END> dogs 🐕") == TOKENIZER.encode("Two <END> dogs 🐕")
    assert loaded.to_json() == TOKENIZER.to_json()


def test_training_twice_gives_the_same_vocabulary() -> None:
    assert train_tokenizer(CAPTIONS, 400).to_json() == TOKENIZER.to_json()


def test_what_is_no_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    broken = tmp_path / "tokenizer.json"
    with pytest.raises(UserError, match="is missing"):
        CaptionTokenizer.load(broken)
    broken.write_text("{}")
    with pytest.raises(UserError, match="is not a captioning tokenizer"):
        CaptionTokenizer.load(broken)
    other = json.loads(TOKENIZER.to_json())
    other["model"]["vocab"]["<START>"], other["model"]["vocab"]["<END>"] = 2, 1
    other["added_tokens"][1]["content"], other["added_tokens"][2]["content"] = "<END>", "<START>"
    broken.write_text(json.dumps(other))
    with pytest.raises(UserError, match="<START> must be entry 1"):
        CaptionTokenizer.load(broken)


FOREIGN: dict[str, dict[str, object]] = {
    "a normalizer that panics": {
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    },
    "a padding of a billion": {
        "padding": {
            "strategy": {"Fixed": 10**9},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<PAD>",
        }
    },
    "a text that grows": {
        "normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "a" * 9}
    },
    "a decoder that says more": {
        "decoder": {
            "type": "Sequence",
            "decoders": [{"type": "Replace", "pattern": {"String": "a"}, "content": "\x1b[2J"}],
        }
    },
    "another model": {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}},
    "no special tokens": {"model": {"vocab": {}, "merges": []}},
    "a list": {"model": []},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_the_library_could_trip_over_is_never_given_to_it(tmp_path: Path, kind: str) -> None:
    content = json.loads(TOKENIZER.to_json()) | FOREIGN[kind]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="is not a captioning tokenizer: it"):
        CaptionTokenizer.load(path)


@pytest.mark.parametrize(
    "vocab", [{"a": 4_000_000}, {"a": -1}, {"a": True}, {"a": 1.5}, {"é è": 400}]
)
def test_entries_are_bytes_numbered_from_zero(tmp_path: Path, vocab: dict[str, object]) -> None:
    content = json.loads(TOKENIZER.to_json())
    content["model"]["vocab"] |= vocab
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"it has the entry|not numbered from 0"):
        CaptionTokenizer.load(path)


@pytest.mark.parametrize(
    "merge", [["a", "\u00e9"], ["a"], ["a", 3], "a  b", {}, ["a", ["b"]], None]
)
def test_merges_make_entries_of_entries(tmp_path: Path, merge: object) -> None:
    content = json.loads(TOKENIZER.to_json())
    content["model"]["merges"].append(merge)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="it has the merge"):
        CaptionTokenizer.load(path)


def test_a_vocabulary_of_lower_case_is_read_as_version_0_1_wrote_it(tmp_path: Path) -> None:
    content = json.loads(TOKENIZER.to_json()) | {"normalizer": {"type": "Lowercase"}}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False))
    loaded = CaptionTokenizer.load(path)
    assert loaded.encode("TWO DOGS") == TOKENIZER.encode("two dogs")
    assert json.loads(loaded.to_json()) == content


def test_the_command_trains_and_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = tmp_path / "data" / "mine" / "train"
    write_records(train, [Record(train / "a.jpg", tuple(CAPTIONS))])
    arguments = ["--DATASET", "mine", "--DATA_DIR", str(tmp_path / "data"), "--VOCAB_SIZE", "300"]
    assert tokenizer_module.main(["train", *arguments]) == 0
    path = tmp_path / "data" / "mine" / "tokenizer.json"
    assert str(path) in capsys.readouterr().out
    assert tokenizer_module.main(["show", "Two dogs", "--tokenizer", str(path)]) == 0
    assert capsys.readouterr().out.startswith("<START>|")
    with pytest.raises(UserError, match="no action"):
        tokenizer_module.main(["sing"])
    with pytest.raises(UserError, match="no caption"):
        tokenizer_module.main(["show"])


def test_an_empty_caption_has_no_words() -> None:
    assert train_tokenizer(["a dog"], 300).words([]) == []
