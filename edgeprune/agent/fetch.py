"""How bytes come to the device: http(s) and file, resumed, bounded in size and in time. Nothing here is trusted.

Rules:
- No answer is read further than what it may be long: endless data. No answer may be slower than `min_bytes_per_s` over
  a window, nor hold its head or a chunk's back: slow retrieval. A timer that rings in the middle of a read sees to it.
- A file is staged on disk in the agent's own folder, which is no tmpfs, and goes on where it broke off: by Range, where
  the answer's Content-Range is what was asked for; otherwise from its beginning. What it becomes is judged by its hash.
- 429, 500, 502, 503, 504 and broken connections are tried again, later and later, or as Retry-After says; a longer
  wait than the device has patience for is the caller's to defer.
- Nothing is decompressed: a few bytes could be many.

Sources: TUF specification 1.0.33, 5.2 (endless data, slow retrieval); RFC 9110, 10.2.3 (Retry-After), 14.2 (Range),
15.3.7 (206); python-tuf 7.0.1 `FetcherInterface`.
"""

from __future__ import annotations

import email.utils
import os
import random
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from tuf.api.exceptions import DownloadError, DownloadHTTPError, DownloadLengthMismatchError, SlowRetrievalError
from tuf.ngclient.fetcher import FetcherInterface

from edgeprune.errors import UpdateError
from edgeprune.records.agent import Limits
from edgeprune.version import __version__

BLOCK = 1 << 16
#: Answers that may be another one soon.
_LATER = frozenset({408, 429, 500, 502, 503, 504})
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class BusyError(DownloadHTTPError):
    """The server asks to come back after `retry_after_s` seconds; None: it doesn't say."""

    def __init__(self, url: str, status: int, retry_after_s: float | None) -> None:
        after = "" if retry_after_s is None else f", and asks to wait {retry_after_s:.0f} s"
        super().__init__(f"{url} answers {status}{after}", status)
        self.retry_after_s = retry_after_s


class BrokenError(DownloadError):
    """A connection that wasn't made, or broke off."""


class Fetcher(FetcherInterface):
    """Fetches, counting.

    Attributes:
        requests, received: How many of them there were, and bytes of their bodies.
    """

    def __init__(
        self, limits: Limits, ca: str = "", staging: Path | None = None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._limits, self._ca, self._staging, self._sleep = limits, ca, staging, sleep
        self._pools: dict[str, Any] = {}
        self.requests = self.received = 0

    def _fetch(self, url: str) -> Iterator[bytes]:
        with self._answer(url, 0) as (_, chunks):
            yield from chunks

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """A small file's bytes; see `FetcherInterface`."""

        def once() -> bytes:
            content = bytearray()
            with self._answer(url, 0) as (_, chunks):
                for chunk in chunks:
                    content += chunk
                    _refuse_more(url, len(content), max_length)
            return bytes(content)

        return self._patiently(once)

    @contextmanager
    def download_file(self, url: str, max_length: int) -> Iterator[IO[bytes]]:
        """A file's bytes in a nameless file of the staging folder; see `FetcherInterface`."""
        with tempfile.TemporaryFile(dir=self._staging) as file:

            def once() -> None:
                file.seek(0)
                file.truncate()
                with self._answer(url, 0) as (_, chunks):
                    for chunk in chunks:
                        file.write(chunk)
                        _refuse_more(url, file.tell(), max_length)

            self._patiently(once)
            file.seek(0)
            yield file

    def download(self, url: str, part: Path, length: int) -> None:
        """Bring a file to its length, going on with what is there already. Its hash is the caller's to check.

        Args:
            part: What there is of it; it is removed where it is too long.
            length: In bytes.

        Raises:
            DownloadError: It didn't come, came slowly, or is longer.
            OSError: It can't be written.
        """

        def once() -> None:
            have = part.stat().st_size if part.is_file() else 0
            if have >= length:
                if have > length:
                    part.unlink()
                    raise BrokenError(f"{part.name} was longer than it may be, and is fetched anew")
                return
            with self._answer(url, have) as (start, chunks), open(part, "r+b" if have else "wb") as file:
                file.seek(start)
                file.truncate()
                for chunk in chunks:
                    if file.tell() + len(chunk) > length:
                        file.truncate(0)
                    _refuse_more(url, file.tell() + len(chunk), length)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
                if file.tell() < length:
                    raise BrokenError(f"{url} broke off after {file.tell()} of {length} bytes")

        self._patiently(once)

    def _patiently(self, once: Callable[[], Any]) -> Any:
        wait = self._limits.backoff_s
        for left in range(self._limits.retries, -1, -1):
            try:
                return once()
            except BrokenError:
                if not left:
                    raise
                pause = wait * random.uniform(0.5, 1.5)
            except BusyError as busy:
                pause = wait * random.uniform(0.5, 1.5) if busy.retry_after_s is None else busy.retry_after_s
                if not left or pause > self._limits.patience_s:
                    raise
            self._sleep(min(pause, self._limits.patience_s))
            wait *= 2
        return None

    @contextmanager
    def _answer(self, url: str, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Where an answer begins in the file, and its chunks."""
        self.requests += 1
        if urlsplit(url).scheme == "file":
            with _open_file(url) as file:
                file.seek(start)
                yield start, self._counted(iter(lambda: file.read(BLOCK), b""))
            return
        with _Alarm(self._limits.window_s + self._limits.gap_s) as alarm:
            response = self._ask(url, start)
            try:
                begins = _begins(response, start)
                if begins is None:  # no range that could be used: the whole file, asked for anew
                    response.close()
                    self.requests += 1
                    response, begins = self._ask(url, 0), 0
                    if response.status != 200:
                        raise BrokenError(f"{url} answers {response.status} where the whole file was asked for")
                yield begins, self._counted(self._steady(url, response, alarm))
            finally:
                response.close()  # what wasn't read of it is nobody's

    def _ask(self, url: str, start: int) -> Any:
        import urllib3

        headers = {"User-Agent": f"edgeprune/{__version__}", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        try:
            response = self._pool(url).request(
                "GET", url, headers=headers, preload_content=False, decode_content=False,
                retries=urllib3.Retry(
                    total=3, connect=0, read=0, redirect=3, status=0, other=0, respect_retry_after_header=False
                ),
                timeout=urllib3.Timeout(connect=self._limits.gap_s, read=self._limits.gap_s),
            )  # fmt: skip
        except urllib3.exceptions.HTTPError as error:
            raise BrokenError(f"{url} can't be reached: {_reason(error)}") from error
        if response.status in _LATER:
            response.close()
            raise BusyError(url, response.status, _retry_after(response.headers.get("Retry-After")))
        if response.status >= 400 and response.status != 416:
            response.close()
            raise DownloadHTTPError(f"{url} answers {response.status}", response.status)
        return response

    def _steady(self, url: str, response: Any, alarm: _Alarm) -> Iterator[bytes]:
        """An answer's chunks, as they come, as long as they come fast enough."""
        import urllib3

        stated = response.headers.get("Content-Length", "")
        got, window, since = 0, 0, time.monotonic()
        while True:
            try:
                chunk = response.read1(BLOCK)
            except urllib3.exceptions.ReadTimeoutError as error:
                raise SlowRetrievalError(f"{url} sent nothing for {self._limits.gap_s:g} s") from error
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise BrokenError(f"{url} broke off after {got} bytes: {_reason(error)}") from error
            if not chunk:
                if stated.isdigit() and got < int(stated):
                    raise BrokenError(f"{url} broke off after {got} of {stated} bytes")
                return
            got, window, now = got + len(chunk), window + len(chunk), time.monotonic()
            if now - since >= self._limits.window_s:
                if window < self._limits.min_bytes_per_s * (now - since):
                    raise SlowRetrievalError(
                        f"{url} sends {window / (now - since):.0f} bytes a second, "
                        f"{self._limits.min_bytes_per_s:g} at least"
                    )
                window, since = 0, now
                alarm.set()
            yield chunk

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self.received += len(chunk)
            yield chunk

    def _pool(self, url: str) -> Any:
        import urllib3

        parts = urlsplit(url)
        proxy = "" if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme, "")
        if proxy not in self._pools:
            trust: dict[str, Any] = {"cert_reqs": "CERT_REQUIRED", "ca_certs": self._ca or None}
            self._pools[proxy] = urllib3.ProxyManager(proxy, **trust) if proxy else urllib3.PoolManager(**trust)
        return self._pools[proxy]


class _Alarm:
    """Rings in the middle of whatever is read, in the main thread; set anew while all is well."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._can = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> _Alarm:
        if self._can:
            self._before = signal.signal(signal.SIGALRM, self._ring)
        self.set()
        return self

    def set(self) -> None:
        if self._can:
            signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def __exit__(self, *_: object) -> None:
        if self._can:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._before)

    def _ring(self, *_: object) -> None:
        raise SlowRetrievalError(f"no answer in {self._seconds:g} s")


@contextmanager
def _open_file(url: str) -> Iterator[IO[bytes]]:
    path = Path(unquote(urlsplit(url).path))
    try:
        if not path.is_file():
            raise DownloadHTTPError(f"{path} isn't there", 404)
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        if error.filename != str(path):  # somebody else's
            raise
        raise BrokenError(f"{path} can't be read: {error.strerror}") from error


def _begins(response: Any, start: int) -> int | None:
    """Where an answer begins in the file; None where it can't be used."""
    if response.status == 200:
        return 0
    found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status != 206 or found is None or int(found[1]) != start:
        return None
    stated = response.headers.get("Content-Length", "")
    if stated.isdigit() and int(stated) != int(found[2]) - int(found[1]) + 1:
        return None
    return start


def _refuse_more(url: str, got: int, length: int) -> None:
    if got > length:
        raise DownloadLengthMismatchError(f"{url} goes on after the {length} bytes that it may have")


def _retry_after(said: str | None) -> float | None:
    """Seconds, of a number or a date."""
    if said is None:
        return None
    if said.strip().isdigit():
        return float(said)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _reason(error: BaseException) -> str:
    return str(getattr(error, "reason", None) or error).split(">: ")[-1]


def read_secret(file: str) -> str:
    """A password or token: the first line of a file.

    Raises:
        UpdateError: It can't be read.
    """
    try:
        return Path(file).read_text(encoding="utf-8").splitlines()[0].strip()
    except (OSError, IndexError, UnicodeDecodeError) as error:
        raise UpdateError("The file with the device's secret can't be read.", where=file, got=str(error)) from error
