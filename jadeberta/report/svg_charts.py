"""Bars, timelines and heat maps as SVG, drawn here: colours are classes of the page's style, so that both themes work."""

from collections.abc import Sequence

from jadeberta.report.html_page import escape

WIDTH = 1000
LABEL = 110
"""Width of the labels at the left."""


def keys(names: Sequence[tuple[str, str]]) -> str:
    """Returns the key of a chart.

    Args:
        names: class of the colour, and words.
    """
    return "<ul class=keys>" + "".join(f"<li><i class={name}></i>{escape(words)}</li>" for name, words in names) + "</ul>"


def stacked_bars(labels: Sequence[str], bars: Sequence[Sequence[tuple[str, float, str]]], summary: str, height: int = 180) -> str:
    """Returns one column for each label.

    Args:
        labels: below the columns; where there are many, some are left out.
        bars: of each column, from below: class, value, words for the pointer.
        summary: what the chart shows, for screen readers.
        height: of the columns, in units of the picture.
    """
    most = max((sum(value for _, value, _ in bar) for bar in bars), default=0.0) or 1.0
    each = WIDTH / max(1, len(bars))
    parts = []
    for place, bar in enumerate(bars):
        top = float(height)
        for name, value, words in bar:
            size = height * value / most
            if size >= 0.2:
                top -= size
                parts.append(
                    f"<rect class={name} x={place * each:.1f} y={top:.1f} width={max(0.5, each * 0.9):.1f} height={size:.1f}>"
                    f"<title>{escape(words)}</title></rect>"
                )
    every = max(1, -(-len(labels) * 62 // WIDTH))
    texts = "".join(
        f"<text x={place * each:.1f} y={height + 14}>{escape(text)}</text>"
        for place, text in enumerate(labels)
        if place % every == 0
    )
    return _svg(height + 20, "".join(parts) + texts, summary)


def timeline(
    spans: Sequence[tuple[str, float, float, str]], labels: Sequence[tuple[float, str]], summary: str, height: int = 34
) -> str:
    """Returns spans of time in one row.

    Args:
        spans: class, begin and end as shares of the width, words for the pointer.
        labels: place as a share of the width, text.
        summary: what the chart shows, for screen readers.
        height: of the row.
    """
    parts = [
        f"<rect class={name} x={WIDTH * begin:.1f} y=0 width={max(0.4, WIDTH * (end - begin)):.1f} height={height}>"
        f"<title>{escape(words)}</title></rect>"
        for name, begin, end, words in spans
    ]
    texts = [f"<text x={WIDTH * place:.1f} y={height + 14}>{escape(text)}</text>" for place, text in labels]
    return _svg(height + 20, "".join(parts + texts), summary)


def heat_map(rows: Sequence[str], levels: Sequence[Sequence[int]], labels: Sequence[tuple[float, str]], summary: str) -> str:
    """Returns a cell for each row and column; cells of one colour are one path, which keeps the page small.

    Args:
        rows: labels at the left.
        levels: of each row, the number of the colour; -1: no cell.
        labels: below: place as a share of the width, text.
        summary: what the chart shows, for screen readers.
    """
    high, wide = 14, (WIDTH - LABEL) / max(1, max(map(len, levels), default=1))
    paths: dict[int, list[str]] = {}
    for place, row in enumerate(levels):
        begin = 0
        for end in range(1, len(row) + 1):
            if end == len(row) or row[end] != row[begin]:
                if row[begin] >= 0:
                    x, width = LABEL + begin * wide, (end - begin) * wide
                    paths.setdefault(row[begin], []).append(f"M{x:.1f} {place * high}h{width:.1f}v{high - 1}h-{width:.1f}z")
                begin = end
    drawn = "".join(f'<path class=g{level} d="{"".join(path)}"/>' for level, path in sorted(paths.items()))
    names = "".join(f"<text x=0 y={place * high + 11}>{escape(name[:18])}</text>" for place, name in enumerate(rows))
    bottom = high * len(rows)
    texts = "".join(f"<text x={LABEL + (WIDTH - LABEL) * at:.1f} y={bottom + 13}>{escape(text)}</text>" for at, text in labels)
    return _svg(bottom + 20, drawn + names + texts, summary)


def _svg(height: int, inner: str, summary: str) -> str:
    picture = f'<svg viewBox="0 0 {WIDTH} {height}" role=img aria-label="{escape(summary)}">{inner}</svg>'
    return f"<div class=wide tabindex=0>{picture}</div>"
