"""The page of a comparison, in text and in a browser."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from captioning.comparison.comparing import Comparison
from captioning.comparison.page import picture_groups, render_comparison, write_comparison
from captioning.reports.charts import IntervalRow, interval_chart
from captioning.system.errors import UserError
from tests.helpers.sample_runs import PICTURES, compared, sample_run
from tests.helpers.webdriver import open_browser

INJECTION = "<script>window.injected = 1</script>"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "field.png"
    Image.new("RGB", (120, 90), "seagreen").save(path)
    return path


@pytest.fixture(scope="module")
def comparison(image: Path) -> Comparison:
    """Three models with two seeds each, one with a name that could do harm."""
    shares = {"CLIP": (0.9, 0.8), "ViT": (0.5, 0.5), INJECTION: (0.1, 0.2)}
    truth = {"objects_and_colours": 0.5}
    return compared(
        [
            sample_run(name, seed, right=share, image=image, truth=truth)
            for name, both in shares.items()
            for seed, share in enumerate(both, start=1)
        ]
    )


def test_three_files_are_written(comparison: Comparison, tmp_path: Path) -> None:
    write_comparison(comparison, tmp_path / "new", title="Which?", more={"plan": 3})
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["comparison.html", "comparison.json", "comparison.md"]
    content = json.loads((tmp_path / "new" / "comparison.json").read_text())
    assert (content["title"], content["plan"], len(content["models"])) == ("Which?", 3, 3)


def test_the_page_shows_the_numbers(comparison: Comparison) -> None:
    text = re.sub(r"<[^>]+>|\s+", " ", render_comparison(comparison, title="Which?"))
    text = re.sub(r"\s+", " ", text)
    score = comparison.models[0].scores["CIDEr"]
    assert f"CLIP {score.value:.3f} pictures [{score.pictures.low:.3f}" in text
    assert f"seeds [{score.seeds.low:.3f}, {score.seeds.high:.3f}]" in text
    assert "50 × 768 76.8 kB a picture" in text
    found = comparison.difference("CLIP", "ViT")
    assert f"{found.value:+.3f} [{found.interval.low:.3f}, " in text
    assert "objects and colours" in text
    assert "A line a seed." in text


def test_the_pictures_shown_are_those_on_which_models_disagree(image: Path) -> None:
    one = sample_run("a", right=[True] * PICTURES)
    other = sample_run("b", right=[number != 17 for number in range(PICTURES)])
    groups = picture_groups(compared([one, other]))
    assert groups["apart"][0] == 17
    assert len(groups["apart"]) == len(groups["random"]) == 12
    assert not set(groups["apart"]) & set(groups["random"])
    assert groups == picture_groups(compared([one, other]))


def test_a_picture_that_is_gone_is_named(tmp_path: Path) -> None:
    comparison = compared([sample_run(name, image=tmp_path / "gone.png") for name in "ab"])
    with pytest.raises(UserError, match=r"gone\.png"):
        write_comparison(comparison, tmp_path, title="x")
    assert not list(tmp_path.iterdir())


def test_intervals_are_drawn_to_scale() -> None:
    rows = [IntervalRow("a", 1.0, 0.0, 2.0, (0.5, 1.5), 1), IntervalRow("<b>", 2, 2, 2, (), 3)]
    chart = interval_chart(rows, name="CIDEr")
    bar = re.search(r'class="line series-1" d="M([\d.]+) \d+H([\d.]+)"', chart)
    dot = re.search(r'class="dot series-1" cx="([\d.]+)"', chart)
    parts = re.findall(r'class="part series-1" cx="([\d.]+)"', chart)
    assert bar
    assert dot
    low, high = map(float, bar.groups())
    assert float(dot[1]) == pytest.approx((low + high) / 2, abs=0.1)
    assert [float(part) for part in parts] == pytest.approx(
        [low + (high - low) / 4, low + (high - low) * 3 / 4], abs=0.1
    )
    assert "<b>" not in chart.replace("<b>CIDEr</b>", "")
    assert "nan" not in interval_chart([IntervalRow("a", 0, 0, 0, (), 1)], name="x")


def test_the_page_in_a_browser(comparison: Comparison, tmp_path: Path) -> None:
    write_comparison(comparison, tmp_path, title=f"Which? {INJECTION}")
    with open_browser(tmp_path / "profile") as page:
        page.resize(1280, 900)
        page.prefer("light")
        page.open(tmp_path / "comparison.html")
        assert page.script("return window.injected ?? null") is None
        sections = page.script("return [...document.querySelectorAll('section')].map(s => s.id)")
        assert sections == ["findings", "scores", "differences", "curves", "pictures", "run"]
        cards = "return [...document.querySelectorAll('.card')].filter(c => !c.hidden).length"
        assert page.script(cards) == PICTURES
        page.click("[data-group=apart]")
        assert page.script(cards) == 12
        page.click("[data-group='']")
        page.type("#search", "bird sings")
        assert 0 < page.script(cards) < PICTURES
        said = page.script(
            "return document.querySelectorAll('.card')[0].querySelectorAll('.said li').length"
        )
        assert said == 3
        ahead = "return document.querySelectorAll('td.ahead').length"
        assert page.script(ahead) > 0
        for width in (320, 390):
            page.resize(width, 800, phone=True)
            assert page.script("return document.documentElement.scrollWidth") == width
        colour = "return getComputedStyle(document.body).backgroundColor"
        light = page.script(colour)
        page.prefer("dark")
        assert page.script(colour) != light
        assert page.console() == []
        assert [one for one in page.requested() if not one.startswith("file:")] == []
