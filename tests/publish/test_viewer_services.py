"""A service that is not there, refuses the user or answers wrong is one sentence with what to do."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from jadeberta.errors import ConfigError, OutputError
from jadeberta.publish import cli
from tests.publish.publishable_run import make_run, missing


@pytest.fixture
def run(tmp_path) -> Path:
    return make_run(tmp_path / "large run")


class Service(BaseHTTPRequestHandler):
    """Answers what the test says."""

    status, content = 200, b"{}"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.content)

    do_GET = do_POST

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@missing["wandb"]
@pytest.mark.parametrize(
    ("status", "content", "error", "words"),
    [
        (401, b"", ConfigError, r"refuses the key \(401\); run 'wandb login' again or correct WANDB_API_KEY"),
        (200, b'{"data": {"viewer": null}}', ConfigError, "does not know the key; run 'wandb login' again"),
        (200, b"[]", ConfigError, "does not know the key"),
        (200, b"<html>", OutputError, "answers, but not as W&B does; correct WANDB_BASE_URL"),
        (503, b"", OutputError, "answers with status 503; try again later, or write files with --out DIR"),
        (
            0,
            b"",
            OutputError,
            r"cannot be reached \(.*refused.*\); publish from a host with internet, or write files with --out DIR",
        ),
    ],
)
def test_a_service_that_refuses_or_is_not_there_is_one_sentence(
    run, tmp_path, service, monkeypatch, status, content, error, words
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", service if status else "http://127.0.0.1:9")
    monkeypatch.setattr(Service, "status", status)
    monkeypatch.setattr(Service, "content", content)
    with pytest.raises(error, match=words):
        cli.main([str(run), "--to", "wandb"])


@missing["wandb"]
def test_without_a_key_wandb_says_how_to_get_one(run, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"no key for https://api\.wandb\.ai is known; run 'wandb login' or set WANDB_API_KEY"):
        cli.main([str(run), "--to", "wandb"])


@missing["mlflow"]
def test_mlflow_that_refuses_or_is_not_there_is_one_sentence(run, tmp_path, service, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(Service, "status", 401)
    monkeypatch.setattr(Service, "content", b"You are not authenticated.")
    for address, error, words in (
        (service, ConfigError, "refuses the user .*; set MLFLOW_TRACKING_TOKEN"),
        ("http://127.0.0.1:9", OutputError, "cannot be used .*; correct MLFLOW_TRACKING_URI or call again later"),
        ("ftp://x", OutputError, "cannot be used .*; correct MLFLOW_TRACKING_URI"),
        ("", ConfigError, "no service is named; set MLFLOW_TRACKING_URI, or write files with --out DIR"),
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(error, match=words):
            cli.main([str(run), "--to", "mlflow"])
