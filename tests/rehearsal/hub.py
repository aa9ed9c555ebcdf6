"""A Hugging Face Hub for models of gigabytes: streams them, keeps several commits, and can misbehave.

Like the real one, it redirects small files to its cache (307, relative) and large ones to another host
that needs no token (302, here ``localhost``). It names small files by git's SHA-1, large ones by
SHA-256, and announces them as stored in Xet too (but serves no Xet). Anybody may list a gated
repository; its files need a token. It can be slow, cut a connection, damage a file, be down, or hang.
``testkit.hub_server`` is a simpler one, for files on disk.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote, urlsplit

from testkit.hub_server import LARGE, HubHandler, Seen
from tests.rehearsal.synthetic import Blob, HashBook, Hashes

Files = Mapping[str, Blob]
_STORED = (".safetensors", ".model")  # stored outside git, whatever their size
_PIECE = 1 << 18
_SWALLOWED_S = 900.0  # how long a request stays without a response
_JSON = "application/json; charset=utf-8"


@dataclass
class Hub:
    """``with Hub(hashes) as hub:`` serves the published repositories; may change while it runs."""

    hashes: HashBook
    bytes_per_second: float | None = None  # per connection to the other host
    cut_after: int | None = None  # bytes of a large file, after which the connection breaks, once
    damaged: frozenset[str] = frozenset()  # names of large files whose last byte is changed
    gated: frozenset[str] = frozenset()  # repositories
    token: str = ""  # grants access to gated repositories
    down: int | None = None  # the status of every response
    swallows: bool = False  # accepts connections and never responds
    seen: list[Seen] = field(default_factory=list)
    port: int = 0
    _commits: dict[str, dict[str, Files]] = field(default_factory=dict)
    _heads: dict[str, str] = field(default_factory=dict)
    _tags: dict[tuple[str, str], str] = field(default_factory=dict)
    _server: http.server.ThreadingHTTPServer | None = None
    _thread: threading.Thread | None = None
    _released: threading.Event = field(default_factory=threading.Event)

    # --- content ---------------------------------------------------------------------------------

    def publish(self, repository: str, files: Files, commit: str | None = None) -> str:
        """Publish a new head of *repository*; earlier commits stay. Returns the commit.

        Hashes are computed now: a client would time out while gigabytes are hashed.
        """
        for blob in files.values():
            self.hashes.of(blob)
        commits = self._commits.setdefault(repository, {})
        if commit is None:
            commit = hashlib.sha1(f"{repository}@{len(commits)}".encode()).hexdigest()
        commits[commit] = dict(files)
        self._heads[repository] = commit
        return commit

    def tag(self, repository: str, name: str, commit: str) -> None:
        self._tags[repository, name] = commit

    def at(self, repository: str, revision: str) -> tuple[str, Files] | None:
        """The commit that *revision* names, and its files."""
        named = self._tags.get((repository, revision), revision)
        commit = self._heads.get(repository) if revision == "main" else named
        files = self._commits.get(repository, {}).get(commit or "")
        return None if commit is None or files is None else (commit, files)

    def stored(self, digest: str) -> Blob | None:
        """The large file with this SHA-256."""
        for commits in self._commits.values():
            for files in commits.values():
                for name, blob in files.items():
                    if is_large(name, blob) and self.hashes.of(blob).sha256 == digest:
                        return blob
        return None

    # --- traffic ---------------------------------------------------------------------------------

    def sent(self, name: str = "") -> int:
        """The number of file bytes that were sent for paths that end with *name*."""
        return sum(seen.sent for seen in self.downloads(name))

    def downloads(self, name: str = "") -> list[Seen]:
        return [s for s in list(self.seen) if s.method == "GET" and s.sent and s.path.endswith(name)]

    # --- lifetime --------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def open(self) -> None:
        """Listen, on the same port as before if there was one."""
        handler = type("Handler", (_Handler,), {"hub": self, "seen": self.seen})
        self._released = threading.Event()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening: connections are refused from now on."""
        self._released.set()
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
        self._server = None

    def wait_released(self) -> None:
        self._released.wait(_SWALLOWED_S)


def is_large(name: str, blob: Blob) -> bool:
    return blob.size >= LARGE or name.endswith(_STORED)


class _Handler(HubHandler):
    hub: Hub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.hub.swallows:
            self.close_connection = True
            self.hub.wait_released()
        elif self.hub.down is not None:
            self._error(self.hub.down, "", "Internal Error - We're working hard to fix this")
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)", path):
            self._api(found[1], found[2], found[3])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(found[1], found[2], found[3])
        elif found := re.fullmatch(r"/api/resolve-cache/models/([^/]+/[^/]+)/([^/]+)/(.+)", path):
            self._cached(found[1], found[2], found[3])
        elif found := re.fullmatch(r"/cdn/([0-9a-f]{64})/(.+)", path):
            self._stored(found[1], found[2])
        else:
            self._error(404, "", "Not Found")

    do_HEAD = do_GET

    # --- routes ----------------------------------------------------------------------------------

    def _api(self, repository: str, what: str, revision: str) -> None:
        found = self._found(repository, revision)
        if found is None:
            return
        commit, files = found
        if what == "tree":
            self.send_json([self._entry(name, blob) for name, blob in sorted(files.items())])
            return
        self.send_json(
            {
                "_id": "0",
                "id": repository,
                "modelId": repository,
                "private": False,
                "gated": "manual" if repository in self.hub.gated else False,
                "sha": commit,
                "disabled": False,
                "tags": [],
                "downloads": 1,
                "siblings": [{"rfilename": name} for name in sorted(files)],
                "createdAt": "2025-01-28T10:00:00.000Z",
            }
        )

    def _resolve(self, repository: str, revision: str, name: str) -> None:
        if repository in self.hub.gated and not self._opened(repository):
            return
        found = self._found(repository, revision)
        if found is None:
            return
        commit, files = found
        blob = files.get(name)
        base = {"x-repo-commit": commit, "accept-ranges": "bytes"}
        if blob is None:
            self._error(404, "EntryNotFound", "Entry not found", base)
            return
        hashes = self.hub.hashes.of(blob)
        base["x-linked-size"] = str(blob.size)
        if is_large(name, blob):
            self._redirect(302, {**base, **self._elsewhere(repository, commit, name, hashes)})
        else:
            etag = f'"{hashes.git_sha1}"'
            target = f"/api/resolve-cache/models/{repository}/{commit}/{name}"
            self._redirect(307, {**base, "x-linked-etag": etag, "etag": etag, "location": target})

    def _elsewhere(self, repository: str, commit: str, name: str, hashes: Hashes) -> Mapping[str, str]:
        route = f"{self.hub.url}/api/models/{repository}/xet-read-token/{commit}"
        cdn = f"http://localhost:{self.hub.port}/cdn/{hashes.sha256}/{name}?X-Amz-Expires=3600"
        return {
            "x-linked-etag": f'"{hashes.sha256}"',
            "x-xet-hash": hashes.sha256,
            "link": f'<{route}>; rel="xet-auth"',
            "location": cdn,
        }

    def _cached(self, repository: str, commit: str, name: str) -> None:
        found = self.hub.at(repository, commit)
        blob = None if found is None else found[1].get(name)
        if blob is None:
            self._error(404, "EntryNotFound", "Entry not found")
            return
        self._file(blob, self.hub.hashes.of(blob).git_sha1, {"x-repo-commit": commit})

    def _stored(self, digest: str, name: str) -> None:
        blob = self.hub.stored(digest)
        if blob is None:
            self._error(404, "", "NoSuchKey")
        else:
            self._file(blob, digest, {}, stored=name)

    # --- responses -------------------------------------------------------------------------------

    def _found(self, repository: str, revision: str) -> tuple[str, Files] | None:
        """The commit and its files; if there are none, sends the error."""
        found = self.hub.at(repository, revision)
        if found is None and self.hub.at(repository, "main") is not None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif found is None:  # like the Hub, do not reveal whether a private repository exists
            self._error(401, "RepoNotFound", "Invalid username or password.")
        return found

    def _opened(self, repository: str) -> bool:
        """Does the request have the token of a gated repository? If not, sends the error."""
        authorization = self.headers.get("authorization", "")
        if self.hub.token and authorization == f"Bearer {self.hub.token}":
            return True
        restricted = f"Access to model {repository} is restricted"
        if not authorization:
            self._error(401, "GatedRepo", f"{restricted}. Please log in.")
        else:
            self._error(403, "GatedRepo", f"{restricted} and you are not in the authorized list.")
        return False

    def _entry(self, name: str, blob: Blob) -> dict[str, object]:
        hashes = self.hub.hashes.of(blob)
        entry: dict[str, object] = {
            "type": "file", "oid": hashes.git_sha1, "size": blob.size, "path": name,
        }  # fmt: skip
        if is_large(name, blob):
            entry["lfs"] = {"oid": hashes.sha256, "size": blob.size, "pointerSize": 135}
            entry["xetHash"] = hashes.sha256
        return entry

    def _error(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        all_headers = {**(headers or {}), "x-error-message": message, "content-type": _JSON}
        if code:
            all_headers["x-error-code"] = code
        self.respond(status, json.dumps({"error": message}).encode(), all_headers)

    def _redirect(self, status: int, headers: Mapping[str, str]) -> None:
        self.respond(status, b"Redirecting", {**headers, "content-type": "text/plain"})

    def _file(
        self, blob: Blob, etag: str, headers: Mapping[str, str], *, stored: str | None = None
    ) -> None:
        """*stored*: the name of a large file, which may be sent slowly, cut or damaged."""
        start, end = self.requested_range()
        end = blob.size if end is None else min(end, blob.size)
        ranged = "range" in self.headers
        all_headers = {**headers, "etag": f'"{etag}"', "accept-ranges": "bytes"}
        if ranged:
            all_headers["content-range"] = f"bytes {start}-{end - 1}/{blob.size}"
        status = 206 if ranged else 200
        self.begin(status, end - start, all_headers)
        if self.command == "HEAD":
            self.note(status, 0)
            return
        stop = end
        if stored is not None and self.hub.cut_after is not None and end - start > self.hub.cut_after:
            stop = start + self.hub.cut_after
            self.hub.cut_after = None
            self.close_connection = True
        sent = 0
        try:
            for piece in self._spoiled(blob, start, stop, stored):
                self.wfile.write(piece)
                sent += len(piece)
        except OSError:  # the client disconnected
            self.close_connection = True
        if self.close_connection:
            with suppress(OSError):
                self.connection.shutdown(2)
        self.note(status, sent)

    def _spoiled(self, blob: Blob, start: int, stop: int, stored: str | None) -> Iterator[memoryview]:
        """The bytes from *start* to *stop*, at the configured rate and with the configured damage."""
        begun, at = time.monotonic(), start
        damaged = stored is not None and any(stored.endswith(name) for name in self.hub.damaged)
        for whole in blob.pieces(start):
            for cut in range(0, len(whole), _PIECE):
                piece = whole[cut : cut + min(_PIECE, stop - at)]
                at += len(piece)
                if damaged and at == blob.size and piece:
                    piece = memoryview(bytes(piece[:-1]) + bytes([piece[-1] ^ 1]))
                yield piece
                if at >= stop:
                    return
                rate = self.hub.bytes_per_second
                if stored is not None and rate is not None:
                    due = begun + (at - start) / rate
                    time.sleep(max(0.0, due - time.monotonic()))
