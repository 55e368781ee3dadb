"""The page of `jadeberta plan`: the look of `jadeberta report`, every figure with its formula and source, and nothing that loads."""

from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from jadeberta.errors import OutputError
from jadeberta.plan.forecast import ClusterShape, Forecast
from jadeberta.plan.plan_figures import CHOICES, PART_NAMES, PHASE_HEADERS, Figure, phase_rows
from jadeberta.plan.run_costs import RunCosts
from jadeberta.plan.world_sizes import WorldSize
from jadeberta.plan.zero_advice import USABLE
from jadeberta.report import html_page
from jadeberta.report.html_page import document, escape, header, json_element, page_style, theme_script, tools_script
from jadeberta.report.svg_charts import keys, stacked_bars
from jadeberta.utils.files import write_atomically

PART_CLASSES = {name: f"h{place}" for place, name in enumerate(PART_NAMES)}
TILES = (
    "days", "gpu_hours", "energy_kwh", "goodput", "best_interval_s", "memory", "largest_micro_batch", "zero_stage", "disk_checkpoints",
    "disk_shards", "core_hours", "tokens_per_second",
)  # fmt: skip
"""Figures at the head of the page."""
TILE_LABELS = {
    "memory": "memory of a GPU",
    "core_hours": "preprocessing",
    "disk_checkpoints": "disk, checkpoints",
    "disk_shards": "disk, shards",
}
"""Labels of the tiles where those of the figures need their heading."""


@dataclass(frozen=True)
class Page:
    """What the page is made from."""

    name: str
    """Of the recipe's file."""
    cluster: ClusterShape
    plan: Forecast
    costs: RunCosts
    figures: list[Figure]
    sizes: list[WorldSize]
    """Comparison of world sizes; empty: none."""


def write_page(path: Path, page: Page) -> None:
    """Writes the page, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    if path.is_dir():
        raise OutputError(f"{path}: a directory. Name the file to write with --html.")
    try:
        write_atomically(path, render(page).encode(errors="replace"))
    except OSError as e:
        raise OutputError(f"{path}: cannot be written ({e.strerror}). Name another file with --html.") from e


def render(page: Page) -> str:
    """Returns the plan as one HTML document that loads nothing."""
    cluster = page.cluster
    where = f"{cluster.nodes:,} node{'s' * (cluster.nodes > 1)} x {cluster.gpus_per_node:,} {cluster.device}"
    head = header(f"Plan of {page.name}", where, "plan.json")
    body = [
        "<a class=skip href='#main'>To the content</a>", head, f"<main id=main>{_verdict(page)}", _tiles(page), _memory(page),
        _intervals(page), _sizes(page), _phases(page), _figures(page), _inputs(page), "</main>",
        json_element("figures", {"format": "jadeberta-plan", "version": 1, "figures": {f.key: asdict(f) for f in page.figures}}),
    ]  # fmt: skip
    scripts = [tools_script() + (Path(__file__).parent / "plan_page.js").read_text(encoding="utf-8")]
    return document(f"Plan of {page.name} · jadeberta", "".join(body), page_style(), scripts, theme_script())


def _verdict(page: Page) -> str:
    days, zero = next(f for f in page.figures if f.key == "days"), page.costs.zero
    own = zero.own
    if own.refused:
        level, memory = "needs-you", f"ZeRO {own.stage} {own.refused}"
    elif own.fits is None:
        level, memory = "attention", "whether it fits a GPU is not known (--gpu-memory-gb)"
    elif own.fits:
        level, memory = "ok", f"a micro-batch takes {own.bytes / 1e9:.1f} GB of a GPU and fits"
    else:
        level, memory = "needs-you", f"a micro-batch takes {own.bytes / 1e9:.1f} GB and does NOT fit a GPU"
    return f"<p class='verdict {level}' role=status>{escape(f'{days.text[:1].upper()}{days.text[1:]}; {memory}.')}</p>"


def _tiles(page: Page) -> str:
    found = {figure.key: figure for figure in page.figures}
    cells = ""
    for key in TILES:
        figure = found[key]
        value, _, rest = figure.text.partition(" (") if key != "zero_stage" else figure.text.partition(": ")
        note = rest if key == "zero_stage" else rest.replace(")", "", 1)
        cells += f"<div class=tile><dt>{escape(TILE_LABELS.get(key, figure.label))}</dt><dd><strong>{escape(value)}</strong>"
        cells += (f"<span>{escape(note)}</span>" if note and key != "zero_stage" else "") + "</dd></div>"
    return f"<dl class=tiles>{cells}</dl>"


def _memory(page: Page) -> str:
    zero = page.costs.zero
    names = [name for name in PART_NAMES if any(name in stage.memory for stage in zero.stages)]
    bars = [
        [
            (
                PART_CLASSES[name],
                stage.memory[name] / 1e9,
                f"ZeRO {stage.stage}: {PART_NAMES[name]} {stage.memory[name] / 1e9:.2f} GB",
            )
            for name in names
            if name in stage.memory
        ]
        for stage in zero.stages
    ]
    labels = [f"ZeRO {stage.stage}, {stage.bytes / 1e9:.1f} GB" for stage in zero.stages]
    limit = page.costs.inputs.get("gpu_memory_gb")
    note = "" if limit is None else f" of {limit.value:g} GB, of which {100 * USABLE:g}% can be used"
    rows = [
        (
            stage.stage, *(f"{stage.memory.get(name, 0) / 1e9:.2f}" for name in names), f"{stage.bytes / 1e9:.2f}",
            stage.refused or {None: "not known", True: "yes", False: "no"}[stage.fits],
            "" if stage.largest_micro_batch is None else f"{stage.largest_micro_batch:,}", f"{stage.sent_bytes / 1e9:.2f}",
            "not known" if stage.step_s is None else f"{stage.step_s:.3f}",
        )
        for stage in zero.stages
    ]  # fmt: skip
    headers = (
        "ZeRO",
        *(f"{PART_NAMES[name]}, GB" for name in names),
        "together, GB",
        "fits",
        "largest micro-batch",
        "sent in a step, GB",
        "step, s",
    )
    advice = "no stage fits" if zero.stage is None else f"ZeRO {zero.stage}"
    return (
        f"<section><h2>Memory of a GPU</h2><p>Advice: <strong>{escape(advice)}</strong>; the recipe has ZeRO {zero.recipe_stage}. Reason: "
        f"{escape(zero.reason)}.</p>"
        + stacked_bars(labels, bars, f"Memory of a GPU{note}: {'; '.join(labels)}.")
        + keys([(PART_CLASSES[name], PART_NAMES[name]) for name in names])
        + f"<p class=muted>Bytes of one GPU{escape(note)}, with the recipe's micro-batch.</p>{html_page.table(headers, rows)}</section>"
    )


def _intervals(page: Page) -> str:
    rows = []
    for name, label in CHOICES.items():
        one = page.plan.choices[name]
        rows.append((label, f"{one.seconds / 60:,.1f}", f"{one.steps:,}", f"{100 * one.goodput:.3f}", f"{one.days:,.2f}"))
    headers = ("save every", "minutes", "steps", "goodput, %", "days")
    return f"<section><h2>How often to save</h2>{html_page.table(headers, rows)}</section>"


def _sizes(page: Page) -> str:
    if not page.sizes:
        return ""
    rows = [
        (s.nodes, s.ranks, s.micro_batch, s.accumulation, f"{s.step_s:.3f}", f"{s.communication_s:.4f}", f"{s.tokens_per_second:,.0f}",
         f"{100 * s.efficiency:.1f}", f"{s.days:.2f}")
        if s.micro_batch
        else (s.nodes, s.ranks, *["the batch does not divide"], *[""] * 6)
        for s in page.sizes
    ]  # fmt: skip
    headers = ("nodes", "GPUs", "micro-batch", "accumulation", "step, s", "exposed, s", "tokens/s", "efficiency, %", "days")
    what = "The longest phase alone" if page.plan.phases else "The same batch"
    note = f"<p class=muted>{what} on more nodes, without faults.</p>"
    return f"<section><h2>World sizes</h2>{note}{html_page.table(headers, rows)}</section>"


def _phases(page: Page) -> str:
    if not page.plan.phases:
        return ""
    return f"<section><h2>Phases</h2>{html_page.table(PHASE_HEADERS, phase_rows(page.plan))}</section>"


def _figures(page: Page) -> str:
    parts = []
    for group, figures in groupby(page.figures, key=lambda figure: figure.group):
        rows = [(figure.label, figure.text, figure.formula, figure.source) for figure in figures]
        parts.append(f"<h3>{escape(group)}</h3>{html_page.table(('figure', 'value', 'formula', 'source'), rows, left=4)}")
    return f"<section><h2>Every figure</h2>{''.join(parts)}</section>"


def _inputs(page: Page) -> str:
    rows = [
        (f"--{name.replace('_', '-')}", f"{used.value:,.5g}", used.kind, used.source) for name, used in page.plan.inputs.items()
    ]
    headers = ("option", "value", "how it is known", "source")
    return f"<section><h2>Computed from</h2>{html_page.table(headers, rows, left=4)}</section>"
