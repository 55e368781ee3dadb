"""HTML files that load nothing: a document, tables and JSON inside, with everything escaped that comes from elsewhere."""

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson

ASSETS = Path(__file__).parent / "assets"


def page_style() -> str:
    """Returns the style of every page of the project: light, dark and on paper."""
    return (ASSETS / "page.css").read_text(encoding="utf-8")


def theme_script() -> str:
    """Returns the script that sets the theme chosen before; it belongs into the head, or the page would flash in the other one."""
    return (ASSETS / "theme.js").read_text(encoding="utf-8")


def tools_script() -> str:
    """Returns the script of the buttons of `header`."""
    return (ASSETS / "tools.js").read_text(encoding="utf-8")


def header(title: str, note: str, json_name: str) -> str:
    """Returns the head of a page, with buttons that change the theme and save the element `figures`.

    Args:
        title: text.
        note: text below the title.
        json_name: name of the file with the figures.
    """
    return (
        f"<header><h1>{escape(title)}</h1><p class=muted>{escape(note)}</p>"
        "<div class=tools><button id=theme type=button>Theme: as the system</button>"
        f"<button id=json type=button data-name={escape(json_name)}>All figures as JSON</button></div></header>"
    )


class Markup(str):
    """Text that is HTML already, and is not escaped again."""


def escape(value: object) -> str:
    """Returns a value as text of an HTML document; `Markup` as it is."""
    return value if isinstance(value, Markup) else html.escape(str(value), quote=True)


def document(title: str, body: str, style: str, scripts: Sequence[str] = (), head: str = "") -> str:
    """Returns a whole HTML document.

    Its content security policy lets a browser run the scripts given here and no other, and load nothing: neither a mistake nor a hostile
    text in the page can send a request.

    Args:
        title: text.
        body: HTML.
        style: CSS, of this project.
        scripts: JavaScript, of this project, run in their order at the end of the body.
        head: JavaScript, run before the body is shown; empty: none.
    """
    for script in (*scripts, head):
        if "</script" in script.lower():
            raise ValueError("a script would end its element early")
    sources = " ".join(f"'sha256-{_sha256(script)}'" for script in (*scripts, head) if script) or "'none'"
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {sources}; base-uri 'none'; form-action 'none'"
    )
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        "<meta name=viewport content='width=device-width,initial-scale=1'><meta name=color-scheme content='light dark'>"
        f"<link rel=icon href='data:,'><title>{escape(title)}</title><style>{style}</style>"
        + (f"<script>{head}</script>" if head else "")
        + f"</head>\n<body>{body}\n{''.join(f'<script>{script}</script>' for script in scripts)}</body></html>\n"
    )


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def table(headers: Sequence[object], rows: Iterable[Sequence[object]], caption: str = "", left: int = 1) -> str:
    """Returns a table; cells are escaped.

    Args:
        headers: one a column.
        rows: cells.
        caption: text above it; empty: none.
        left: number of columns, from the first, that are aligned left; the others hold figures.
    """
    classes = ["" if place < left else " class=n" for place in range(len(headers))]
    head = "".join(f"<th scope=col{c}>{escape(name)}</th>" for name, c in zip(headers, classes, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{c}>{escape(cell)}</td>" for cell, c in zip(row, classes, strict=True)) + "</tr>" for row in rows
    )
    named = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<div class=wide tabindex=0><table>{named}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def json_element(identifier: str, value: Any) -> str:
    """Returns data for the scripts of a page, or for a program that reads it, as an element with this id."""
    try:
        content = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # an integer of more than 64 bits, from a damaged row
        content = orjson.dumps(_bounded(value), option=orjson.OPT_NON_STR_KEYS).decode()
    # Within a script element only "<" can end it early, and JSON knows another way to write it.
    return f'<script type="application/json" id="{escape(identifier)}">{content.replace("<", chr(92) + "u003c")}</script>'


def _bounded(value: Any) -> Any:
    """The same data with integers that JSON readers do not know as texts, and lone surrogates replaced."""
    if isinstance(value, dict):
        return {_bounded(key): _bounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_bounded(each) for each in value]
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    return str(value) if isinstance(value, int) and abs(value) >= 2**63 else value
