"""Posts an event to a chat: `python -m jadeberta.alerts.webhook --to slack|teams|json URL_FILE`, as a recipe's alerts.command.

Reads the event from standard input. The URL of a webhook is a secret: it stands in a file of its own, and no message shows it.
"""

import argparse
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from jadeberta.errors import ConfigError, InputError, JadebertaError, OutputError
from jadeberta.utils.command_line import OneSentenceParser
from jadeberta.utils.paths import path_option

LIMIT_S = 20.0
"""Time limit of a request, below that of the command."""


def slack_message(event: dict[str, Any]) -> dict[str, Any]:
    """Returns what an incoming webhook of Slack takes; &, < and > begin its own marks (api.slack.com, Formatting text)."""
    text = str(event["text"])
    for mark, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(mark, name)
    return {"text": text}


def teams_message(event: dict[str, Any]) -> dict[str, Any]:
    """Returns what a workflow of Teams takes: a message with an adaptive card (adaptivecards.io, version 1.4)."""
    colour = {"needs-you": "Attention", "done": "Good"}.get(str((event.get("verdict") or {}).get("level")), "Default")
    facts = [
        {"title": name, "value": str(event.get(key))} for name, key in (("run", "run"), ("step", "step"), ("state", "state"))
    ]
    body = [
        {"type": "TextBlock", "text": f"jadeberta: {event.get('event')}", "weight": "Bolder", "color": colour},
        {"type": "TextBlock", "text": str(event["text"]), "wrap": True},
        {"type": "FactSet", "facts": facts},
    ]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": body,
    }
    return {"type": "message", "attachments": [{"contentType": "application/vnd.microsoft.card.adaptive", "content": card}]}


MESSAGES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "slack": slack_message,
    "teams": teams_message,
    "json": lambda event: event,
}
"""What is posted, by the value of --to; json: the event as it is."""


def post(url: str, message: dict[str, Any], limit_s: float = LIMIT_S) -> None:
    """Posts a message.

    Args:
        url: of the webhook.
        message: posted as JSON.
        limit_s: time limit, seconds.

    Raises:
        OutputError: the server cannot be reached, or does not take it; never names the URL's path, which is the secret.
    """
    request = urllib.request.Request(url, orjson.dumps(message), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=limit_s) as answer:
            answer.read()
    except urllib.error.HTTPError as e:
        said = e.read(200).decode(errors="replace").strip()
        raise OutputError(f"{request.host} answers {e.code} ({said or e.reason}). Look at the webhook's URL.") from None
    except (OSError, ValueError) as e:
        raise OutputError(f"{request.host} cannot be reached ({getattr(e, 'reason', e)}).") from None


def read_url(path: Path) -> str:
    """Reads the URL of a webhook.

    Raises:
        ConfigError: the file cannot be read or holds no URL.
    """
    try:
        url = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(
            f"{path}: cannot be read ({getattr(e, 'strerror', None) or 'no text'}); it shall hold the URL."
        ) from None
    if not url.startswith(("https://", "http://")) or len(url.split()) != 1 or not url.isascii() or not url.partition("//")[2]:
        raise ConfigError(f"{path}: holds no URL; write the webhook's, which begins with https://, into it.")
    return url


def main(arguments: list[str] | None = None) -> int:
    """Posts the event on standard input; returns the exit status."""
    parser = OneSentenceParser(prog="python -m jadeberta.alerts.webhook", description="Posts an alert to a chat.")
    parser.add_argument("--to", choices=tuple(MESSAGES), required=True, help="kind of the webhook; json: the event as it is")
    parser.add_argument("url_file", type=path_option, metavar="URL_FILE", help="file with the URL of the webhook")
    try:
        options: argparse.Namespace = parser.parse_args(arguments)
        url = read_url(options.url_file)
        try:
            event = orjson.loads(sys.stdin.buffer.read())
            message = MESSAGES[options.to](event)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise InputError("standard input holds no event; 'jadeberta watch' writes it.") from None
        post(url, message)
    except JadebertaError as e:
        print(f"{type(e).__name__}: {e}", file=sys.stderr)
        return e.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
