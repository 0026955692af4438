"""The report: what stands in the page, and how it behaves in a real browser."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioning.metrics.intervals import describe_captions
from captioning.reports.report import (
    Report,
    ReportedScore,
    render_report,
    write_report,
)
from captioning.sources.records import CaptionedPicture, WordHeat
from captioning.system.errors import UserError
from tests.helpers.webdriver import Browser, open_browser

INJECTION = "<script>window.injected = 1</script>\"'><img src=x onerror='window.injected=1'>"
ARABIC = "كلب يركض على العشب"
EMOJI = "a dog 🐶 and a family 👨‍👩‍👧"
LONG_WORD = "supercalifragilistic" * 12
SHOWN_CARDS = "return [...document.querySelectorAll('.card')].filter(c => !c.hidden)"


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "field.png"
    Image.new("RGB", (120, 90), "seagreen").save(path)
    return path


def corner_heat(row: int, column: int) -> np.ndarray:
    heat = np.zeros((4, 6))
    heat[row, column] = 1.0
    return heat


def full_report(picture: Path) -> Report:
    item = CaptionedPicture(
        image=picture,
        caption="a red dog",
        references=("a dog runs", "one brown dog on grass"),
        scores={"CIDEr": 1.5, "BLEU-4": 0.2},
        confidence=0.8,
        correct=True,
        words=(
            WordHeat("a", corner_heat(0, 5)),
            WordHeat("red", corner_heat(3, 0)),
            WordHeat("dog", np.zeros((4, 6))),
        ),
    )
    plain = replace(item, words=())
    items = (
        item,
        replace(
            plain,
            caption="a blue cat sits there",
            references=("cat",),
            confidence=0.5,
            correct=False,
        ),
        replace(plain, caption=INJECTION, scores={"CIDEr": math.nan}, confidence=math.nan),
        replace(
            plain,
            caption=ARABIC,
            scores=json.loads('{"CIDEr": 0.1, "BLEU-4": null}'),
            confidence=None,
        ),
        replace(plain, caption=EMOJI, scores={"CIDEr": 0.4}, confidence=0.3, correct=None),
        replace(plain, caption=LONG_WORD, references=(), scores={"CIDEr": 0.0}),
        replace(plain, caption="", scores={}, image=Path()),
    )
    training = [{"step": step, "loss": 4 / step, "learning_rate": 1e-4} for step in range(1, 90)]
    validation = {"step": 50, "validation_loss": 1.0, "CIDEr": 0.5, "BLEU-4": math.nan}
    return Report(
        title=f"Demo {INJECTION}",
        subtitle=INJECTION,
        scores=(
            ReportedScore(name="CIDEr", value=0.6213, low=0.588, high=0.655),
            ReportedScore(name="BLEU-4", value=0.25),
            ReportedScore(name="METEOR", value=None, skipped="Java was not found"),
            ReportedScore(name="SPICE", value=math.nan),
        ),
        items=items,
        curves=(*training, validation),
        warnings=(f"Beware {INJECTION}",),
        diversity=describe_captions(["a dog", "a cat"], {"a cat"}),
        measures={"pointed at": 12_843, "share": 0.08124},
        protocol={"split": "test", "decoding": INJECTION},
        settings={"DATASET": INJECTION, "CACHE_FEATURES": True, "LEARNING_RATE": 0.0005},
        provenance={"commit": LONG_WORD},
    )


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, picture: Path, tmp_path: Path) -> Browser:
    """The full report, freshly loaded on a desktop."""
    write_report(tmp_path / "report.html", full_report(picture))
    browser.resize(1280, 900)
    browser.prefer("light")
    browser.console()
    browser.requested()
    browser.open(tmp_path / "report.html")
    return browser


def shown(page: Browser) -> list[str]:
    """Captions of the cards to be seen, in their order, by their first word."""
    captions = page.script(f"{SHOWN_CARDS}.map(c => c.querySelector('.caption').textContent)")
    return [(caption.split() or [""])[0] for caption in captions]


def test_scores_stand_with_their_intervals_and_reasons(picture: Path) -> None:
    text = re.sub(r"<[^>]+>|\s+", " ", render_report(full_report(picture)))
    text = re.sub(r"\s+", " ", text)
    assert "CIDEr 0.621 0.588 – 0.655" in text
    assert "BLEU-4 0.250 " in text
    assert "METEOR was not computed: Java was not found" in text
    assert "SPICE was not computed: no reason was given" in text
    assert text.count("was not computed") == 2
    assert "distinct-1 0.75 distinct-2 1 vocabulary 3 tokens a caption 2 " in text
    assert "also in training 50.0% novel captions 50.0% pointed at 12,843 share 0.08124" in text
    assert "CACHE_FEATURES yes LEARNING_RATE 0.0005" in text


def test_calibration_counts_what_was_checked_and_has_a_confidence(picture: Path) -> None:
    page = render_report(full_report(picture))
    assert "<dt>Captions checked</dt><dd>4</dd>" in page
    assert "<dt>Share right</dt><dd>75.0 %</dd>" in page
    assert "<dt>Mean confidence</dt><dd>0.725</dd>" in page
    assert "3 captions of confidence 0.80: 100% right" in page
    unchecked = CaptionedPicture(caption="a dog", confidence=0.5)
    assert "Captions checked" not in render_report(Report(title="t", items=(unchecked,)))


def test_an_empty_report_is_a_page() -> None:
    page = render_report(Report(title="Nothing yet"))
    assert "No pictures were evaluated." in page
    assert "<svg" not in page
    assert "nan" not in page.lower().split("<main>")[1].split("<script>")[0]


def test_numbers_that_are_none_are_a_dash(picture: Path) -> None:
    item = CaptionedPicture(
        caption="a dog", scores={"CIDEr": math.nan, "BLEU-4": math.inf}, confidence=math.nan
    )
    curves = ({"step": 1, "loss": math.nan}, {"epoch": 1}, {"step": None, "loss": 1.0})
    page = render_report(Report(title="t", items=(item,), curves=curves))
    body = page.split("<main>")[1].split("<script>")[0]
    assert body.count("<dd>–</dd>") == 2
    assert "Learning curves" not in body
    assert not re.search(r"\b(nan|inf|none)\b", body.lower())


def test_the_file_embeds_the_gallery_only(picture: Path) -> None:
    items = [
        CaptionedPicture(image=picture, caption=f"dog {i}", scores={"CIDEr": i / 99})
        for i in range(300)
    ]
    page = render_report(Report(title="t", items=tuple(items)))
    embedded = page.count('src="data:image/webp;base64,')
    assert 48 <= embedded <= 72
    assert "dog 299" in page
    assert "dog 0<" in re.sub(r"\s*</p>", "<", page)
    assert f"{embedded} of 300 evaluated pictures" in page


def test_nothing_outside_the_file_is_named(picture: Path) -> None:
    page = render_report(full_report(picture))
    assert not re.search(r"https?:", page)
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page.replace("src=x", ""))


def test_one_caption_for_many_pictures_is_warned_of() -> None:
    captions = ["a man"] * 30 + [f"dog {i}" for i in range(30)]
    loud = render_report(Report(title="t", diversity=describe_captions(captions)))
    assert re.search(r'role="alert">30 of 60 pictures \(50%\) got the same caption, .*a man', loud)
    quiet = render_report(Report(title="t", diversity=describe_captions(captions[29:])))
    assert 'role="alert"' not in quiet


def test_repeated_captions_are_listed() -> None:
    captions = ["a man", "a man", "a man", "a dog", "a dog", "a cat"]
    items = tuple(CaptionedPicture(caption=caption) for caption in captions)
    page = render_report(Report(title="t", items=items))
    listed = re.findall(
        r'<li style="--share: ([\d.]+)%"><span dir="auto">(.*?)</span><b>(\d)', page
    )
    assert listed == [("100.0", "a man", "3"), ("66.7", "a dog", "2")]


def test_a_page_is_written_whole_or_not_at_all(picture: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    write_report(path, Report(title="half a pair \ud83d"))
    before = path.read_text(encoding="utf-8")
    assert "half a pair ?" in before
    broken = CaptionedPicture(image=tmp_path / "gone.jpg", caption="a dog")
    with pytest.raises(UserError, match=r"gone\.jpg is missing"):
        write_report(path, Report(title="t", items=(broken,)))
    assert path.read_text(encoding="utf-8") == before
    assert list(path.parent.iterdir()) == [path]


def test_the_page_is_silent_and_asks_for_nothing(page: Browser, tmp_path: Path) -> None:
    assert page.console() == []
    assert page.requested() == [(tmp_path / "report.html").as_uri()]


def test_the_page_may_not_use_the_network(page: Browser) -> None:
    page.script(
        "const i = new Image(); i.src = 'http://127.0.0.1:9/a.png'; document.body.append(i)"
    )
    assert any("Content Security Policy" in line for line in page.console())


def test_what_captions_say_is_text(page: Browser) -> None:
    assert page.script("return window.injected ?? null") is None
    assert page.script("return document.title") == f"Demo {INJECTION}"
    assert INJECTION in page.script("return document.querySelector('[role=alert]').textContent")
    captions = page.script(
        f"{SHOWN_CARDS}.map(c => c.querySelector('.caption').textContent.trim())"
    )
    assert {INJECTION, ARABIC, EMOJI, LONG_WORD, "(empty)"} < set(captions)
    alternatives = page.script("return [...document.querySelectorAll('.card img')].map(i => i.alt)")
    assert {INJECTION, ARABIC, EMOJI} < set(alternatives)


def test_arabic_runs_from_right_to_left(page: Browser) -> None:
    directions = page.script(
        f"{SHOWN_CARDS}.map(c => getComputedStyle(c.querySelector('.caption')).direction)"
    )
    assert directions[shown(page).index("كلب")] == "rtl"
    assert directions.count("rtl") == 1


def test_the_search_looks_into_captions_and_references(page: Browser) -> None:
    assert len(shown(page)) == 7
    page.type("#search", "BLUE sits")
    assert page.script(f"{SHOWN_CARDS}.map(c => c.dataset.correct)") == ["wrong"]
    assert page.script("return document.getElementById('count').textContent") == "1 of 7 pictures"
    page.script("document.getElementById('search').value = ''")
    page.type("#search", "brown")
    assert len(shown(page)) == 5
    page.type("#search", " zebra")
    assert shown(page) == []
    assert page.script("return document.getElementById('nothing').checkVisibility()")


def test_groups_and_correctness_filter(page: Browser) -> None:
    page.click("[data-group=best]")
    assert page.script(f"{SHOWN_CARDS}.map(c => c.dataset.correct)") == ["right"]
    assert shown(page) == ["a"]
    page.click("[data-group=worst]")
    assert shown(page) == [LONG_WORD]
    page.click("[data-group='']")
    page.click("#correctness option[value=wrong]")
    assert page.script(f"{SHOWN_CARDS}.map(c => c.dataset.correct)") == ["wrong"]


@pytest.mark.parametrize(
    ("choice", "key"), [("CIDEr", "CIDEr"), ("confidence", "confidence"), ("length", "length")]
)
def test_sorting_puts_missing_numbers_last_both_ways(page: Browser, choice: str, key: str) -> None:
    page.click(f"#sort option[value='{choice}']")
    for reverse in (True, False):
        cards = page.script(f"{SHOWN_CARDS}.map(c => c.dataset.keys)")
        keys = [json.loads(card)[key] for card in cards]
        numbers = [number for number in keys if number is not None]
        assert len(set(numbers)) > 2
        assert numbers == sorted(numbers, reverse=reverse)
        assert keys == numbers + [None] * (len(keys) - len(numbers))
        page.click("#direction")


def brightest(page: Browser) -> list[float] | None:
    """Where the heat over the first picture peaks, as shares of its width and height."""
    return page.script(
        """
        const canvas = document.querySelector('.card:has(.word) canvas');
        if (!canvas.checkVisibility()) return null;
        const {width, height} = canvas;
        const data = canvas.getContext('2d').getImageData(0, 0, width, height).data;
        const opacity = data.filter((_, i) => i % 4 === 3);
        const peak = opacity.indexOf(Math.max(...opacity));
        return [(peak % width) / width, Math.floor(peak / width) / height];
        """
    )


def test_a_word_shows_what_it_looked_at(page: Browser) -> None:
    assert brightest(page) is None
    page.click(".word:nth-of-type(1)")
    x, y = brightest(page)
    assert x > 5 / 6
    assert y < 1 / 4
    page.click(".word:nth-of-type(2)")
    x, y = brightest(page)
    assert x < 1 / 6
    assert y > 3 / 4
    pressed = "return [...document.querySelectorAll('.word')].map(w => w.ariaPressed)"
    assert page.script(pressed) == ["false", "true", "false"]
    page.click(".word:nth-of-type(2)")
    assert brightest(page) is None
    assert page.script(pressed) == ["false"] * 3


def test_the_heat_lies_on_the_picture(page: Browser) -> None:
    page.click(".word")
    boxes = page.script(
        """
        const frame = document.querySelector('.frame.heated');
        return [...frame.querySelectorAll('img, canvas')].map(part => {
          const {x, y, width, height} = part.getBoundingClientRect();
          const style = getComputedStyle(part);
          const ratio = (part.naturalWidth ?? part.width) / (part.naturalHeight ?? part.height);
          return [x, y, width, height, style.objectFit, style.objectPosition, ratio];
        });
        """
    )
    assert boxes[0] == boxes[1]


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_needs_no_sideways_scrolling(page: Browser, width: int) -> None:
    page.resize(width, 800, phone=True)
    page.script("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert page.script("return document.documentElement.scrollWidth") == width
    too_wide = page.script(
        "return [...document.querySelectorAll('main *, header *')]"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.frame'))"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert too_wide == []


def test_light_and_dark_follow_the_system_or_the_button(page: Browser) -> None:
    def luminance() -> int:
        colour = page.script("return getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3]))

    light = luminance()
    page.prefer("dark")
    dark = luminance()
    assert dark < 150 < 600 < light
    page.click("#theme")
    assert luminance() == light
    page.click("#theme")
    page.prefer("light")
    assert luminance() == dark
    page.click("#theme")
    assert luminance() == light
