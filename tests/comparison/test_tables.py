"""Markdown and JSON of a comparison."""

import json
import re

from captioning.comparison.findings import findings, p_text
from captioning.comparison.tables import bytes_text, comparison_json, markdown
from tests.helpers.sample_runs import PICTURES, compared, sample_run


def rows_of(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_markdown_has_a_row_a_model_and_a_row_a_pair() -> None:
    runs = [sample_run(name, seed, right=0.4) for name in ("a|b", "c") for seed in (1, 2)]
    runs += [sample_run("d", seed, right=0.9, truth={}) for seed in (1, 2)]
    comparison = compared(runs)
    text = markdown(comparison, title="Which?", subtitle="so far")
    assert text.startswith("# Which?\n\nso far\n\nCIDEr on 24 pictures")
    rows = rows_of(text)
    head, first = rows[0], dict(zip(rows[0], rows[2], strict=True))
    assert [row[0] for row in rows[2:5]] == ["d", "a&#124;b", "c"]
    assert all(len(row) == len(head) for row in rows[:5])
    score = comparison.models[0].scores["CIDEr"]
    assert first["CIDEr"] == f"{score.value:.3f}"
    assert first["ROUGE-L"] == f"{comparison.models[0].scores['ROUGE-L'].value:.3f}"
    assert first["over seeds"] == f"[{score.seeds.low:.3f}, {score.seeds.high:.3f}]"
    assert first["over pictures"] == f"[{score.pictures.low:.3f}, {score.pictures.high:.3f}]"
    assert (first["trained"], first["frozen"]) == ("1.2 M", "86.0 M")
    assert (first["features"], first["a picture"]) == ("50 × 768", "76.8 kB")
    assert (first["an epoch"], first["to the best"]) == ("61.0 s", "60.0 s")
    assert [row[0] for row in rows[7:]] == ["d − a&#124;b", "d − c", "a&#124;b − c"]
    assert rows[9][1:4] == ["0.000", "[0.000, 0.000]", "1.000"]
    assert "decoding greedy" in text


def test_no_markup_comes_from_names() -> None:
    names = ["<script>alert(1)</script>", "![x](https://evil.example/x.png)", "`code` **bold**"]
    text = markdown(compared([sample_run(name) for name in names]), title=names[0])
    assert text.startswith("# &#60;script&#62;alert(1)")
    assert not re.search(r"<script|!\[x\]|`code`|\*\*bold", text)


def test_p_values_are_the_adjusted_ones() -> None:
    runs = [sample_run(name, right=share) for name, share in (("a", 0.8), ("b", 0.6), ("c", 0.5))]
    comparison = compared(runs)
    rows = rows_of(markdown(comparison, title="x"))[7:]
    for row in rows:
        one, other = row[0].split(" − ")
        for column, metric in ((3, "CIDEr"), (6, "BLEU-4")):
            found = comparison.difference(one, other, metric)
            assert row[column - 2] == f"{found.value:+.3f}"
            assert row[column] == p_text(found.p_adjusted)
    assert comparison.difference("a", "b").p_adjusted > comparison.difference("a", "b").p_value


def test_what_drawn_scenes_get_right_has_columns() -> None:
    truth = {"relation": 0.5, "attention_inside_by_chance": 0.1}
    comparison = compared([sample_run(name, truth=truth) for name in "ab"])
    head, _, row, *_ = rows_of(markdown(comparison, title="x"))
    assert dict(zip(head, row, strict=True))["relation"] == "50.0 %"
    assert not [name for name in head if "chance" in name]


def test_one_seed_has_no_interval_over_seeds() -> None:
    rows = rows_of(markdown(compared([sample_run("a"), sample_run("b")]), title="x"))
    assert dict(zip(rows[0], rows[2], strict=True))["over seeds"] == "–"
    text = markdown(compared([sample_run("a"), sample_run("b")]), title="x")
    assert "Chance is of pictures alone, by the bootstrap over the same pictures" in text


def test_the_json_holds_every_number() -> None:
    comparison = compared([sample_run("a", 1), sample_run("a", 2), sample_run("b", right=0.2)])
    content = json.loads(json.dumps(comparison_json(comparison), allow_nan=False))
    assert content["pictures"] == PICTURES
    assert content["findings"] == findings(comparison)
    model, other = content["models"]
    score = comparison.models[0].scores["CIDEr"]
    assert model["scores"]["CIDEr"] == {
        "value": score.value,
        "each_seed": list(score.each),
        "over_seeds_95": [score.seeds.low, score.seeds.high],
        "over_pictures_95": [score.pictures.low, score.pictures.high],
    }
    assert "BLEU-1" in model["scores"]
    assert [run["seed"] for run in model["runs"]] == [1, 2]
    assert model["runs"][0]["curve"][0]["seconds"] == 60.0
    assert other["scores"]["CIDEr"]["over_seeds_95"] is None
    assert (model["feature_bytes"], model["parameters_trained"]) == (76_800, 1_200_000)
    assert content["differences"][0].keys() >= {"first", "second", "p_value", "p_adjusted"}
    interval = comparison.differences[0].interval
    assert content["differences"][0]["interval"] == [interval.low, interval.high]
    assert content["differing_settings"] == ["ENCODER_MODEL_NAME"]


def test_sizes() -> None:
    assert (bytes_text(4_096), bytes_text(1_250_000)) == ("4.1 kB", "1.2 MB")
