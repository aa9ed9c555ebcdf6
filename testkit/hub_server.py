"""A local Hugging Face Hub: serves folders as repositories, with the API that downloads use.

Like the real one, it names small files by git's SHA-1 and large ones by their SHA-256, and redirects
requests for large files to another host (``localhost`` instead of ``127.0.0.1``), which needs no token.
It announces them as stored in Xet too, but serves no Xet.
``children_environ`` makes a child process use this server as the Hub.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = 1 << 20  # bytes; larger files are stored on the other host by their SHA-256
_PIECE = 1 << 14  # bytes per write


@dataclass(frozen=True, slots=True)
class Seen:
    """One request. ``start``: the offset in its Range header; ``sent``: bytes of a file."""

    method: str
    path: str
    start: int
    authorized: bool
    status: int
    sent: int


@dataclass
class HubServer:
    """The server's repositories and its behaviour; both may change while it runs."""

    repositories: dict[str, Path]
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)  # status, X-Error-Code
    bytes_per_second: float | None = None  # per connection
    cut_after: int | None = None  # bytes of a large file, after which the connection breaks, once
    ignores_ranges: bool = False
    damages: bool = False  # changes one byte of large files
    silent: bool = False  # accepts connections and never responds
    stumbles: dict[str, list[int]] = field(default_factory=dict)  # statuses of the next responses
    older: dict[str, Path] = field(default_factory=dict)  # folders of commits other than main
    mains: dict[str, str] = field(default_factory=dict)  # commits of main after it moved
    tags: dict[tuple[str, str], str] = field(default_factory=dict)  # (repository, tag) -> commit
    seen: list[Seen] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def commit(self, repository: str) -> str:
        """The current commit of main."""
        first = hashlib.sha1(repository.encode()).hexdigest()
        return self.mains.get(repository, first)

    def move(self, repository: str, folder: Path) -> str:
        """Give main a new commit with the files of *folder*, and return it."""
        old = self.commit(repository)
        self.older[old] = self.repositories[repository]
        self.mains[repository] = hashlib.sha1(old.encode()).hexdigest()
        self.repositories[repository] = folder
        return self.mains[repository]

    def resolved(self, repository: str, revision: str) -> str | None:
        """The commit that *revision* names."""
        commit = self.tags.get((repository, revision), revision)
        if commit == "main":
            return self.commit(repository)
        return commit if commit == self.commit(repository) or commit in self.older else None

    def files(self, repository: str, commit: str | None = None) -> dict[str, Path]:
        folder = self.repositories[repository]
        if commit is not None and commit != self.commit(repository):
            folder = self.older[commit]
        return {
            file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()
        }

    def downloads(self, name: str = "") -> list[Seen]:
        """The requests that got bytes of a file whose path ends with *name*."""
        return [
            seen
            for seen in self.seen
            if seen.method == "GET" and seen.sent and seen.path.endswith(name)
        ]

    def cdn(self, file: Path) -> str:
        return f"/cdn/{sha256(file)}/{file.name}"


@cache  # the files do not change while they are served
def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@cache
def git_sha1(file: Path) -> str:
    data = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def children_environ(url: str, home: Path, **more: str) -> Mapping[str, str]:
    """The environment of a child process whose Hub is *url* and whose cache is below *home*."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    return {**inherited, "HF_ENDPOINT": url, "HF_HOME": str(home), **more}


@contextmanager
def hub(repositories: Mapping[str, Path]) -> Iterator[HubServer]:
    """Serve *repositories* (``organisation/name`` to folder) in threads."""
    served = HubServer(dict(repositories))
    handler = type("Handler", (_Handler,), {"served": served, "seen": served.seen})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    served.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class HubHandler(http.server.BaseHTTPRequestHandler):
    """Sends responses and records the requests in ``seen``."""

    protocol_version = "HTTP/1.1"
    seen: list[Seen]

    def log_message(self, *args: object) -> None: ...

    def send_json(self, value: object) -> None:
        self.respond(HTTPStatus.OK, json.dumps(value).encode(), {"content-type": "application/json"})

    def respond(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        try:
            self.begin(status, len(body), headers or {})
            if self.command == "GET":
                self.wfile.write(body)
        except OSError:  # the client disconnected
            self.close_connection = True
        self.note(status, 0)

    def begin(self, status: int, length: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def requested_range(self) -> tuple[int, int | None]:
        """The start and the end of the Range header; (0, None) without one."""
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        if match is None:
            return 0, None
        return int(match[1]), int(match[2]) + 1 if match[2] else None

    def note(self, status: int, sent: int) -> None:
        path = urlsplit(self.path).path
        authorized = "authorization" in self.headers
        self.seen.append(Seen(self.command, path, self.requested_range()[0], authorized, status, sent))


class _Handler(HubHandler):
    served: HubServer

    def do_GET(self) -> None:
        # A revision may have slashes, which are quoted in the path.
        path = urlsplit(self.path).path
        while self.served.silent:
            time.sleep(0.02)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)", path):
            self._api(*map(unquote, found.groups()))
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(*map(unquote, found.groups()))
        elif path.startswith("/cdn/"):
            files = (file for name in self.served.repositories for file in self._files(name))
            self._file(next(file for file in files if self.served.cdn(file) == unquote(path)), {})
        else:
            self.respond(HTTPStatus.NOT_FOUND, b"")

    do_HEAD = do_GET

    def _files(self, repository: str) -> list[Path]:
        served = self.served
        folders = [served.repositories[repository], *served.older.values()]
        return [file for folder in folders for file in folder.rglob("*") if file.is_file()]

    def _refused(self, repository: str) -> bool:
        status, code = self.served.refusals.get(repository, (0, ""))
        if stumbles := self.served.stumbles.get(repository):
            status = stumbles.pop(0)
        if repository not in self.served.repositories and not status:
            status, code = 404, "RepoNotFound"
        if status:
            self.respond(status, b"", {"x-error-code": code} if code else {})
        return bool(status)

    def _api(self, repository: str, what: str, revision: str) -> None:
        if self._refused(repository):
            return
        commit = self.served.resolved(repository, revision)
        if commit is None:
            self.respond(HTTPStatus.NOT_FOUND, b"", {"x-error-code": "RevisionNotFound"})
        elif what == "revision":
            self.send_json({"id": repository, "sha": commit, "siblings": []})
        else:
            self.send_json(
                [_entry(name, file) for name, file in self.served.files(repository, commit).items()]
            )

    def _resolve(self, repository: str, revision: str, name: str) -> None:
        if self._refused(repository):
            return
        resolved = self.served.resolved(repository, revision) or self.served.commit(repository)
        commit = {"x-repo-commit": resolved}
        file = self.served.files(repository, resolved).get(name)
        if file is None:
            self.respond(HTTPStatus.NOT_FOUND, b"", {**commit, "x-error-code": "EntryNotFound"})
        elif file.stat().st_size < LARGE:
            self._file(file, {**commit, "etag": f'"{git_sha1(file)}"'})
        else:
            headers = {
                "x-linked-etag": f'"{sha256(file)}"',
                "x-linked-size": str(file.stat().st_size),
                "x-xet-hash": _xet_hash(file),
                "x-xet-refresh-route": f"{self.served.url}/api/models/{repository}/xet-read-token/main",
                "location": f"http://localhost:{self.served.port}{self.served.cdn(file)}",
            }
            self.respond(HTTPStatus.FOUND, b"", {**commit, **headers})

    def _file(self, file: Path, headers: Mapping[str, str]) -> None:
        data = file.read_bytes()
        if self.served.damages and len(data) >= LARGE:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = 0 if self.served.ignores_ranges else self.requested_range()[0]
        status = HTTPStatus.PARTIAL_CONTENT if start else HTTPStatus.OK
        if start:
            headers = {**headers, "content-range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        self.begin(status, len(data) - start, headers)
        body = data[start:] if self.command == "GET" else b""
        if body and len(data) >= LARGE and (cut := self.served.cut_after) is not None:
            self.served.cut_after = None
            self.close_connection = True
            body = body[:cut]
        self.note(status, self._send(body))

    def _send(self, body: bytes) -> int:
        """Send *body* at the configured rate; returns the number of bytes that were sent."""
        begun = time.monotonic()
        for sent in range(0, len(body), _PIECE):
            try:
                self.wfile.write(body[sent : sent + _PIECE])
            except OSError:  # the client disconnected
                self.close_connection = True
                return sent
            if self.served.bytes_per_second is not None:
                due = begun + (sent + _PIECE) / self.served.bytes_per_second
                time.sleep(max(0.0, due - time.monotonic()))
        return len(body)


def _entry(name: str, file: Path) -> dict[str, object]:
    size = file.stat().st_size
    entry: dict[str, object] = {"type": "file", "path": name, "size": size, "oid": git_sha1(file)}
    if size >= LARGE:
        entry["lfs"] = {"oid": sha256(file), "size": size, "pointerSize": 134}
        entry["xetHash"] = _xet_hash(file)
    return entry


def _xet_hash(file: Path) -> str:
    return hashlib.sha256(file.name.encode()).hexdigest()
