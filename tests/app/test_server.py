"""What the page asks and is answered, and who may ask at all."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `app` is not installed")
from PIL import Image
from starlette.testclient import TestClient

from captioning.app.server import MOST_PICTURE_BYTES, Page, build
from tests.helpers.app_page import Parrot, page_of, write_reds

REDS = {"b.png": 200, "a.png": 100, "sub/c.png": 50, "d.jpg": 150}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_reds(tmp_path / "photos", REDS)


def client_of(page: Page, **of_build: Any) -> TestClient:
    return TestClient(build(page, **of_build), base_url="http://127.0.0.1:7860")


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    with client_of(page_of(folder)) as found:
        wait_for_drafts(found)
        yield found


def wait_for_drafts(client: TestClient) -> None:
    end = time.monotonic() + 20
    while True:
        drafts = client.get("/api/news").json()["drafts"]
        if not (drafts["reading"] or drafts["running"]):
            return
        assert time.monotonic() < end
        time.sleep(0.01)


def items(client: TestClient, **wanted: str) -> list[dict[str, Any]]:
    order = client.get("/api/order", params=wanted).json()
    numbers = ",".join(map(str, order["numbers"]))
    return client.get("/api/items", params={"stamp": order["stamp"], "numbers": numbers}).json()


def names(client: TestClient, **wanted: str) -> list[str]:
    return [item["name"] for item in items(client, **wanted)]


def say(client: TestClient, name: str, version: int, status: str, text: str, by: str = "w") -> Any:
    said = {"name": name, "version": version, "status": status, "text": text, "window": by}
    return client.post("/api/say", json=said)


def test_the_least_confident_come_first(client: TestClient) -> None:
    assert names(client) == ["sub/c.png", "a.png", "d.jpg", "b.png"]


def test_filters_and_search_find_what_was_said_and_names(client: TestClient) -> None:
    say(client, "a.png", 0, "accepted", "a blue boat")
    say(client, "b.png", 0, "edited", "a green boat")
    say(client, "sub/c.png", 0, "flagged", "")
    assert names(client, filter="accepted") == ["a.png"]
    assert names(client, filter="edited") == ["b.png"]
    assert names(client, filter="flagged") == ["sub/c.png"]
    assert names(client, filter="unreviewed") == ["d.jpg"]
    assert names(client, search="BOAT gre") == ["b.png"]
    assert names(client, search="sub/") == ["sub/c.png"]
    assert names(client, search="150") == ["d.jpg"]
    counts = {"all": 4, "unreviewed": 1, "edited": 1, "accepted": 1, "flagged": 1}
    assert client.get("/api/news").json()["counts"] == counts
    answer = client.get("/api/order", params={"filter": "liked"})
    assert (answer.status_code, answer.json()["error"][:25]) == (400, "There is no filter 'liked")


def test_a_stale_correction_is_refused_with_what_holds(client: TestClient) -> None:
    assert say(client, "a.png", 0, "edited", "mine", by="one").json()["item"]["version"] == 1
    refused = say(client, "a.png", 0, "edited", "yours", by="two")
    assert refused.status_code == 409
    assert refused.json()["item"]["text"] == "mine"
    news = client.get("/api/news", params={"since": 4}).json()
    assert [items(client)[1]["number"]] == news["changed"]


def test_undo_is_of_the_window_that_asks(client: TestClient) -> None:
    say(client, "a.png", 0, "edited", "mine", by="one")
    assert client.post("/api/undo", json={"window": "two"}).json() == {"item": None}
    item = client.post("/api/undo", json={"window": "one"}).json()["item"]
    assert (item["text"], item["status"], item["version"]) == ("a red of 100", "", 2)


def test_drafts_go_on_from_where_they_were(folder: Path) -> None:
    with client_of(page_of(folder)) as client:
        wait_for_drafts(client)
    with (folder / ".drafts.jsonl").open("ab") as file:
        file.write(b'{"image": "a.pn')  # by a kill
    write_reds(folder, {"new.png": 10})
    seen: list[int] = []

    class Counting(Parrot):
        def drafts(self, pictures: Sequence[Image.Image]) -> list[tuple[str, float]]:
            seen.append(len(pictures))
            return super().drafts(pictures)

    for expected in ([1], [1]):
        with client_of(page_of(folder, Counting())) as client:
            wait_for_drafts(client)
            assert names(client)[0] == "new.png"
        assert seen == expected


def test_captions_that_lie_in_the_folder_are_drafts(folder: Path) -> None:
    lines = [
        {"image": f"photos/{name}", "captions": [{"text": f"of {name}", "confidence": sure}]}
        for name, sure in (("a.png", 0.9), ("sub/c.png", 0.95), ("d.jpg", 0.2))
    ]
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = page_of(folder, is_on=False)
    say_before = page.album.corrections.change
    say_before("a.png", 0, "accepted", "mine", by="w")
    with client_of(page) as client:
        wait_for_drafts(client)
        found = [(one["name"], one["text"], one["confidence"]) for one in items(client)]
    assert found == [
        ("d.jpg", "of d.jpg", 0.2),
        ("a.png", "mine", 0.9),
        ("sub/c.png", "of sub/c.png", 0.95),
        ("b.png", "", None),
    ]
    # What was corrected is no draft, though it lies in the folder too.
    (folder / "captions.jsonl").unlink()
    with client_of(page_of(folder, is_on=False)) as client:
        wait_for_drafts(client)
        assert not any(one["draft"] for one in items(client))
        assert not client.get("/api/about").json()["notes"]


def test_text_beside_pictures_is_a_draft_that_nobody_is_sure_of(folder: Path) -> None:
    (folder / "b.txt").write_text("beside it\n")
    with client_of(page_of(folder)) as client:
        wait_for_drafts(client)
        assert names(client)[-1] == "b.png"
        assert items(client)[-1]["text"] == "beside it"


def test_a_picture_that_cannot_be_read_says_so_and_others_are_captioned(folder: Path) -> None:
    (folder / "broken.jpg").write_text("no picture")
    with client_of(page_of(folder)) as client:
        wait_for_drafts(client)
        last = items(client)[-1]
        assert "broken.jpg is text" in last["problem"]
        assert len(items(client)) == 5
        answer = client.get(f"/picture/small/{last['number']}")
        assert (answer.status_code, answer.json()["error"][:18]) == (400, "broken.jpg is text")


def test_a_model_that_fails_says_so_and_the_page_goes_on(folder: Path) -> None:
    class Failing(Parrot):
        def drafts(self, pictures: Sequence[Image.Image]) -> list[tuple[str, float]]:
            raise RuntimeError("out of memory")

    with client_of(page_of(folder, Failing())) as client:
        wait_for_drafts(client)
        assert client.get("/api/news").json()["drafts"]["problem"] == "out of memory"
        assert say(client, "a.png", 0, "edited", "mine").status_code == 200


def test_learning_is_of_what_counts_and_says_what_to_type(client: TestClient, folder: Path) -> None:
    say(client, "a.png", 0, "accepted", "a boat")
    say(client, "b.png", 0, "flagged", "")
    found = client.post("/api/learn", json={}).json()
    assert found["count"] == 1
    lines = (folder / "corrections.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"file_name": "a.png", "captions": ["a boat"]}]
    assert f"--CAPTIONS_FILE {folder}/corrections.jsonl" in found["commands"]["alone"]
    assert "--INIT_CHECKPOINT_PATH checkpoints/demo/best" in found["commands"]["alone"]


def test_the_captions_file_follows_by_itself_and_is_whole_at_the_end(folder: Path) -> None:
    with client_of(page_of(folder)) as client:
        say(client, "a.png", 0, "accepted", "a boat")
    assert "a boat" in (folder / "corrections.jsonl").read_text()


def test_trying_takes_a_picture_and_wishes(folder: Path) -> None:
    one, other = Parrot("one"), Parrot("other")
    content = (folder / "b.png").read_bytes()
    with client_of(page_of(folder, one, other, is_on=False)) as client:
        wishes = {"model": 1, "window": "w", "num_captions": 2, "method": "beam"}
        found = client.post("/api/try", params=wishes, content=content).json()["captions"]
        assert [caption["text"] for caption in found] == ["a red of 200"] * 2
        assert [word["text"] for word in found[0]["words"]] == ["a", "red", "of", "200"]
        assert found[0]["words"][0]["heat"].startswith("4:")
        assert not one.wishes
        assert other.wishes == [{"num_captions": "2", "method": "beam"}]
        refused = client.post("/api/try", params={"name": "<b>"}, content=b"nothing of a picture")
        assert refused.status_code == 400
        assert refused.json()["error"].startswith("<b> is text")
        large = client.post("/api/try", content=bytes(MOST_PICTURE_BYTES + 1))
        assert large.status_code == 413


def test_what_waits_is_given_up_when_the_window_asks_for_something_else(folder: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Parrot):
        def captions(self, picture: Image.Image, wishes: Any) -> Any:
            begun.set()
            assert go_on.wait(20)
            return super().captions(picture, wishes)

    content, codes = (folder / "b.png").read_bytes(), {}
    page = page_of(folder, Slow(), is_on=False)
    with client_of(page) as client:

        def ask(name: str) -> None:
            parameters = {"window": "w", "prefix": name}
            codes[name] = client.post("/api/try", params=parameters, content=content).status_code

        threads = []
        for name in ("runs", "waits", "newest"):
            threads.append(threading.Thread(target=ask, args=(name,)))
            threads[-1].start()
            if name == "runs":
                assert begun.wait(20)
            else:
                end = time.monotonic() + 20
                while not (page.desk._waiting or name in codes) or (
                    name == "newest" and "waits" not in codes
                ):
                    assert time.monotonic() < end
                    time.sleep(0.005)
        go_on.set()
        for thread in threads:
            thread.join()
    assert codes == {"runs": 200, "waits": 409, "newest": 200}


def test_a_page_without_a_folder_says_how_to_name_one() -> None:
    page = Page([Parrot()], beginning=None)
    with client_of(page) as client:
        assert client.get("/api/about").json()["album"] is None
        assert "--folder PICTURES" in client.get("/api/order").json()["error"]


def test_small_copies_are_all_that_is_given_out(client: TestClient, folder: Path) -> None:
    number = items(client)[0]["number"]
    answer = client.get(f"/picture/small/{number}")
    assert answer.headers["content-type"] == "image/jpeg"
    assert "immutable" in answer.headers["cache-control"]
    assert client.get("/picture/huge/0").status_code == 404
    assert client.get("/picture/small/99").status_code == 400
    for path in ("/page/../server.py", "/page/%2e%2e%2fserver.py", "/photos/b.png", "/page/x.js"):
        assert client.get(path).status_code == 404


def test_links_that_lead_out_of_the_folder_are_not_followed(folder: Path, tmp_path: Path) -> None:
    write_reds(tmp_path, {"secret.png": 1})
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    with client_of(page_of(folder)) as client:
        wait_for_drafts(client)
        assert "link.png" not in names(client)
        number = next(one["number"] for one in items(client) if one["name"] == "a.png")
        (folder / "a.png").unlink()
        (folder / "a.png").symlink_to(tmp_path / "secret.png")
        answer = client.get(f"/picture/small/{number}")
        assert "leads out of the folder" in answer.json()["error"]


STRANGE = (
    {"host": "evil.example"},
    {"host": "evil.example:7860"},
    {"host": "192.168.0.7:7860"},
    {"host": ""},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"origin": "https://evil.example"},
    {"origin": "null"},
)


def test_what_does_not_come_from_the_page_is_refused(client: TestClient) -> None:
    said = {"name": "a.png", "version": 0, "status": "edited", "text": "evil", "window": "w"}
    for headers in STRANGE:
        assert client.post("/api/say", json=said, headers=headers).status_code == 403, headers
        if "origin" not in headers:
            assert client.get("/api/order", headers=headers).status_code == 403, headers
    assert items(client)[1]["status"] == ""
    plain = {"content-type": "text/plain"}
    assert client.post("/api/say", content=json.dumps(said), headers=plain).status_code == 415


def test_a_link_from_another_page_leads_to_the_page_and_no_further(client: TestClient) -> None:
    visit = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert client.get("/", headers=visit).status_code == 200
    assert client.get("/picture/small/0", headers=visit).status_code == 403


def test_a_page_for_others_is_reached_by_address_and_by_the_names_it_was_given() -> None:
    page = Page([Parrot()], beginning=None)
    with client_of(page, host="0.0.0.0", names=("Mine.example",)) as client:
        for host, code in (
            *(("192.168.0.7:7860", 200), ("mine.example", 200), ("localhost", 200)),
            *(("evil.example", 403), ("[::1]:7860", 200)),
        ):
            assert client.get("/api/about", headers={"host": host}).status_code == code, host
        assert "https://huggingface.co" in client.get("/").headers["content-security-policy"]


def test_answers_say_what_a_page_may_do(client: TestClient) -> None:
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    text = client.get("/").text
    assert "<style" not in text
    assert "style=" not in text
    assert text.count("<script") == text.count("<script defer src=") + text.count(
        '<script type="module" src='
    )


def test_a_program_that_was_started_anew_is_noticed(client: TestClient) -> None:
    answer = client.get("/api/items", params={"stamp": "of yesterday", "numbers": "0"})
    assert answer.status_code == 410
