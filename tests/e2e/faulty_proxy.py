"""A proxy before an S3 server that misbehaves when told: refuses, dawdles, or hangs up in the middle of a write."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["refuse", "error", "slow", "drop"]
_STATUS = {"refuse": 503, "error": 500}


class FaultyProxy(ThreadingHTTPServer):
    """Forwards requests to `upstream`; while `left` is positive, each write suffers the fault and counts it down."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.fault: Fault = "refuse"
        self.left = self.suffered = 0
        self.address = f"http://127.0.0.1:{self.server_port}"
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def takes_its_turn(self) -> bool:
        """Count down; say whether this write suffers."""
        with self._lock:
            if self.left <= 0:
                return False
            self.left -= 1
            self.suffered += 1
            return True

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing about clients that hang up."""

    def close(self) -> None:
        """Stop listening."""
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def handle_any(self) -> None:
        """Forward a request, or do to it what the proxy was told."""
        if self.command in {"PUT", "POST"} and self.server.takes_its_turn() and self._suffers():
            return
        body = self.rfile.read(self._length)
        connection = http.client.HTTPConnection(self.server.upstream, timeout=30)
        connection.request(self.command, self.path, body, dict(self.headers))
        reply = connection.getresponse()
        kept = [(k, v) for k, v in reply.getheaders() if k.lower() not in {"transfer-encoding", "connection"}]
        self._answer(reply.status, kept, reply.read())
        connection.close()

    @property
    def _length(self) -> int:
        return int(self.headers.get("Content-Length") or 0)

    def _suffers(self) -> bool:
        """Do the fault; say whether the request has been dealt with."""
        fault = self.server.fault
        if fault == "slow":
            time.sleep(3)
            return False
        if fault == "drop":
            self.rfile.read(self._length // 2)
            self.close_connection = True
            return True
        self.rfile.read(self._length)
        self._answer(_STATUS[fault], [], b"")
        return True

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        is_head = self.command == "HEAD"  # its length is that of the object
        self.send_response(status)
        for name, value in headers:
            if is_head or name.lower() != "content-length":
                self.send_header(name, value)
        if not is_head:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not is_head:
            with contextlib.suppress(BrokenPipeError):
                self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815 - named by the base class
