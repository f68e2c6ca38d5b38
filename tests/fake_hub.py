"""A server on this machine that answers as the Hugging Face hub does for one data set, `us/ours`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

COMMIT = "a" * 40
CARD = b"---\nconfigs:\n- config_name: main\n  data_files:\n  - split: test\n    path: test.jsonl\n---\n"
FILES = {"README.md": CARD, "test.jsonl": b'{"question": "1 + 1?", "answer": "#### 2"}\n'}
NAMES = {"main", COMMIT}  # the revisions there are


class Hub(BaseHTTPRequestHandler):
    """`us/gated` asks for a token; everything else that is not `us/ours` is unknown."""

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        path = self.path.split("?")[0].strip("/").removeprefix("api/").split("/")
        if path[:3] != ["datasets", "us", "ours"]:
            self.reply(401, error="GatedRepo" if "gated" in path else "RepoNotFound")
            return
        what, revision, name = (*path[3:6], "", "", "")[:3]
        entries = [{"type": "file", "path": name, "size": len(FILES[name]), "oid": "0" * 40} for name in FILES]
        if what and revision not in NAMES:
            self.reply(404, error="RevisionNotFound")
        elif what == "resolve":
            self.reply(200 if name in FILES else 404, FILES.get(name, b""), "EntryNotFound")
        elif what == "tree":
            self.reply(200, json.dumps(entries).encode())
        elif what == "paths-info":
            wanted = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
            self.reply(200, json.dumps([entry for entry in entries if entry["path"] in wanted]).encode())
        else:
            known = {"id": "us/ours", "sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES], "tags": []}
            flags = {"private": False, "gated": False, "disabled": False, "downloads": 0, "likes": 0}
            self.reply(200, json.dumps({**known, **flags}).encode())

    do_HEAD = do_POST = do_GET  # noqa: N815

    def reply(self, code: int, body: bytes = b"", error: str = "") -> None:
        self.send_response(code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hash(body)}"')
        self.send_header("Content-Length", str(len(body)))
        if code >= 400:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def fake_hub() -> Iterator[str]:
    """Its address, for HF_ENDPOINT."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
