"""Debian's nginx on loopback, as a fleet has it: a folder, served as it is."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.fleet.broker import free_port

NGINX = shutil.which("nginx") or "/usr/sbin/nginx"
_CONFIGURATION = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log warn; worker_processes 1;
user {user};
events {{ worker_connections 4096; }}
http {{
  log_format bytes '$remote_port $request_uri $status $bytes_sent $request_length';
  access_log {folder}/access.log bytes;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  sendfile on; keepalive_timeout 5;
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


def missing() -> str | None:
    """Why none can be started here; None: it can."""
    return None if Path(NGINX).is_file() else "no nginx (apt-get install nginx-light)"


@contextmanager
def serving(root: Path, folder: Path) -> Iterator[str]:
    """Serve `root`; yields its address. FOLDER/access.log has port, path, status, bytes sent and received a request."""
    folder.mkdir(parents=True, exist_ok=True)
    port, file = free_port(), folder / "nginx.conf"
    user = pwd.getpwuid(os.getuid()).pw_name
    file.write_text(_CONFIGURATION.format(folder=folder, port=port, root=root.absolute(), user=user))
    process = subprocess.Popen([NGINX, "-c", str(file), "-e", str(folder / "error.log")])
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until and process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.05)
        else:
            raise AssertionError((folder / "error.log").read_text())
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)
