"""A server on localhost that answers as the Hugging Face Hub does, for tests: models and data sets with commits that move.

It speaks what huggingface_hub, transformers and datasets ask for to resolve, list and fetch; nothing is uploaded to it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

Files = dict[str, bytes]


def files_of(folder: Path) -> Files:
    """The files of a folder, as a commit has them."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class Hub(ThreadingHTTPServer):
    """Repositories by (kind, owner/name): their commits, and the newest one, which `main` names."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[tuple[str, str], dict[str, Files]] = {}
        self.seen: list[str] = []
        """`METHOD path` of every request."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, name: str, files: Files, kind: str = "models") -> str:
        """Make `files` the newest commit of a repository; returns its hash."""
        there = self.commits.setdefault((kind, name), {})
        digest = hashlib.sha1(f"{name} {len(there)} {sorted(files)}".encode())
        for path in sorted(files):
            digest.update(files[path])
        there[digest.hexdigest()] = files
        return digest.hexdigest()

    def environment(self, home: Path) -> dict[str, str]:
        """The environment of a process that takes this server for the Hub and has an empty cache in `home`."""
        more = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
        more |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "no_proxy": "127.0.0.1"}
        left_out = ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "TRANSFORMERS_OFFLINE", "HF_TOKEN")
        return {k: v for k, v in os.environ.items() if k not in left_out} | more


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.seen.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if parts[0] == "api" and parts[1:2] and parts[1] in ("models", "datasets") and len(parts) >= 4:
            self._api(parts[1], "/".join(parts[2:4]), parts[4:], body)
            return
        kind = "datasets" if parts[0] == "datasets" else "models"
        at = 1 if kind == "datasets" else 0
        if parts[at + 2 : at + 3] == ["resolve"]:
            self._file(kind, "/".join(parts[at : at + 2]), parts[at + 3], "/".join(parts[at + 4 :]))
            return
        self._refuse("EntryNotFound")

    def _find(self, kind: str, name: str, revision: str) -> tuple[str, Files] | None:
        """(commit, files), or None after the refusal was sent."""
        there = self.server.commits.get((kind, name))
        if not there:
            self._refuse("RepoNotFound", 401)
            return None
        commit = list(there)[-1] if revision == "main" else revision
        if commit not in there:
            self._refuse("RevisionNotFound")
            return None
        return commit, there[commit]

    def _api(self, kind: str, name: str, rest: list[str], body: bytes) -> None:
        found = self._find(kind, name, rest[1] if len(rest) > 1 else "main")
        if not found:
            return
        commit, files = found
        what = rest[0] if rest else "revision"
        if what == "revision":
            siblings = [{"rfilename": path} for path in files]
            self._json({"id": name, "sha": commit, "private": False, "siblings": siblings, "tags": []})
        elif what == "tree":
            recursive = "true" in "".join(parse_qs(urlsplit(self.path).query).get("recursive", [])).lower()
            entries = self._tree(files, "/".join(rest[2:]), recursive)
            self._json(entries) if entries else self._refuse("EntryNotFound")
        elif what == "paths-info":
            asked = _paths(body)
            self._json([e for path in asked for e in self._tree(files, "", True) if e["path"] == path.strip("/")])
        else:
            self._refuse("EntryNotFound")

    def _tree(self, files: Files, below: str, recursive: bool) -> list[dict]:
        prefix = f"{below}/" if below else ""
        folders = {str(p) for f in files for p in Path(f).parents if str(p) != "."}
        entries = [{"type": "directory", "path": p, "size": 0, "oid": "0" * 40} for p in sorted(folders)]
        entries += [{"type": "file", "path": p, "size": len(d), "oid": _blob(d)} for p, d in files.items()]
        inside = [e for e in entries if e["path"].startswith(prefix)]
        return [e for e in inside if recursive or "/" not in e["path"][len(prefix) :]]

    def _file(self, kind: str, name: str, revision: str, path: str) -> None:
        found = self._find(kind, name, revision)
        if not found:
            return
        commit, files = found
        if path not in files:
            self._refuse("EntryNotFound", commit=commit)
            return
        self._send(200, files[path], {"ETag": f'"{_blob(files[path])}"', "X-Repo-Commit": commit})

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, code: str, status: int = 404, commit: str = "") -> None:
        self._send(status, b"{}", {"X-Error-Code": code, **({"X-Repo-Commit": commit} if commit else {})})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        start = 0
        if status == 200 and (asked := self.headers.get("Range")):
            start = int(asked.removeprefix("bytes=").partition("-")[0] or 0)
            status, headers = 206, headers | {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(data[start:])


def _blob(data: bytes) -> str:
    """Git's own hash of a file, which the Hub gives as its ETag."""
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


def _paths(body: bytes) -> list[str]:
    """The paths of a paths-info request, JSON or a form."""
    try:
        return list(json.loads(body)["paths"])
    except ValueError:
        return parse_qs(body.decode()).get("paths", [])


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """A running server."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
