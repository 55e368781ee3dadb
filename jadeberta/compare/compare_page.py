"""The page of `jadeberta compare`: one HTML file that loads nothing, made from the figures alone."""

from collections.abc import Sequence
from typing import Any

from jadeberta.compare.compared import is_decided
from jadeberta.report.html_page import (
    document,
    escape,
    header,
    json_element,
    page_style,
    table,
    theme_script,
    tools_script,
)  # fmt: skip
from jadeberta.report.svg_charts import WIDTH

HEIGHT = 260
FIGURES = {"bits_per_character": ("bits per character", 4), "accuracy": ("accuracy by character", 4)}
STYLE = (
    ".course polyline{fill:none;stroke-width:2}.course circle{stroke:none}.course line{stroke:currentColor;opacity:.25}"
    ".sentence{white-space:pre-wrap;overflow-wrap:anywhere}"
)


def page(figures: dict[str, Any]) -> str:
    """Returns the page of `compare_command`'s figures."""
    models = figures["models"]
    title = " · ".join(model["name"] for model in models)
    note = (
        f"{figures['documents']:,} documents, {models[0]['characters']:,} characters of raw text. Intervals are 95%, from resamples of "
        "whole documents; differences are paired: both models are asked the same documents."
    )
    parts = [
        f"<section><h2>Models</h2>{_models(models)}{_words_note(models)}</section>",
        f"<section><h2>Differences</h2>{_differences(figures['differences'])}</section>",
        *([f"<section><h2>By file</h2>{_files(models)}</section>"] if len(models[0]["files"]) > 1 else []),
        *([f"<section><h2>JGLUE</h2>{_jglue(figures['jglue'], models)}</section>"] if figures["jglue"] else []),
        *(
            [f"<section><h2>Kept checkpoints</h2>{_courses(models)}</section>"]
            if any(model["course"] for model in models)
            else []
        ),
        f"<section><h2>Sentences on which they differ most</h2>{_sentences(figures['sentences'], models)}</section>",
    ]
    body = (
        f"<a class=skip href='#main'>To the content</a>{header(title, note, 'compare.json')}<main id=main>{''.join(parts)}</main>"
        f"{json_element('figures', figures)}"
    )
    return document(f"{title} · jadeberta", body, page_style() + STYLE, [tools_script()], theme_script())


def _value(figure: float, ends: list[float] | None, digits: int = 4, signed: bool = False) -> str:
    sign = "+" if signed else ""
    interval = f" ({ends[0]:{sign}.{digits}f} to {ends[1]:{sign}.{digits}f})" if ends else " (no interval)"
    return f"{figure:{sign}.{digits}f}{interval}"


def _models(models: Sequence[dict[str, Any]]) -> str:
    heads = (
        "model",
        "bits per character",
        "accuracy by character",
        "unknown characters",
        "changed characters",
        "parameters",
        "masked together",
    )
    rows = [
        (
            model["name"],
            *(_value(model[key], model["interval"][key]) for key in FIGURES),
            f"{model['unknown_characters']:,}",
            f"{model['changed_characters']:,}",
            f"{model['parameters']:,}",
            model["words"],
        )
        for model in models
    ]  # fmt: skip
    return table(heads, rows)


def _words_note(models: Sequence[dict[str, Any]]) -> str:
    if len({model["words"] for model in models}) == 1:
        return ""
    return (
        "<p>The models were not asked for the same words: longer ones are harder. With --words mecab or --words script all are asked "
        "for the same.</p>"
    )


def _differences(pairs: Sequence[dict[str, Any]]) -> str:
    rows = [
        (
            f"{pair['first']} − {pair['second']}",
            words,
            _value(pair[key]["difference"], pair[key]["interval"], digits, signed=True),
            "yes" if is_decided(pair, key) else "no",
        )
        for pair in pairs
        for key, (words, digits) in FIGURES.items()
    ]
    return table(("pair", "figure", "difference", "interval leaves 0 out"), rows, left=2)


def _files(models: Sequence[dict[str, Any]]) -> str:
    rows = [
        (file, model["name"], *(_value(found[key], found["interval"][key]) for key in FIGURES), f"{found['documents']:,}")
        for file in models[0]["files"]
        for model in models
        for found in (model["files"][file],)
    ]
    return table(("file", "model", "bits per character", "accuracy by character", "documents"), rows, left=2)


def _jglue(tasks: dict[str, dict[str, Any]], models: Sequence[dict[str, Any]]) -> str:
    rows = []
    for task, found in tasks.items():
        for name, scores in found["models"].items():
            cells = ", ".join(f"{metric} {value:.4f}" for metric, value in scores["scores"].items())
            rows.append((task, name, cells, scores["seeds"], f"lr {scores['lr']:g}, {scores['epochs']} epochs"))
    return table(("task", "model", "valid, mean of the seeds", "seeds", "setting"), rows, left=3)


def _courses(models: Sequence[dict[str, Any]]) -> str:
    runs = [(place, model) for place, model in enumerate(models) if model["course"]]
    points = [point for _, model in runs for point in model["course"]]
    steps = [point["step"] for point in points]
    values = [point["bits_per_character"] for point in points]
    low, high, first, last = min(values), max(values), min(steps), max(steps)

    def place_of(point: dict[str, Any]) -> tuple[float, float]:
        x = 60 + (WIDTH - 80) * (point["step"] - first) / max(1, last - first)
        y = 20 + (HEIGHT - 60) * (high - point["bits_per_character"]) / ((high - low) or 1.0)
        return x, y

    drawn = [
        f"<line x1=60 x2={WIDTH - 20} y1={y} y2={y} /><text x=0 y={y + 4}>{value:.2f}</text>"
        for y, value in ((20, high), (HEIGHT - 40, low))
    ]
    drawn += [
        f"<text x=60 y={HEIGHT - 18}>step {first:,}</text><text x={WIDTH - 20} y={HEIGHT - 18} text-anchor=end>step {last:,}</text>"
    ]
    for place, model in runs:
        places = [place_of(point) for point in model["course"]]
        colour = f"var(--c{place % 10})"
        drawn.append(f'<polyline style="stroke:{colour}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}" />')
        drawn += [
            f'<circle style="fill:{colour}" cx={x:.1f} cy={y:.1f} r=4><title>{escape(model["name"])}, step {point["step"]:,}: '
            f"{point['bits_per_character']:.4f}</title></circle>"
            for (x, y), point in zip(places, model["course"], strict=True)
        ]
    key = "".join(f'<li><i style="background:var(--c{place % 10})"></i>{escape(model["name"])}</li>' for place, model in runs)
    picture = (
        f'<svg class=course viewBox="0 0 {WIDTH} {HEIGHT}" role=img aria-label="Bits per character of the kept checkpoints by step">'
        f"{''.join(drawn)}</svg>"
    )
    rows = [
        (model["name"], f"{point['step']:,}", *(_value(point[key], point["interval"][key]) for key in FIGURES))
        for _, model in runs
        for point in model["course"]
    ]
    numbers = table(("run", "step", "bits per character", "accuracy by character"), rows)
    return f"<ul class=keys>{key}</ul><div class=wide tabindex=0>{picture}</div>{numbers}"


def _sentences(sentences: Sequence[dict[str, Any]], models: Sequence[dict[str, Any]]) -> str:
    if not sentences:
        return "<p>None: the models give all sentences the same bits.</p>"
    rows = [
        (
            sentence["sentence"],
            f"{sentence['file']}: {sentence['document']}",
            *(f"{value:.3f}" for value in sentence["bits_per_character"]),
        )
        for sentence in sentences
    ]
    names = [model["name"] for model in models]
    return f"<div class=sentence>{table(('sentence', 'document', *names), rows, 'Bits per character', left=2)}</div>"
