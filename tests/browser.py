"""Chromium for tests of pages: headless, and quiet on the network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

_QUIET = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def chromium() -> Iterator[Any]:
    """Body of a fixture. Its scope is a package at most: while it is open, no other test can run asyncio."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="left out: playwright isn't installed (extra 'dev')")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("left out: no chromium, chromium-browser or google-chrome on the path (apt-get install chromium)")
    with sync_api.sync_playwright() as play:
        launched = play.chromium.launch(executable_path=found, args=_QUIET)
        yield launched
        launched.close()
