"""Statuses over HTTP: POST /status/DEVICE with the device's own token.

Rules:
- 204 taken, 401 another token, 404 never enrolled, 409 not newer, 413 too long, 422 malformed or another SKU, 503 the
  database doesn't answer: the device says it again later.
- Nothing is read of a body before its device is known and its token right.
- Tokens go over TLS: by a certificate of our own, or a web server in front. Without either, only this machine is heard.

Source: RFC 6750, 2.1 and 3 (bearer tokens); RFC 9110, 15.5.
"""

from __future__ import annotations

from edgeprune.errors import UpdateError, missing_package
from edgeprune.fleet.credentials import is_token
from edgeprune.fleet.status import MOST_BYTES
from edgeprune.fleet.taking import Intake
from edgeprune.records.release import is_name

try:
    from fastapi import FastAPI, Request
    from fastapi.concurrency import run_in_threadpool
    from fastapi.responses import PlainTextResponse, Response
except ImportError as error:
    raise missing_package("fastapi", "fleet") from error

_CODES = {"taken": 204, "not newer": 409, "not enrolled": 404, "another SKU": 422}
_WAY = "http"


def app(intake: Intake) -> FastAPI:
    """The application that takes statuses."""
    made = FastAPI(title="edgeprune status", docs_url=None, redoc_url=None, openapi_url=None)

    @made.post("/status/{device}")
    async def status(device: str, request: Request) -> Response:
        refusal = await run_in_threadpool(_admit, intake, device, request.headers.get("authorization", ""))
        if refusal is not None:
            return refusal
        content = b""
        async for part in request.stream():
            content += part
            if len(content) > MOST_BYTES:
                return _say(413, f"a status has {MOST_BYTES} bytes at most")
        return await run_in_threadpool(_take, intake, device, content)

    @made.get("/metrics")
    def metrics() -> Response:
        return Response(intake.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return made


def _admit(intake: Intake, device: str, authorization: str) -> Response | None:
    """Why a device isn't heard; None: it is."""
    try:
        expected = intake.store.token_sha256(device) if is_name(device) else None
    except UpdateError as error:
        return _busy(error)
    if expected is None:
        intake.count(_WAY, "not enrolled")
        return _say(404, f"{device[:64]!r} was never enrolled")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not is_token(token.strip(), expected):
        intake.count(_WAY, "wrong token")
        intake.complain(device, f"refused the status of {device}: wrong token")
        return _say(401, f"not the token of {device}", {"WWW-Authenticate": "Bearer"})
    return None


def _take(intake: Intake, device: str, content: bytes) -> Response:
    try:
        status = intake.read(content, device, _WAY)
    except UpdateError as error:
        return _say(422, str(error))
    try:
        answer = intake.take([status], _WAY)[0]
    except UpdateError as error:
        return _busy(error)
    return Response(status_code=204) if answer == "taken" else _say(_CODES[answer], f"{device}: {answer}")


def _busy(error: UpdateError) -> Response:
    return _say(503, error.what, {"Retry-After": "60"})


def _say(code: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return PlainTextResponse(f"{text}\n", status_code=code, headers=headers)
