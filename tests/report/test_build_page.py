"""report.html in a real browser: the verdict first, its figures report.json's, and nothing asked of the network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeprune.errors import EdgepruneError
from edgeprune.records import Benchmark, Load, Report, TuneCandidate, read_json, write_json
from edgeprune.records.benchmark import Energy
from edgeprune.report.build_page import name_of, page
from edgeprune.report.renew import renew
from edgeprune.report.samples import pictures
from edgeprune.workshop import Workshop
from tests.bench.colours import bundle
from tests.conftest import ROOT
from tests.report.builds import Built, build
from tests.report.conftest import Explained, Tabs
from tests.report.look import CONTRAST, OVERLAPS


def counting(found: Benchmark, **changes: Any) -> Benchmark:
    """The same run as if nothing had disturbed it, with other things that a device might report."""
    return found.model_copy(update={"run": found.run.model_copy(update={"void": (), **changes})})


def test_the_verdict_comes_first_and_says_ratio_interval_and_drop(tabs: Tabs, accepted: Built) -> None:
    verdict = accepted.report.verdict
    assert verdict.comparison.build == "pruned fp32"  # the faster bf16 forgot a class
    tab = tabs(accepted.page())
    assert tab.title() == "colours: accepted"
    said = tab.locator("main").inner_text()
    assert said.startswith("Accepted: ")
    assert tab.locator("h1").bounding_box()["y"] < 100
    header = tab.locator("header").inner_text()
    result = verdict.comparison
    for figure in (result.ratio, result.low, result.high):
        assert f"{figure:.3f}" in header
    for reason in verdict.reasons:
        assert reason in header
    headings = tab.locator("h1, h2").all_inner_texts()
    assert [text for text in headings[1:] if "load" not in text] == [
        "Key figures", "Latency and accuracy", "Candidates", "Widths", "Latency of the race", "What they see",
        "The same numbers as in training", "Environment", "How to reproduce",
    ]  # fmt: skip


def test_figures_are_those_of_the_twin(tabs: Tabs, accepted: Built) -> None:
    report = read_json(accepted.folder / "report.json", Report, EdgepruneError)
    tab = tabs(accepted.page())
    rows = tab.locator("section:has(#candidates) tbody tr").all()
    assert len(rows) == len(report.rows) == 4
    for shown, row, candidate in zip(rows, report.rows, report.candidates, strict=True):
        cells = shown.locator("th, td").all_inner_texts()
        q, (low, high) = row.latency_ms, candidate.p50_interval_ms
        assert cells[0] == name_of(row)
        assert cells[1:3] == [f"{row.map50_95:.4f}", f"{row.map50:.4f}"]
        assert cells[3].split("\n") == [f"{q.p50:.2f}", f"{low:.2f} to {high:.2f}"]
        assert cells[4:7] == [f"{q.p90:.2f}", f"{q.p99:.2f}", str(q.samples)]
        assert cells[8] == candidate.artifact_sha256[:12]
    reasons = tab.locator("dl.reasons").inner_text()
    for candidate in report.candidates:
        assert candidate.why in reasons
    assert "not raced: this processor has no kernels for it" in reasons
    tiles = tab.locator(".tiles").inner_text()
    parent, chosen = report.rows[1], report.rows[2]
    assert f"{parent.latency_ms.p99:.2f} → {chosen.latency_ms.p99:.2f} ms" in tiles
    assert f"{parent.map50_95:.4f} → {chosen.map50_95:.4f}" in tiles
    assert f"{chosen.latency_ms.p50 / parent.latency_ms.p50 - 1:+.1%}".replace("-", "−") in tiles
    for digest in report.inputs.values():
        assert digest in tab.locator("section:has(#reproduce)").inner_text()
    assert report.origin is not None
    assert report.origin.command in tab.locator("section:has(#reproduce) pre").first.inner_text()


def test_pictures_have_a_mark_for_everything_that_was_measured(tabs: Tabs, accepted: Built) -> None:
    report, tab = accepted.report, tabs(accepted.page())
    assert report.latencies is not None

    def count(name: str, what: str) -> int:
        return int(tab.locator(f"section:has(#{name}) .wide {what}").count())

    assert count("plane", ".mark") == 4
    assert count("plane", ".mark.parent") == count("plane", ".mark.chosen") == 1
    assert count("plane", "line.whisker") == 12
    assert count("plane", ".agreed") == 1
    assert count("widths", "rect.before") == count("widths", "rect.chosen") == len(report.widths) > 60
    assert count("latency", "circle.dot") == len(report.latencies.blocks)
    shown = [report.verdict.comparison.parent, report.verdict.comparison.build]
    assert count("latency", "rect.bar") == sum(bool(n) for e in shown for n in report.latencies.counts[e])
    assert count("latency", "line.percentile") == 6
    for name in ("plane", "widths", "latency"):
        narrow = tab.locator(f"section:has(#{name}) .narrow svg")
        assert narrow.count() == tab.locator(f"section:has(#{name}) .wide svg").count()
        assert not narrow.first.is_visible()


def test_marks_lie_where_their_figures_are(tabs: Tabs, accepted: Built) -> None:
    """Latency to the right and accuracy up, in proportion, from zero."""
    tab, rows = tabs(accepted.page()), accepted.report.rows
    x, y = zip(*(_centre(mark) for mark in tab.locator("section:has(#plane) .wide .mark").all()), strict=True)
    zero = _centre(tab.locator("section:has(#plane) .wide text.tick", has_text=re.compile("^0$")).last)[0]
    for at, row in zip(x, rows, strict=True):
        assert (at - zero) / (x[0] - zero) == pytest.approx(row.latency_ms.p50 / rows[0].latency_ms.p50, abs=0.01)
    assert y[3] > y[2] + 20
    assert y[0] == pytest.approx(y[2], abs=1)


@pytest.mark.parametrize("width", [375, 1280])
def test_labels_keep_off_each_other(tabs: Tabs, accepted: Built, width: int) -> None:
    tab = tabs(accepted.page(), width)
    for name in ("plane", "latency"):
        assert tab.evaluate(OVERLAPS, f"section:has(#{name})") == []


@pytest.mark.parametrize("width", [320, 375, 768, 1280])
def test_the_page_is_never_wider_than_its_screen(tabs: Tabs, accepted: Built, measured: Benchmark, width: int) -> None:
    tab = tabs(accepted.page(benchmark=measured), width, 700)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    for summary in tab.locator("summary").all():
        summary.click()
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_boxes_are_drawn_where_the_predictions_are(tabs: Tabs, accepted: Built) -> None:
    tab = tabs(accepted.page())
    views = tab.locator("svg.view").all()
    sides = [(sample, boxes) for sample in accepted.report.samples for boxes in (sample.parent, sample.build)]
    assert len(views) == len(sides) > 0
    for view, (sample, boxes) in zip(views, sides, strict=True):
        frame = view.bounding_box()
        scale = frame["width"] / sample.size[0]
        assert frame["height"] / sample.size[1] == pytest.approx(scale, rel=0.01)
        assert view.locator("rect.labelled").count() == len(sample.truth)
        drawn = [rectangle.bounding_box() for rectangle in view.locator("rect.found").all()]
        expected = [(frame["x"] + b.bbox[0] * scale, frame["y"] + b.bbox[1] * scale, b.bbox[2] * scale) for b in boxes]
        found = sorted((b["x"], b["y"], b["width"]) for b in drawn)
        for (left, top, wide), (x, y, w) in zip(found, sorted(expected), strict=True):
            assert (left, top, wide) == pytest.approx((x, y, w), abs=2.5)  # half the line on either side


def test_both_sides_show_the_picture(tabs: Tabs, accepted: Built) -> None:
    tab = tabs(accepted.page())
    assert tab.locator("svg.view image").count() == tab.locator("svg.view use").count() == len(accepted.report.samples)
    loaded = tab.evaluate(
        "Promise.all([...document.querySelectorAll('image')].map(async n => {"
        "  const i = new Image(); i.src = n.getAttribute('href'); await i.decode(); return i.naturalWidth; }))"
    )
    assert loaded == [64] * len(accepted.report.samples)
    assert "no picture" in page(accepted.report, {}).decode()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_can_be_read(tabs: Tabs, accepted: Built, measured: Benchmark, theme: str) -> None:
    for content in (accepted.page(benchmark=measured), accepted.page(_rejected(accepted.report))):
        assert tabs(content, theme=theme).evaluate(CONTRAST) == []


def test_themes_follow_the_system_and_the_switch(tabs: Tabs, accepted: Built) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light, dark = (tabs(accepted.page(), theme=theme) for theme in ("light", "dark"))
    bright, dim = light.evaluate(ground), dark.evaluate(ground)
    assert bright != dim
    light.locator("label", has_text="dark").click()
    assert light.evaluate(ground) == dim
    dark.keyboard.press("Tab")
    dark.keyboard.press("ArrowRight")
    assert dark.evaluate(ground) == bright


def test_it_prints_in_light_colours_without_the_switch(tabs: Tabs, accepted: Built) -> None:
    tab = tabs(accepted.page(), theme="dark")
    tab.locator("label", has_text="dark").click()
    tab.emulate_media(media="print")
    assert tab.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"
    assert not tab.locator(".themes").is_visible()
    assert tab.locator("section:has(#plane) .wide svg").is_visible()
    made = tab.pdf(format="A4")
    assert made.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", made)) <= 12


def test_headings_tables_and_pictures_have_their_words(tabs: Tabs, accepted: Built, measured: Benchmark) -> None:
    tab = tabs(accepted.page(benchmark=measured))
    assert tab.locator("h1").count() == 1
    assert tab.locator("table").count() == tab.locator("table > caption").count() > 3
    assert tab.locator("svg:not([aria-label]):not([aria-hidden])").count() == 0
    assert tab.locator(".scroll:not([tabindex='0'])").count() == 0
    assert tab.locator("section:not([aria-labelledby])").count() == 0
    ids = tab.evaluate("[...document.querySelectorAll('[id]')].map(n => n.id)")
    assert len(ids) == len(set(ids))


def test_names_from_outside_are_text_and_never_markup(
    tabs: Tabs, tmp_path: Path, explained: Explained, accepted: Built
) -> None:
    evil = "a" * 60 + "</title></style><script>alert(1)</script><img src=x onerror=alert(2)>\"'&lt;"
    names = {0: evil, 1: "tall", 2: "wide"}
    report = build(tmp_path / "evil", explained.model, explained.plan, names=names)
    environment = report.environment | {"cpu": evil, evil: "x"}
    report = report.model_copy(update={"target": evil, "environment": environment, "notes": (evil,)})
    tab = tabs(page(report, pictures(tmp_path / "evil", report.samples)))
    assert tab.locator("script, img, iframe").count() == 0
    assert tab.title() == f"{evil}: accepted"
    assert evil in tab.locator("section:has(#samples) .legend").inner_text()
    assert tab.locator("section:has(#environment)").inner_text().count(evil) == 2
    tab.set_viewport_size({"width": 375, "height": 700})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375
    plain = tabs(accepted.page())
    assert tab.locator("main > *").count() == plain.locator("main > *").count()


def _rejected(report: Report) -> Report:
    return report.model_copy(update={"verdict": report.verdict.model_copy(update={"accepted": False})})


def test_a_rejected_build_says_what_it_lost(tabs: Tabs, tmp_path: Path, explained: Explained) -> None:
    engines = {"parent fp32": (8.0, True), "pruned fp32": (4.0, False)}
    report = build(tmp_path / "build", explained.model, explained.plan, engines=engines)
    tab = tabs(page(report, pictures(tmp_path / "build", report.samples)))
    said = tab.locator("h1").inner_text()
    assert said.startswith("Rejected: ")
    assert f"but mAP50-95 {report.verdict.map_drop:.4f} lower where 0.01 is agreed" in said
    assert "NOT good enough" in tab.locator("header").inner_text()
    assert "has no bundle" in tab.locator("section:has(#load)").inner_text()
    colour = tab.evaluate("getComputedStyle(document.querySelector('header h1 b')).color")
    assert colour == "rgb(164, 39, 28)"


def test_a_report_from_before_shows_what_it_has(tabs: Tabs, accepted: Built) -> None:
    fields = {
        "candidates": (), "latencies": None, "widths": (), "parity": (), "samples": (), "origin": None,
    }  # fmt: skip
    tab = tabs(page(accepted.report.model_copy(update=fields), {}), 375)
    assert tab.locator("h1").inner_text().startswith("Accepted")
    assert tab.locator("section:has(#widths)").count() == 0
    assert tab.locator("section:has(#candidates) tbody tr").count() == 4


def test_the_same_report_gives_the_same_small_page_without_a_script(accepted: Built) -> None:
    made = accepted.page()
    assert made == accepted.page()
    assert len(made) < 2_000_000
    text = made.decode()
    for word in ("http://", "https://", "@import", "url(", "<link", "<script", "src="):
        assert word not in text
    assert "default-src 'none'" in text


def test_a_bundle_under_load_shows_its_run(tabs: Tabs, accepted: Built, measured: Benchmark) -> None:
    found = counting(measured)
    tab = tabs(accepted.page(benchmark=found))
    section, result = tab.locator("section:has(#load)"), found.run.result
    cells = section.locator("tbody tr").first.locator("td").all_inner_texts()
    q = result.latency_ms
    assert cells == [f"{q.p50:.2f}", f"{q.p90:.2f}", f"{q.p99:.2f}", f"{q.mad:.2f}", str(q.samples)]
    line = section.locator(".wide polyline.s0").first.get_attribute("points")
    assert len(line.split()) == len(result.over_time)
    assert section.locator(".warning").count() == 0
    assert found.run.engine_sha256[:12] in section.inner_text()


def test_void_and_quick_runs_cannot_be_taken_for_figures(tabs: Tabs, accepted: Built, measured: Benchmark) -> None:
    why = "throttled: <i>under-voltage</i>"
    void = counting(measured, void=(why,))
    quick = counting(measured).model_copy(
        update={"request": measured.request.model_copy(update={"load": Load(quick=True)})}
    )
    for found, said in ((void, why), (quick, "too short to quote")):
        tab = tabs(accepted.page(benchmark=found))
        section = tab.locator("section:has(#load)")
        assert "Not to be quoted" in section.locator(".warning").inner_text()
        assert said in section.locator(".warning").inner_text()
        lines = section.locator("td").evaluate_all("all => all.map(n => getComputedStyle(n).textDecorationLine)")
        assert set(lines) == {"line-through"}
        assert any("not to be quoted" in text for text in section.locator("figure text.label").all_text_contents())


def test_an_emulated_machine_is_told_from_a_device(tabs: Tabs, accepted: Built, measured: Benchmark) -> None:
    foreign = {"machine": "aarch64", "cpu": "Cortex-A76", "cores": "4", "emulated": "the kernel is an x86_64"}
    spoiled = counting(measured, environment=foreign, void=("emulated: the kernel is an x86_64",))
    tab = tabs(accepted.page(benchmark=spoiled))
    assert "emulated: the kernel is an x86_64" in tab.locator("section:has(#load) .warning").inner_text()
    tab = tabs(accepted.page(accepted.report.model_copy(update={"environment": foreign})))
    assert "emulated" in tab.locator("header .warning").inner_text()


def test_energy_is_shown_where_it_was_measured_and_else_why_not(
    tabs: Tabs, accepted: Built, measured: Benchmark
) -> None:
    energy = Energy(
        source="ina3221 VDD_IN", joules=42.0, images=2000, duration_s=10.0,
        power_mw=tuple((float(t), 4000.0 + 40 * t) for t in range(10)),
    )  # fmt: skip
    warm = tuple(
        r.model_copy(update={"temperature_c": {"cpu-thermal": 50.0 + n}}) for n, r in enumerate(measured.run.readings)
    )
    tab = tabs(accepted.page(benchmark=counting(measured, energy=energy, readings=warm)))
    section = tab.locator("section:has(#energy)")
    assert section.locator("tbody tr th, tbody tr td").all_inner_texts() == [
        "ina3221 VDD_IN",
        "21.0",
        "4.20",
        "2000",
        "10",
    ]
    assert len(section.locator(".wide polyline").get_attribute("points").split()) == 10
    assert "cpu-thermal" in tab.locator("section:has(#load)").inner_text()
    without = counting(measured, energy=None, notes=("energy: no power sensor was found (INA3221)",), readings=tuple(
        r.model_copy(update={"temperature_c": {}}) for r in measured.run.readings
    ))  # fmt: skip
    tab = tabs(accepted.page(benchmark=without))
    assert (
        tab.locator("section:has(#energy)").inner_text().endswith("Not measured: no power sensor was found (INA3221).")
    )
    assert "Temperature: this device doesn't report it" in tab.locator("section:has(#load)").inner_text()
    assert "Not measured yet" in tabs(accepted.page()).locator("section:has(#load)").inner_text()


def test_the_page_is_renewed_when_its_bundle_is_measured_and_not_for_another(
    tmp_path: Path, explained: Explained, measured: Benchmark
) -> None:
    folder = tmp_path / "build"
    build(folder, explained.model, explained.plan)
    shop = Workshop(folder)

    def renewed() -> tuple[str, list[str]]:
        before = list(shop.ran)
        with shop.open():
            text = renew(shop).read_text()
        return text, shop.ran[len(before) :]

    assert renewed()[1] == ["page"]
    assert renewed()[1] == []
    write_json(folder / "benchmark.json", measured)
    text, ran = renewed()
    assert ran == ["page"]
    assert "is of another bundle" in text
    bundle(folder / "bundle")
    text, ran = renewed()
    assert ran == ["page"]
    assert measured.bundle_sha256[:12] in text
    (folder / "benchmark.json").write_text("{}")
    assert "can't be read" in renewed()[0]


def test_measuring_a_bundle_renews_the_page_beside_it(tmp_path: Path, explained: Explained, accepted: Built) -> None:
    folder = tmp_path / "colours"
    build(folder, explained.model, explained.plan)
    made, data = bundle(folder / "bundle"), accepted.folder.parent / "colours-scenes" / "data.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "edgeprune", "bench", "colours", "--bundle", str(made), "--data", str(data),
         "--duration", "0.5s", "--sustained", "--out", str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT, timeout=120,
    )  # fmt: skip
    found = read_json(folder / "benchmark.json", Benchmark, EdgepruneError)
    assert done.returncode == (1 if found.void else 0), done.stderr
    assert f"the page: {folder / 'report.html'}" in done.stdout
    text = (folder / "report.html").read_text()
    assert found.run.engine_sha256[:12] in text
    assert ("Not to be quoted" in text) == bool(found.void)


def _centre(mark: Any) -> tuple[float, float]:
    box = mark.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_forms_and_settings_that_lost_stand_on_the_page_with_their_figures(accepted: Built) -> None:
    latency = accepted.report.rows[0].latency_ms
    shared = {"engine": "pruned fp32", "latency_ms": latency, "low": 1.0, "high": 1.0}
    won = TuneCandidate.model_validate(
        {**shared, "settings": {"threads": 1}, "form": {"input": "pixels"}, "rung": 2, "ratio": 1.0, "chosen": True,
         "why": "the fastest"}
    )  # fmt: skip
    lost = TuneCandidate.model_validate(
        {**shared, "settings": {"threads": 2, "spinning": False}, "ratio": 1.378, "low": 1.31, "high": 1.42,
         "chosen": False, "why": "slower"}
    )  # fmt: skip
    text = accepted.page(accepted.report.model_copy(update={"tuned": (won, lost)})).decode()
    part = text[text.index("All 2 forms and settings that were raced before") :]
    part = part[: part.index("</details>")]
    for said in ("pixels in", "stock form", "2 threads, not spinning", "1.38", "1.31 to 1.42", "chosen"):
        assert said in part
    assert part.count(f"{latency.p50:.2f}") >= 2
    assert "forms and settings that were raced" not in accepted.page().decode()
