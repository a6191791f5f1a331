"""An HTTP server on this machine that hands out files as badly as it is told to, and keeps a log."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Asked:
    """One request as it was answered: ``sent`` counts the bytes of the body."""

    path: str
    range: str | None
    status: int
    sent: int = 0


@dataclass
class Site:
    """What is at each path, and how it is served.

    ``cuts``: after how many bytes of the body each coming answer breaks off. ``answers``: statuses to be given in place
    of the file. ``redirects``: path to path. With ``etag`` None there is no version to tell by. ``honest``: looks at
    If-Range. ``stalls``: answers that break off stay open instead.
    """

    files: dict[str, bytes]
    etag: str | None = '"1"'
    ranges: bool = True
    honest: bool = True
    stalls: bool = False
    page: bytes | None = None
    announces_more: int = 0
    encoding: str | None = None
    cuts: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    redirects: dict[str, str] = field(default_factory=dict)
    log: list[Asked] = field(default_factory=list)
    cut: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def of(self, name: str) -> list[Asked]:
        """The requests for a file."""
        return [asked for asked in self.log if asked.path.endswith(name)]


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, site)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        site.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield site
        finally:
            site.over.set()
            server.shutdown()


def _answer(handler: BaseHTTPRequestHandler, site: Site) -> None:
    asked = Asked(handler.path, handler.headers["Range"], 200)
    site.log.append(asked)
    body = site.files.get(handler.path)
    if handler.path in site.redirects:
        asked.status = 302
        _head(handler, asked, {"Location": site.redirects[handler.path], "Content-Length": "0"})
        return
    if site.page is not None:
        _head(handler, asked, {"Content-Type": "text/html; charset=utf-8", "Content-Length": str(len(site.page))})
        handler.wfile.write(site.page)
        return
    if site.answers or body is None:
        asked.status = site.answers.pop(0) if site.answers else 404
        _head(handler, asked, {"Content-Length": "0"})
        return
    headers, start = {"Content-Type": "application/octet-stream"}, 0
    if site.etag is not None:
        headers["ETag"] = site.etag
    if site.encoding is not None:
        headers["Content-Encoding"] = site.encoding
    same = not site.honest or handler.headers["If-Range"] == site.etag
    if asked.range is not None and site.ranges and same:
        start = int(asked.range.removeprefix("bytes=").removesuffix("-"))
        asked.status = 206 if start < len(body) else 416
        headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
    cut = site.cuts.pop(0) if site.cuts else None
    rest = body[start:] if asked.status != 416 else b""
    _head(handler, asked, {**headers, "Content-Length": str(len(rest) + site.announces_more)})
    asked.sent = len(rest[:cut])
    handler.wfile.write(rest[:cut])
    handler.wfile.flush()
    if cut is not None:
        site.cut.set()
        if site.stalls:
            site.over.wait(30)


def _head(handler: BaseHTTPRequestHandler, asked: Asked, headers: dict[str, str]) -> None:
    handler.send_response(asked.status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
