"""Alerts posted to a chat: against a server on this machine."""

import io
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from jadeberta.alerts import webhook
from jadeberta.alerts.watch_pass import look
from jadeberta.status import facts as facts_module
from tests.status.run_files import HOUR, NOW, ROOM, RunFiles

EVENT = {
    "text": "run <b>: NEEDS YOU & do",
    "event": "needs-you",
    "run": "/r",
    "step": 5,
    "state": "killed",
    "verdict": {"level": "needs-you"},
}


@pytest.fixture
def server():
    """A server that keeps what is posted, and answers with its `status`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            web.posted.append((self.path, self.headers["Content-Type"], json.loads(body)))
            self.send_response(web.status)
            self.end_headers()
            self.wfile.write(b"no_service")

        def log_message(self, *_: object) -> None:
            pass

    web = HTTPServer(("127.0.0.1", 0), Handler)
    web.posted, web.status = [], 200
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield web
    web.shutdown()
    thread.join()
    web.server_close()


@pytest.fixture
def url_file(server, tmp_path):
    path = tmp_path / "chat.url"
    path.write_text(f"http://127.0.0.1:{server.server_port}/services/T0/SECRET\n")
    return path


def call(monkeypatch, to: str, url_file, content: bytes) -> int:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    return webhook.main(["--to", to, str(url_file)])


def test_slack_and_teams_get_what_they_take(server, url_file, monkeypatch) -> None:
    for to in ("slack", "teams", "json"):
        assert call(monkeypatch, to, url_file, json.dumps(EVENT).encode()) == 0
    (path, kind, slack), (_, _, teams), (_, _, whole) = server.posted
    assert (path, kind) == ("/services/T0/SECRET", "application/json")
    assert slack == {"text": "run &lt;b&gt;: NEEDS YOU &amp; do"} and whole == EVENT
    (card,) = teams["attachments"]
    assert (teams["type"], card["contentType"]) == ("message", "application/vnd.microsoft.card.adaptive")
    assert card["content"]["body"][1] == {"type": "TextBlock", "text": EVENT["text"], "wrap": True}
    assert card["content"]["body"][0]["color"] == "Attention"


def test_every_fault_is_one_sentence_without_the_secret(server, url_file, tmp_path, monkeypatch, capsys) -> None:
    server.status = 404
    for content, words in (
        (json.dumps(EVENT).encode(), "answers 404 (no_service)"),
        (b"{}", "no event"),
        (b"x", "no event"),
        (b"[]", "no event"),
    ):
        assert call(monkeypatch, "slack", url_file, content) == 1
        printed = capsys.readouterr().err
        assert words in printed and "SECRET" not in printed and len(printed.splitlines()) == 1
    closed = tmp_path / "closed.url"
    closed.write_text("http://127.0.0.1:1/SECRET")
    assert call(monkeypatch, "teams", closed, json.dumps(EVENT).encode()) == 1
    printed = capsys.readouterr().err
    assert "127.0.0.1:1 cannot be reached" in printed and "SECRET" not in printed
    for text in ("", "SECRET", "https://a b", "file:///etc/passwd", "https://ö.example", "http://"):
        closed.write_text(text)
        assert call(monkeypatch, "slack", closed, b"{}") == 2
        printed = capsys.readouterr().err
        assert "holds no URL" in printed and "SECRET" not in printed
    assert call(monkeypatch, "slack", tmp_path / "none", b"{}") == 2
    assert "cannot be read (No such file or directory)" in capsys.readouterr().err


def test_a_watched_run_reaches_the_chat(server, url_file, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(facts_module, "look_at_disk", lambda run: ROOM)
    files = RunFiles(tmp_path / "run")
    files.attempt_from(NOW - 9 * HOUR, 3)
    seen = look(files.run, NOW, f"{sys.executable} -m jadeberta.alerts.webhook --to slack '{url_file}'")
    assert seen.faults == () and [message["text"] for _, _, message in server.posted] == list(seen.sent)
