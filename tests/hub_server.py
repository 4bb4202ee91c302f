"""A tiny model hub on 127.0.0.1: listings, files with ranges, and the ways they fail."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Repositories by name, each files by path. What goes wrong is set while it serves.

    `cuts` are the bytes after which the next answers of a file break off, `damaged` files arrive
    with another last byte, `refused` gives repositories a status and an error code.
    """

    repos: dict[str, dict[str, bytes]]
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    sizes: dict[str, int] = field(default_factory=dict)
    gets: list[tuple[str, str]] = field(default_factory=list)  # path, range
    url: str = ""

    def listing(self, repo: str) -> dict:
        files = [self._entry(path, data) for path, data in sorted(self.repos[repo].items())]
        return {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": files, "tags": [],
                "private": False, "downloads": 0, "likes": 0}  # fmt: skip

    def _entry(self, path: str, data: bytes) -> dict:
        size = self.sizes.get(path, len(data))
        entry: dict = {"rfilename": path, "size": size}
        entry["blobId"] = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
        if path.endswith(".safetensors"):
            digest = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"sha256": digest, "size": size, "pointerSize": 134}
        return entry

    def __enter__(self) -> Hub:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hub.answer(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0].lstrip("/")
        if path.startswith("api/models/"):
            repo = path.removeprefix("api/models/").partition("/revision/")[0]
            if repo not in self.repos:
                return self._refuse(request, 404, "RepoNotFound")
            if self.refused.get(repo, (0, ""))[1] == "RepoNotFound":
                return self._refuse(request, *self.refused[repo])
            return self._send(request, 200, json.dumps(self.listing(repo)).encode())
        repo, _, rest = path.partition("/resolve/")
        name = rest.partition("/")[2]
        if not name:  # the library also asks for things that have nothing to do with files
            return self._refuse(request, 404, "")
        self.gets.append((name, request.headers.get("Range", "")))
        if repo in self.refused:
            return self._refuse(request, *self.refused[repo])
        if name not in self.repos.get(repo, {}):
            return self._refuse(request, 404, "EntryNotFound")
        return self._file(request, name, self.repos[repo][name])

    def _file(self, request: BaseHTTPRequestHandler, name: str, data: bytes) -> None:
        if name in self.damaged:
            data = data[:-1] + bytes([data[-1] ^ 1])
        wanted = request.headers.get("Range", "bytes=0-")
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
        cuts = self.cuts.get(name, [])
        cut = cuts.pop(0) if cuts else None
        self._send(request, 206 if start else 200, data[start:], cut, start, len(data))

    def _refuse(self, request: BaseHTTPRequestHandler, status: int, code: str) -> None:
        request.send_response(status)
        if code:
            request.send_header("X-Error-Code", code)
        request.send_header("Content-Length", "0")
        request.end_headers()

    def _send(self, request, status, body, cut=None, start=0, total=0) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        if status == 206:
            request.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        request.end_headers()
        request.wfile.write(body[:cut])
        request.close_connection = True
