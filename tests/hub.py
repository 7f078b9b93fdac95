"""A model hub on this machine: folders, served as the libraries' own clients ask for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

COMMIT = "0" * 40
GATED = "gated"
"""A repository of this owner asks for consent to its licence."""


class Hub(ThreadingHTTPServer):
    """Serves ``root/<owner>/<name>``; `fetched` are the files that were read, by repository."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.fetched: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(root: Path) -> Iterator[Hub]:
    with Hub(root) as hub:
        thread = Thread(target=hub.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(b"", also_body=False)

    def do_GET(self) -> None:
        self._answer(b"", also_body=True)

    def log_message(self, *_: Any) -> None:
        """Nothing: tests read what a command prints."""

    def _answer(self, body: bytes, *, also_body: bool) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        owner, name = parts[2:4] if parts[:2] == ["api", "models"] else parts[:2]
        folder = self.server.root / owner / name
        headers = {"X-Repo-Commit": COMMIT}
        status = 200
        if not folder.is_dir() or owner == GATED:
            known = owner == GATED
            headers["X-Error-Code"] = "GatedRepo" if known else "RepoNotFound"
            status = 403 if known else 404
        elif parts[0] == "api":
            body = json.dumps(_listing(folder, parts[4:5])).encode()
            headers["Content-Type"] = "application/json"
        else:
            path = folder.joinpath(*parts[4:])
            if path.is_file():
                body = path.read_bytes()
                headers["ETag"] = f'"{hashlib.sha1(body).hexdigest()}"'
                self.server.fetched.add(path.relative_to(self.server.root).as_posix())
            else:
                status, headers["X-Error-Code"] = 404, "EntryNotFound"
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if also_body:
            self.wfile.write(body)


def _listing(folder: Path, kind: list[str]) -> Any:
    """What the hub says of a repository, or, of its ``tree``, each file."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = [path.relative_to(folder).as_posix() for path in files]
    if kind == ["tree"]:
        return [
            {"type": "file", "path": name, "size": path.stat().st_size, "oid": COMMIT}
            for name, path in zip(names, files, strict=True)
        ]
    return {
        "id": f"{folder.parent.name}/{folder.name}",
        "sha": COMMIT,
        "cardData": {"license": "mit"},
        "siblings": [
            {"rfilename": name, "size": path.stat().st_size}
            for name, path in zip(names, files, strict=True)
        ],
    }
