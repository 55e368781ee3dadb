"""A stand-in of the Hub's HTTP API on loopback: repositories, branches, uploads of large files by sha256, and commits.

It answers what huggingface_hub 2.4 asks for, records what arrives, and fails where a test says so. It checks what the Hub checks: the
token, the hash of a large file, that a commit names only large files that were uploaded, and the parent of a commit.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

TOKEN = "hf_secretOfTheTest"
LARGE = (".safetensors", ".model")
OWN = {".gitattributes": b"*.safetensors filter=lfs\n"}
"""What the Hub's own first commit holds."""
FIRST = "f1" * 20


class HubStandin:
    """One server; `revisions` has the content of every file by branch and name."""

    def __init__(self) -> None:
        self.revisions: dict[str, dict[str, bytes]] = {}
        self.parents: dict[str, str] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.created: dict[str, Any] = {}
        self.failing: dict[str, list[int]] = {}
        """Statuses of the next answers to requests whose "METHOD path" holds the key; 0 breaks the connection off."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                outer.answer(self, "GET")

            def do_POST(self) -> None:
                outer.answer(self, "POST")

            def do_PUT(self) -> None:
                outer.answer(self, "PUT")

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def sent(self, kind: str) -> list[str]:
        """The paths of requests of a kind, as "PUT"."""
        return [path for method, path in self.requests if method == kind]

    def answer(self, handler: BaseHTTPRequestHandler, method: str) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        url = urlparse(handler.path)
        path = unquote(url.path)
        self.requests.append((method, path))
        for key, statuses in self.failing.items():
            if key in f"{method} {path}" and statuses:
                status = statuses.pop(0)
                if status == 0:
                    handler.close_connection = True
                    handler.connection.close()
                else:
                    self._reply(handler, status, {"error": f"signed address https://secret/{TOKEN}"})
                return
        if not path.startswith("/lfs/") and handler.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._reply(handler, 401, {"error": "Invalid username or password."})
            return
        status, content = self._content(method, path, parse_qs(url.query), body)
        self._reply(handler, status, content)

    def _reply(self, handler: BaseHTTPRequestHandler, status: int, content: Any) -> None:
        data = json.dumps(content).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        if status == 404:
            handler.send_header("X-Error-Code", "RevisionNotFound")
        handler.end_headers()
        handler.wfile.write(data)

    def _content(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        if path == "/api/repos/create":
            if self.created:
                return 409, {"error": "You already created this model repo", "url": f"{self.endpoint}/o/n"}
            self.created, self.revisions["main"] = json.loads(body), dict(OWN)
            return 200, {"url": f"{self.endpoint}/o/n"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.startswith("/lfs/") and method == "PUT":
            oid = path.removeprefix("/lfs/")
            if hashlib.sha256(body).hexdigest() != oid:
                return 400, {"error": "the bytes have another hash"}
            self.large[oid] = body
            return 200, {}
        if path == "/o/n.git/info/lfs/objects/batch":
            return 200, {"transfer": "basic", "objects": [self._object(o) for o in json.loads(body)["objects"]]}
        if found := re.fullmatch(r"/api/models/o/n/(revision|branch|preupload|commits?)/(.+)", path):
            return self._of_revision(*found.groups(), body=body)
        return 404, {"error": path}

    def _object(self, wanted: dict[str, Any]) -> dict[str, Any]:
        there = wanted["oid"] in self.large
        actions = {} if there else {"actions": {"upload": {"href": f"{self.endpoint}/lfs/{wanted['oid']}", "header": {}}}}
        return {**wanted, **actions}

    def _of_revision(self, verb: str, revision: str, body: bytes) -> tuple[int, Any]:
        if verb == "branch":
            if revision in self.revisions:
                return 409, {"error": "Reference already exists"}
            start = json.loads(body).get("startingPoint", "main")
            self.revisions[revision] = dict(OWN if start == FIRST else self.revisions[start])
            return 200, {}
        if revision not in self.revisions:
            return 404, {"error": "Revision not found"}
        if verb == "commits":
            about = {"authors": [], "date": "2026-01-01T00:00:00.000Z", "title": "", "message": ""}
            return 200, [{"id": self._sha(revision), **about}, {"id": FIRST, **about}]
        files = self.revisions[revision]
        if verb == "revision":
            siblings = [self._sibling(name, content) for name, content in files.items()]
            return 200, {"_id": "1", "id": "o/n", "sha": self._sha(revision), "siblings": siblings, "private": False}
        if verb == "preupload":
            named = [file["path"] for file in json.loads(body)["files"]]
            return 200, {
                "files": [
                    {"path": name, "uploadMode": "lfs" if name.endswith(LARGE) else "regular", "shouldIgnore": False}
                    for name in named
                ]
            }
        rows = [json.loads(line) for line in body.splitlines()]
        if rows[0]["value"].get("parentCommit") != self._sha(revision):
            return 412, {"error": "A commit has happened since."}
        new = dict(files)
        for row in rows[1:]:
            value = row["value"]
            if row["key"] == "file":
                new[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                if value["oid"] not in self.large:
                    return 400, {"error": "a large file that was not uploaded"}
                new[value["path"]] = self.large[value["oid"]]
            else:
                del new[value["path"]]
        self.revisions[revision] = new
        return 200, {"commitUrl": f"{self.endpoint}/o/n/commit/x", "commitOid": self._sha(revision)}

    def _sha(self, revision: str) -> str:
        content = sorted((name, hashlib.sha1(data).hexdigest()) for name, data in self.revisions[revision].items())
        return hashlib.sha1(json.dumps([revision, content]).encode()).hexdigest()

    def _sibling(self, name: str, content: bytes) -> dict[str, Any]:
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return {"rfilename": name, "size": len(content), "blobId": blob} | ({"lfs": lfs} if name.endswith(LARGE) else {})
