"""The page of `jadeberta report`, made from its figures alone."""

import time
from pathlib import Path
from typing import Any

from jadeberta.report.html_page import document, escape, header, json_element, page_style, theme_script, tools_script
from jadeberta.report.report_figures import Figures
from jadeberta.report.report_sections import sections, stamp
from jadeberta.status.verdict_words import clock
from jadeberta.utils.durations import DAY_S

FOLDER = Path(__file__).parent
LEVELS = {"good": "✓", "info": "·", "warn": "!", "bad": "✗"}
"""Sign of a line's level; the word is there for screen readers."""
CHARTS = {
    "loss": ("Loss", "median of the steps between two points, with the least and the largest"),
    "accuracy": ("Held-out accuracy", "masked accuracy on held-out rows, by corpus"),
    "grad_norm": ("Gradient norm", "before clipping; the line above is the guard's limit"),
    "lr": ("Learning rate", ""),
    "tokens_per_second": ("Tokens per second", "of the steps that stayed"),
    "step_time": ("Step time by hour", "seconds: median, 95th and 99th percentile; always across hours"),
    "waits": ("Waiting by hour", "for data, % of the steps' time; for saves, seconds; always across hours"),
}


def render(runs: list[Figures], written_at: float) -> str:
    """Returns the report of one or several runs as one HTML document that loads nothing.

    Args:
        runs: figures of each run.
        written_at: unix time.
    """
    many = len(runs) > 1
    title = " · ".join(run["name"] for run in runs[:4]) + (f" and {len(runs) - 4} more" if len(runs) > 4 else "")
    zone = time.strftime("%Z", time.localtime(written_at))
    head = header(title, f"Written {stamp(written_at)} ({zone}).", "report.json")
    verdicts = "".join(_verdict(run, many) for run in runs)
    body = [
        "<a class=skip href='#main'>To the content</a><div id=live class=sr aria-live=polite></div>", head,
        f"<main id=main>{verdicts}", *([] if many else [_tiles(runs[0]), _since_yesterday(runs[0])]), _curves(runs),
    ]  # fmt: skip
    for place, run in enumerate(runs):
        inner = (_tiles(run) + _since_yesterday(run) if many else "") + sections(run, place)
        if many:
            opened = " open" if place == 0 else ""
            inner = f"<details class=run{opened}><summary><h2>{escape(run['name'])}</h2></summary>{inner}</details>"
        body.append(inner)
    body.append(
        "<noscript><p>The curves are drawn by the script of this page, which this viewer does not run.</p></noscript></main>"
    )
    body.append(json_element("figures", {"format": "jadeberta-report", "version": 1, "written_at": written_at, "runs": runs}))
    library, licence, library_style, script = (
        (FOLDER / name).read_text(encoding="utf-8")
        for name in ("uplot/uPlot.iife.min.js", "uplot/LICENSE", "uplot/uPlot.min.css", "assets/page.js")
    )
    # Every copy of uPlot has to carry its licence, and a page is one.
    scripts = [f"/*! uPlot\n{licence}*/\n{library}", tools_script() + script]
    return document(f"{title} · jadeberta", "".join(body), library_style + page_style(), scripts, theme_script())


def _verdict(run: Figures, many: bool) -> str:
    verdict = run["verdict"]
    level, sentence = (verdict["level"], verdict["sentence"]) if verdict else ("attention", f"State: {run['state']}.")
    name = f"<b>{escape(run['name'])}</b>: " if many else ""
    # The sentence tells the worst finding; the others of a run that has several are below it.
    others = (
        [f"{one['text']}" + (f"; do: {one['do']}" if one["do"] else "") for one in verdict["findings"][1:]] if verdict else []
    )
    notes = "".join(f"<li>{escape(note)}" for note in [*(f"Also: {text}." for text in others), *run["notes"]])
    return f"<p class='verdict {escape(level)}' role=status>{name}{escape(sentence)}</p>" + (
        f"<ul class=notes>{notes}</ul>" if notes else ""
    )


def _tiles(run: Figures) -> str:
    cells = "".join(
        f"<div class=tile><dt>{escape(tile['label'])}</dt><dd><strong>{escape(tile['value'])}</strong>"
        + "".join(f"<span>{escape(tile[key])}</span>" for key in ("before", "note") if tile[key])
        + "</dd></div>"
        for tile in run["tiles"] or []
    )
    return f"<dl class=tiles>{cells}</dl>"


def _since_yesterday(run: Figures) -> str:
    lines = run["chronicle"] or []
    recent = [line for line in lines if line["time"] > run["at"] - DAY_S]
    older = lines[: len(lines) - len(recent)]
    shown = _lines(recent, run["at"]) if recent else "<p>Nothing happened in the last 24 hours.</p>"
    if older:
        shown += f"<details><summary>{len(older):,} earlier lines</summary>{_lines(older, run['at'])}</details>"
    copy = "<button class=copy type=button>Copy as Markdown</button>" if lines else ""
    return f"<section class=chronicle><h2>Since yesterday {copy}</h2>{shown}</section>"


def _lines(lines: list[dict[str, Any]], now: float) -> str:
    """Lines of the chronicle, the newest first."""
    items = "".join(
        f"<li class={line['level']}><span class=sign aria-hidden=true>{LEVELS[line['level']]}</span>"
        f"<time>{escape(clock(line['time'], now))}</time> <span class=sr>{line['level']}:</span> <span>{escape(line['text'])}</span></li>"
        for line in reversed(lines)
    )
    return f"<ol class=lines>{items}</ol>"


def _curves(runs: list[Figures]) -> str:
    if not any((run["curves"] or {}).get("x", {}).get("step") for run in runs):
        return ""
    axes = (("step", "steps"), ("tokens", "tokens"), ("hours", "hours"), ("gpu_hours", "device-hours"))
    radios = "".join(
        f"<label><input type=radio name=axis value={key}{' checked' if key == 'step' else ''}>{word}</label>"
        for key, word in axes
    )
    figures = "".join(
        f"<figure class=chart data-chart={key}><figcaption><h3>{escape(title)}</h3><span class=muted>{escape(note)}</span></figcaption>"
        "<div class=plot tabindex=0 role=group></div><div class=legend></div>"
        "<details class=numbers><summary>Numbers</summary></details></figure>"
        for key, (title, note) in CHARTS.items()
    )
    return (
        f"<section><h2>Curves</h2><form class=controls id=controls><fieldset><legend>Across</legend>{radios}</fieldset>"
        "<fieldset id=marks><legend>Marks</legend></fieldset><fieldset><legend>Zoom</legend><button type=button data-zoom=in>+</button>"
        "<button type=button data-zoom=out>−</button><button type=button data-zoom=all>All</button>"
        "<button type=button data-zoom=last>Last tenth</button></fieldset><label><input type=checkbox id=log>logarithmic</label></form>"
        f"<div class=charts>{figures}</div></section>"
    )
