"""The page that shows a fleet as it goes, and its metrics: read-only, over HTTP.

    GET /         one HTML file that stands alone
    GET /events   server-sent events: a view whenever it has changed, or what is wrong
    GET /view     the view as JSON
    GET /metrics  for Prometheus

Rules:
- Nothing here writes, and nothing here has a key. Who may look is the web server's matter that stands in front; without
  one it listens on this machine alone.
- The page asks its own address and no other, and its policy says so.

Source: HTML Living Standard, 9.2 (server-sent events).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from importlib.resources import files
from typing import Any

from edgeprune.errors import missing_package
from edgeprune.fleet.metrics import exposed
from edgeprune.fleet.view import INTERVAL_S, Lookout, Seen

try:
    from fastapi import FastAPI
    from fastapi.concurrency import run_in_threadpool
    from fastapi.responses import HTMLResponse, JSONResponse, Response
    from sse_starlette import EventSourceResponse
except ImportError as error:
    raise missing_package("fastapi", "fleet") from error

#: Seconds after which a browser that lost us asks again.
_RETRY_MS = 2000
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


def app(lookout: Lookout) -> FastAPI:
    """The page's application."""
    made = FastAPI(title="edgeprune fleet", docs_url=None, redoc_url=None, openapi_url=None)
    content = files("edgeprune.fleet").joinpath("page.html").read_text("utf-8")

    @made.get("/")
    def whole() -> HTMLResponse:
        return HTMLResponse(content, headers=_HEADERS)

    @made.get("/view")
    def view() -> JSONResponse:
        seen = lookout.latest()
        return JSONResponse(_as_json(seen), status_code=200 if seen.trouble is None else 503, headers=_HEADERS)

    @made.get("/metrics")
    def metrics() -> Response:
        return Response(exposed(lookout.latest()), media_type="text/plain; version=0.0.4; charset=utf-8")

    @made.get("/events")
    async def events() -> EventSourceResponse:
        return EventSourceResponse(_changes(lookout), headers={"Cache-Control": "no-store"})

    return made


async def _changes(lookout: Lookout) -> AsyncIterator[dict[str, Any]]:
    last: Any = None
    while True:
        found = await run_in_threadpool(lookout.latest)
        shown = (found.trouble, found.view and replace(found.view, at=""))
        if shown != last:
            yield {"data": json.dumps(_as_json(found), separators=(",", ":")), "retry": _RETRY_MS}
            last = shown
        await asyncio.sleep(INTERVAL_S / 2)


def _as_json(seen: Seen) -> dict[str, Any]:
    return {"view": seen.view.as_json() if seen.view else None, "trouble": seen.trouble}
