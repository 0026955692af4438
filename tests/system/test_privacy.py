"""Secrets and places are taken out of what leaves the machine, and of what is said."""

from pathlib import Path

import pytest

from captioning.system.errors import UserError
from captioning.system.privacy import mask_urls, shareable, shareable_words, without_places


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https://alice:PW@host/x", "https://***@host/x"),
        ("https://alice:P@W@host/x", "https://***@host/x"),
        ("https://alice:P/W@host/x", "https://***@host/x"),
        ("https://TOKEN@host:8080/x?a=1", "https://***@host:8080/x?a=1"),
        ("s3://key:secret@bucket/x", "s3://***@bucket/x"),
        ("https://host:8080/a@b.png", "https://host:8080/a@b.png"),
        ("http://[::1]:80/a@b.png", "http://[::1]:80/a@b.png"),
        ("https://h/x?token=T&id=7#sig=T", "https://h/x?token=***&id=7#sig=***"),
        (
            "https://h/?X-Amz-Signature=T&X-Amz-Date=1",
            "https://h/?X-Amz-Signature=***&X-Amz-Date=1",
        ),
        ("https://h/?AWSAccessKeyId=T&barcode=1", "https://h/?AWSAccessKeyId=***&barcode=1"),
        ("at https://a:b@h/x and https://c:d@i/y", "at https://***@h/x and https://***@i/y"),
        ("is this me@example.org? sig=3", "is this me@example.org? sig=3"),
    ],
)
def test_secrets_of_addresses_are_masked(text: str, masked: str) -> None:
    assert mask_urls(text) == masked
    assert str(UserError(text, "two")) == f"{masked}\ntwo"


@pytest.mark.parametrize(
    "text", ["https://" + "a:" * 50_000, "https://" + "@a" * 50_000, "https://h/?" + "a-" * 50_000]
)
def test_an_address_that_is_made_for_it_takes_no_time(text: str) -> None:
    assert len(mask_urls(text)) <= len(text)


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("/home/alice/a.zip", "a.zip"),
        ("/tmp/alice's data/small clip/", "small clip"),
        ("~/clips", "clips"),
        ("~alice/clips", "clips"),
        ("random:/home/alice/enc", "random:enc"),
        ("/d/alice/*.tar = 3; /e/f/*.parquet = 1; r/*.tar", "*.tar = 3; *.parquet = 1; r/*.tar"),
        ("file:///home/alice/x.tar", "x.tar"),
        ("zip://a.tar::/home/alice/x.zip", "zip://a.tar::x.zip"),
        ("C:\\Users\\alice\\x", "x"),
        ("https://host/x.tar", "https://host/x.tar"),
        ("user/name@revision", "user/name@revision"),
        ("checkpoints/run", "checkpoints/run"),
        ("either / or", "either / or"),
    ],
)
def test_of_places_the_last_part_is_kept(text: str, without: str) -> None:
    assert without_places(text) == without


def test_of_the_home_folder_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/alice"))
    assert without_places("/home/alice") == without_places("~") == ""


def test_settings_and_command_lines_are_shareable() -> None:
    assert shareable({"DATA_DIR": "/big/data", "ENCODER_TOKENS": "cls", "EPOCHS": 3}) == {
        "DATA_DIR": "data",
        "ENCODER_TOKENS": "cls",
        "EPOCHS": 3,
    }
    words = ["/home/alice/train.py", "--DATA_DIR=/big/data", "--STREAM", "https://a:b@h/x?key=k"]
    assert shareable_words(words) == [
        "train.py",
        "--DATA_DIR=data",
        "--STREAM",
        "https://***@h/x?key=***",
    ]
