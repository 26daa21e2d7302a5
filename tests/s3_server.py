"""An S3 server with failures: a real HTTP proxy in front of moto that can be stopped, slowed and broken.

``kill`` resets the connections and refuses new ones, as if the server's process had ended; ``restart``
opens the same port again, with the objects still there. The fixture ``s3_server`` of conftest.py makes one
and points AWS_ENDPOINT_URL at it; other processes may use it too.
"""

import http.client
import socket
import struct
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import urlsplit

_ERROR = "<?xml version='1.0'?><Error><Code>{}</Code><Message>made for a test</Message></Error>"
_CHUNK = 2**14


class Request(NamedTuple):
    """A request. ``status``: of the answer, 0 without one. ``range``: the header, "" without one."""

    method: str
    path: str
    range: str
    status: int


class S3Server:
    """A proxy at ``endpoint`` to the server at ``backend``, both like http://127.0.0.1:port."""

    def __init__(self, backend):
        self._faults, self._backend = deque(), urlsplit(backend).netloc
        self._connections, self._port, self._lock = None, 0, threading.Lock()
        self.reset_all()
        self.endpoint = f"http://127.0.0.1:{self._port}"

    def reset_all(self):
        """Open again, without faults, and count from zero."""
        self.restart()
        self.requests, self.sent = [], 0  # the requests, and the bytes of bodies that were sent
        self.pause_s = 0.0  # before every 16 KiB of a body
        self.hidden = set()  # headers, in lower case, that are removed from requests and answers
        self._faults.clear()

    def fail(self, times, status=503, code="SlowDown"):
        """Answer the next ``times`` requests with an error."""
        self._faults.extend([("status", status, code)] * times)

    def reset(self, times):
        """Reset the connections of the next ``times`` requests without an answer."""
        self._faults.extend([("reset", 0, "")] * times)

    def cut(self, times, after):
        """End the bodies of the next ``times`` answers after ``after`` bytes."""
        self._faults.extend([("cut", after, "")] * times)

    def kill(self):
        """End all connections at once and refuse new ones, until ``restart``."""
        if self._connections is None:
            return
        self._server.shutdown()
        self._server.server_close()
        with self._lock:
            connections, self._connections = self._connections, None
        for connection in connections:
            _reset(connection)

    def restart(self):
        """Listen again, at the same port, if it was killed."""
        if self._connections is not None:
            return
        self._connections = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), _handler(self))
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def count(self, method="GET"):
        """The number of requests with ``method`` so far, including those that failed."""
        return sum(request.method == method for request in list(self.requests))


def _handler(proxy):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 0

        def setup(self):
            super().setup()
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with proxy._lock:
                if proxy._connections is None:
                    _reset(self.connection)  # accepted just before the server was killed
                else:
                    proxy._connections.add(self.connection)

        def finish(self):
            with proxy._lock:
                if proxy._connections is not None:
                    proxy._connections.discard(self.connection)

        def handle(self):
            try:
                super().handle()
            except (OSError, ValueError):
                self.close_connection = True  # the client left, or the server was killed

        def log_message(self, *_):
            pass

        def forward(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault, number, code = proxy._faults.popleft() if proxy._faults else ("", 0, "")
            if fault == "reset":
                self.note(0)
                self.close_connection = True
                _reset(self.connection)
                return
            if fault == "status":
                self.answer(number, [("Content-Type", "application/xml")], _ERROR.format(code).encode())
                return
            server = http.client.HTTPConnection(proxy._backend)
            server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in {"connection", "expect", *proxy.hidden}:
                    server.putheader(name, value)
            server.endheaders(body)
            found = server.getresponse()
            self.answer(found.status, found.getheaders(), found.read(), number if fault == "cut" else None)
            server.close()

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward  # noqa: N815 - http.server's

        def answer(self, status, headers, body, cut=None):
            self.note(status)
            self.send_response_only(status)
            for name, value in headers:
                skipped = {"connection", "transfer-encoding", *proxy.hidden}
                if name.lower() not in skipped and (
                    name.lower() != "content-length" or self.command == "HEAD"
                ):
                    self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            for first in range(0, len(body[:cut]), _CHUNK):
                time.sleep(proxy.pause_s)
                chunk = body[first : min(first + _CHUNK, len(body[:cut]))]
                self.wfile.write(chunk)
                proxy.sent += len(chunk)
            if cut is not None:
                self.close_connection = True

        def note(self, status):
            proxy.requests.append(Request(self.command, self.path, self.headers.get("Range", ""), status))

    return Handler


def _reset(connection):
    """Close a connection so that the other side sees an error instead of an orderly end."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()
    except OSError:
        pass  # it is already closed
