"""A small web server on the loopback that serves a folder, well or badly."""

from __future__ import annotations

import http.server
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Answers a request itself, and returns whether it did.
Trick = Callable[[Any, bytes], bool]


class Server:
    """Attributes:
    url: Where it is.
    asked: Every path that was asked for, with its Range.
    trick: What it does instead of answering well; None: nothing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, list[tuple[str, str]]()
        self.trick: Trick | None = None
        self.url = ""
        self.stopping = threading.Event()

    def content(self, path: str) -> bytes | None:
        file = self.folder / path.lstrip("/")
        return file.read_bytes() if file.is_file() and ".." not in path else None


class _Quiet(http.server.ThreadingHTTPServer):
    """Who hangs up in the middle is no event here."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """A server as long as the block lasts."""
    server = Server(folder)

    class Answer(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            given = self.headers.get("Range", "")
            server.asked.append((self.path, given))
            content = server.content(self.path)
            try:
                if server.trick is not None and server.trick(self, content or b""):
                    return
                if content is None:
                    self.answer(404, b"")
                    return
                found = re.fullmatch(r"bytes=(\d+)-", given)
                if found and int(found[1]) < len(content):
                    start = int(found[1])
                    said = f"bytes {start}-{len(content) - 1}/{len(content)}"
                    self.answer(206, content[start:], {"Content-Range": said})
                else:
                    self.answer(200, content)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def answer(
            self, code: int, content: bytes, headers: dict[str, str] | None = None, *, length: bool = True
        ) -> None:
            self.send_response(code)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            if length and "Content-Length" not in (headers or {}):
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def drip(self, content: bytes, every_s: float) -> None:
            """A byte at a time, for as long as anyone listens."""
            self.close_connection = True
            for byte in content:
                if server.stopping.is_set():
                    return
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(every_s)

        def log_message(self, *_: object) -> None:
            pass

    http_server = _Quiet(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    server.url = f"http://127.0.0.1:{http_server.server_address[1]}"
    try:
        yield server
    finally:
        server.stopping.set()
        http_server.shutdown()
        http_server.server_close()
        thread.join()
