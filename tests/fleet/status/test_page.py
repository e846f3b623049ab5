"""The page of a fleet in a real browser, served by a process of its own: what it shows, live, and that it asks nobody
else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgeprune.fleet.moving import begin, move
from edgeprune.fleet.repository import Repository
from edgeprune.fleet.rollout import RolloutRecipe, pause
from edgeprune.fleet.store import Store
from edgeprune.fleet.tick import tick as tick_with
from edgeprune.records.rollout import Rollout, Wave
from tests.browser import chromium
from tests.fleet.status.processes import listening
from tests.fleet.told import committed, enrolled, reverted, status

NAMES = [f"press-{n:02d}" for n in range(40)]
RECIPE = RolloutRecipe(
    waves=(Wave(percent=10, dwell_s=0), Wave(percent=50, dwell_s=0), Wave(percent=100, dwell_s=0, min_executed=5))
)
CUT = """() => [...document.querySelectorAll('h2, .percent, .wave dd, .wave dt, .badge, .tiles dd')]
    .filter(n => n.scrollWidth > n.clientWidth + 1).map(n => n.textContent)"""
Open = Callable[..., Any]


@pytest.fixture(scope="module")  # of a package it would be the session's: a module is no package
def browser() -> Iterator[Any]:
    yield from chromium()


@pytest.fixture
def address(site: Path, fleet: Store, tmp_path: Path) -> Iterator[str]:
    fleet.enroll(enrolled(*NAMES), datetime.now(timezone.utc))
    with listening("serve", "--http", "127.0.0.1:0", log=tmp_path / "log") as found:
        yield found


@pytest.fixture
def opened(browser: Any, address: str) -> Iterator[Open]:
    """Opens the page; a request to anybody else, an error on it or a message in its console fails the test."""
    asked: list[str] = []
    complaints: list[str] = []
    contexts: list[Any] = []

    def open_page(width: int = 1280, height: int = 900, theme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
        contexts.append(context)
        context.set_default_timeout(120_000)
        tab = context.new_page()
        tab.on("request", lambda r: asked.append(r.url) if not r.url.startswith((f"{address}/", "data:")) else None)
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        tab.goto(address)
        tab.wait_for_selector("#live:not(.lost)")
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert asked == []
    assert complaints == []


def shows(tab: Any, selector: str, number: int) -> None:
    """Wait until the page has so many of something; the page's policy forbids to evaluate text in it."""
    from playwright.sync_api import expect

    expect(tab.locator(selector)).to_have_count(number, timeout=120_000)


def now() -> datetime:
    return datetime.now(timezone.utc).replace(microsecond=0)


def started(repository: Repository, fleet: Store) -> Rollout:
    return begin(repository, fleet, "cells", "stable", RECIPE, now(), 2).rollout


def ticked(repository: Repository, fleet: Store) -> Rollout:
    tick_with(repository, lambda: fleet, now() + timedelta(seconds=1))
    found = repository.rollout("stable")
    assert found is not None
    return found


def reached(rollout: Rollout) -> list[str]:
    return [name for name in NAMES if rollout.reaches(name, "pi", "")]


def test_a_good_release_is_seen_to_go_to_all(opened: Open, repository: Repository, fleet: Store) -> None:
    tab = opened()
    assert "No rollout yet" in tab.inner_text("#rollouts")
    rollout = started(repository, fleet)
    card = tab.locator('.rollout[data-channel="stable"]')
    card.wait_for()
    assert card.locator("h2").inner_text().split("\n")[0].startswith("stable: cells 2")
    assert "night shift" in card.locator("h2").inner_text()
    assert card.locator(".wave").count() == 3
    assert card.locator(".wave.now").get_attribute("data-percent") == "10"
    assert card.locator(".dot").count() == 40
    canaries = reached(rollout)
    shown = card.locator(".dot").evaluate_all("all => all.map(n => n.dataset.device)")
    assert set(shown[: len(canaries)]) == set(canaries), "who is next stands next"
    fleet.take([status(name, 1, state="testing", rollout=1, release=2) for name in canaries], now())
    shows(tab, ".dot.going", len(canaries))
    fleet.take([committed(name, 2, rollout) for name in canaries], now())
    shows(tab, ".dot.committed", len(canaries))
    assert card.locator('.wave[data-percent="10"] .n-committed').inner_text() == str(len(canaries))
    rollout = ticked(repository, fleet)
    tab.wait_for_selector('.wave.now[data-percent="50"]')
    fleet.take([committed(name, 3, rollout) for name in reached(rollout)], now())
    rollout = ticked(repository, fleet)
    tab.wait_for_selector('.wave.now[data-percent="100"]')
    fleet.take([committed(name, 4, rollout) for name in NAMES], now())
    assert ticked(repository, fleet).state == "done"
    tab.wait_for_selector(".rollout.done")
    shows(tab, ".dot.committed", 40)
    told = card.locator(".history li b").all_inner_texts()
    assert told == ["done", "advanced", "advanced", "started"]
    assert "40" in tab.locator("#tables tr", has_text="cells 2").inner_text()


def test_a_bad_one_is_seen_to_halt_with_its_reason(
    opened: Open, repository: Repository, fleet: Store, tmp_path: Path
) -> None:
    tab = opened()
    rollout = started(repository, fleet)
    fleet.take([reverted(name, 1, rollout, "latency: 9.1 ms, 4.0 allowed") for name in reached(rollout)], now())
    assert ticked(repository, fleet).state == "halted"
    tab.wait_for_selector(".rollout.halted")
    assert "over 5.0%" in tab.inner_text(".rollout .reason")
    assert "latency" in tab.inner_text(".rollout .failures")
    assert tab.locator(".dot.failed").count() == len(reached(rollout))
    assert "latency: 9.1 ms" in tab.locator(".dot.failed").first.get_attribute("title")
    assert tab.locator(".wave.now .over").count() == 2
    tab.screenshot(path=tmp_path / "halted.png", full_page=True)


def test_what_devices_and_people_say_is_text_and_never_markup(
    opened: Open, repository: Repository, fleet: Store
) -> None:
    evil = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
    rollout = started(repository, fleet)
    fleet.take([reverted(name, 1, rollout, evil) for name in reached(rollout)[:1]], now())
    move(repository, fleet, "stable", lambda found: pause(found, evil), now())
    tab = opened()
    tab.wait_for_selector(".rollout.paused")
    assert tab.inner_text(".rollout .reason") == evil
    assert "<img src=x onerror=alert(1)" in tab.inner_text(".rollout .failures")


def test_it_fits_and_is_whole(opened: Open, repository: Repository, fleet: Store, tmp_path: Path) -> None:
    rollout = started(repository, fleet)
    canaries = reached(rollout)
    fleet.take([committed(name, 1, rollout) for name in canaries], now())
    rollout = ticked(repository, fleet)
    others = [name for name in reached(rollout) if name not in canaries]
    fleet.take([committed(name, 2, rollout) for name in others[::2]], now())
    fleet.take([status(name, 2, state="watching", rollout=1, release=2) for name in others[1::2]], now())
    colours = set()
    for width, theme in ((1280, "light"), (760, "light"), (390, "light"), (1280, "dark"), (390, "dark")):
        tab = opened(width=width, theme=theme)
        tab.wait_for_selector(".wave.now")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.evaluate(CUT) == []
        colours.add((theme, tab.evaluate("getComputedStyle(document.body).backgroundColor")))
        tab.screenshot(path=tmp_path / f"{width}-{theme}.png", full_page=True)
    assert len({colour for _, colour in colours}) == 2, "both themes have their own"


def test_what_cannot_be_read_is_said_and_the_last_view_stays(
    opened: Open, repository: Repository, fleet: Store, site: Path
) -> None:
    started(repository, fleet)
    tab = opened()
    tab.wait_for_selector(".rollout")
    (site / "fleet").rename(site / "away")
    tab.wait_for_selector("#trouble:not([hidden])")
    assert tab.locator(".rollout").count() == 1
    (site / "away").rename(site / "fleet")
    tab.wait_for_selector("#trouble", state="hidden")


def test_a_lost_connection_is_said_and_found_again(
    browser: Any, site: Path, fleet: Store, tmp_path: Path, repository: Repository
) -> None:
    started(repository, fleet)
    context = browser.new_context()
    context.set_default_timeout(120_000)
    tab = context.new_page()
    with listening("serve", "--http", "127.0.0.1:0", log=tmp_path / "log") as address:
        tab.goto(address)
        tab.wait_for_selector("#live:not(.lost)")
    tab.wait_for_selector("#live.lost")
    assert "the connection is lost" in tab.inner_text("#live")
    with listening("serve", "--http", address.removeprefix("http://"), log=tmp_path / "log"):
        tab.wait_for_selector("#live:not(.lost)")
    context.close()


def test_metrics_and_view_say_the_same(address: str, repository: Repository, fleet: Store) -> None:
    halves = RolloutRecipe(waves=(Wave(percent=50), Wave(percent=100)))
    rollout = begin(repository, fleet, "cells", "stable", halves, now(), 2).rollout
    canaries = reached(rollout)
    fleet.take([committed(name, 1, rollout) for name in canaries[1:]], now())
    fleet.take([reverted(name, 1, rollout, "crash: it died") for name in canaries[:1]], now())
    client = httpx.Client(base_url=address, timeout=120, trust_env=False)
    view = client.get("/view").json()
    while not view["view"]["rollouts"] or view["view"]["heard"] != len(canaries):
        view = client.get("/view").json()
    wave = view["view"]["rollouts"][0]["waves"][0]
    assert (wave["devices"], wave["committed"], wave["failed"]) == (len(canaries), len(canaries) - 1, 1)
    text = client.get("/metrics").text
    where = 'channel="stable",'
    for line in (
        "edgeprune_fleet_up 1.0",
        'edgeprune_fleet_devices{state="never_heard"} ' + f"{40 - len(canaries)}.0",
        'edgeprune_fleet_rollout_percent{channel="stable",product="cells"} 50.0',
        'edgeprune_fleet_rollout_state{channel="stable",product="cells",state="running"} 1.0',
        'edgeprune_fleet_rollout_state{channel="stable",product="cells",state="halted"} 0.0',
        f'edgeprune_fleet_wave_devices{{{where}outcome="failed",product="cells",wave="0"}} 1.0',
        f'edgeprune_fleet_wave_devices{{{where}outcome="committed",product="cells",wave="0"}} {len(canaries) - 1}.0',
        'edgeprune_fleet_failures{channel="stable",product="cells",reason="crash"} 1.0',
        'edgeprune_fleet_running{product="cells",release="2"} ' + f"{len(canaries) - 1}.0",
    ):
        assert line in text.splitlines(), text
    assert 'edgeprune_fleet_metadata_expires_timestamp_seconds{role="timestamp"}' in text
    for path in ("/", "/view", "/metrics", "/events"):
        assert client.post(path).status_code == 405, "read-only"
    assert client.get("/docs").status_code == 404


def test_the_page_stands_alone() -> None:
    from importlib.resources import files

    text = files("edgeprune.fleet").joinpath("page.html").read_text("utf-8")
    for word in ("http://", "https://", "@import", "url(", "src=", "innerHTML", "eval("):
        assert word not in text
