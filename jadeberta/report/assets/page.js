"use strict";
(() => {
const root = document.documentElement, $ = (s, e = document) => e.querySelector(s), $$ = (s, e = document) => [...e.querySelectorAll(s)];
const data = JSON.parse($("#figures").textContent), runs = data.runs.filter(r => r.curves && r.curves.x.step.length);
const many = data.runs.length > 1;
const css = name => getComputedStyle(root).getPropertyValue(name).trim();
const make = (tag, text, props = {}) => { const e = document.createElement(tag); if (text != null) e.textContent = text; return Object.assign(e, props) };
const fmt = v => v == null || !isFinite(v) ? "–" : v !== 0 && (Math.abs(v) < 1e-3 || Math.abs(v) >= 1e12) ? v.toExponential(3) : Math.abs(v) >= 1e4 ? Math.round(v).toLocaleString("en") : String(+v.toPrecision(5));
const short = v => v == null ? "" : Math.abs(v) >= 1e12 ? +(v / 1e12).toPrecision(4) + "T" : Math.abs(v) >= 1e9 ? +(v / 1e9).toPrecision(4) + "G" : Math.abs(v) >= 1e6 ? +(v / 1e6).toPrecision(4) + "M" : Math.abs(v) >= 1e4 ? +(v / 1e3).toPrecision(4) + "k" : v !== 0 && Math.abs(v) < 1e-3 ? (+v.toPrecision(3)).toExponential() : String(+v.toPrecision(4));
const units = {step: "step", tokens: "tokens", hours: "hours", gpu_hours: "device-hours"};
const kinds = {restart: ["restarts", "--h4"], skip: ["skipped steps", "--h2"], rollback: ["roll-backs", "--h1"], hang: ["hangs", "--h7"], save_failed: ["failed saves", "--h6"], phase: ["phases", "--h3"]};
const shownKinds = new Set(Object.keys(kinds));
const byHour = id => id === "step_time" || id === "waits";
// Of a kind with many marks, lines would hide the curves.
const counts = {};
runs.forEach(run => run.curves.marks.forEach(m => { counts[m.kind] = (counts[m.kind] || 0) + 1 }));
let axis = "step", logarithmic = false, plots = [];

// The curves take their colours from the theme, which tools.js has changed before this is called.
$("#theme").addEventListener("click", () => draw());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());

// copy
const say = text => { $("#live").textContent = text };
async function copy(text) {
  try { await navigator.clipboard.writeText(text) } catch (e) {
    const area = make("textarea", text); document.body.append(area); area.select(); document.execCommand("copy"); area.remove();
  }
  say("Copied.");
}
$$(".copy").forEach(button => button.addEventListener("click", () => {
  const section = button.closest("section"), first = $("ol", section);
  const plain = t => t.replace(/[\\`*_[\]<>#|]/g, "\\$&");
  copy((first ? $$("li", first) : []).map(li => "- " + $("time", li).textContent.trim() + " " + plain(li.lastElementChild.textContent)).join("\n"));
  button.textContent = "Copied"; setTimeout(() => { button.textContent = "Copy as Markdown" }, 1500);
}));
$$(".filter").forEach(input => input.addEventListener("input", () => {
  const words = input.value.toLowerCase();
  $$("tbody tr", input.parentElement).forEach(tr => { tr.hidden = !tr.textContent.toLowerCase().includes(words) });
}));

// what each chart shows: [label, x, middle, low, high, colour, dash]
function seriesOf(id) {
  const found = [];
  runs.forEach((run, place) => {
    const c = run.curves, name = many ? run.name : "", colour = "--c" + place % 10;
    if (id === "accuracy") {
      Object.entries(c.evaluations.corpora).forEach(([corpus, values], k) => found.push({
        label: (many ? name + " · " : "") + corpus, x: c.evaluations.x, mid: values, colour: many ? colour : "--c" + k % 10, dash: many && k ? [2 + 2 * k, 4] : null, points: true}));
    } else if (id === "lr") found.push({label: name || "learning rate", x: c.x, mid: c.lr, colour});
    else if (id === "step_time" || id === "waits") {
      const v = run.speed || {hours: []}, x = Object.fromEntries(Object.keys(units).map(k => [k, v.hours]));
      if (!v.hours.length) return;
      (id === "waits" ? [["data_wait", "data, %"], ["save_stall", "saves, s"]] : [["median", "median"], ["p95", "p95"], ["p99", "p99"]]).forEach(([key, words], k) => found.push({
        label: (many ? name + " · " : "") + words, x, mid: v[key], colour: many ? colour : "--c" + k, dash: many && k ? [2 + 2 * k, 4] : null, gaps: true}));
    } else {
      const band = c[id];
      found.push({label: name || {loss: "loss", grad_norm: "gradient norm", tokens_per_second: "tokens/s"}[id], x: c.x, mid: band.median, low: band.min, high: band.max, colour});
      if (id === "grad_norm") found.push({label: (many ? name + " · " : "") + "guard's limit", x: c.x, mid: c.limit, colour: many ? colour : "--c1", dash: [6, 4]});
    }
  });
  return found.filter(s => s.mid.some(v => v != null));
}

function tableOf(id) {
  const wide = make("div", null, {className: "wide", tabIndex: 0});
  seriesOf(id).forEach(s => {
    const t = make("table"), head = t.createTHead().insertRow();
    t.createCaption().textContent = s.label;
    [units[byHour(id) ? "hours" : axis], s.low ? "median" : "value", ...(s.low ? ["least", "largest"] : [])].forEach(h => head.append(make("th", h, {scope: "col", className: "n"})));
    const body = t.createTBody();
    s.mid.forEach((v, k) => { if (v == null) return; const row = body.insertRow(); [s.x[axis][k], v, ...(s.low ? [s.low[k], s.high[k]] : [])].forEach(n => row.append(make("td", fmt(n), {className: "n"}))) });
    wide.append(t);
  });
  return wide;
}

const alpha = (colour, share) => { const n = parseInt(colour.slice(1), 16); return `rgba(${n >> 16},${n >> 8 & 255},${n & 255},${share})` };

function drawMarks(u, id) {
  if (byHour(id) && axis !== "hours") return;
  const ctx = u.ctx, {left, top, width, height} = u.bbox, dpr = devicePixelRatio || 1;
  ctx.save(); ctx.beginPath(); ctx.rect(left, top, width, height); ctx.clip();
  runs.forEach(run => run.curves.marks.forEach(m => {
    if (!shownKinds.has(m.kind) || m.x[axis] == null) return;
    const x = Math.round(u.valToPos(m.x[axis], "x", true)) + .5;
    if (x < left || x > left + width) return;
    const colour = css(kinds[m.kind][1]), tick = m.kind === "skip" || m.kind === "save_failed" || counts[m.kind] > 30;
    ctx.strokeStyle = tick ? colour : alpha(colour, m.kind === "restart" ? .45 : .85);
    ctx.lineWidth = dpr * (m.kind === "rollback" || m.kind === "hang" ? 1.6 : 1);
    ctx.setLineDash(m.kind === "restart" ? [3 * dpr, 4 * dpr] : m.kind === "phase" ? [8 * dpr, 4 * dpr] : []);
    ctx.beginPath(); ctx.moveTo(x, tick ? top + height - 10 * dpr : top); ctx.lineTo(x, top + height); ctx.stroke();
  }));
  ctx.restore();
}

function nearMark(u, x) {
  let best = null, away = 8;
  runs.forEach(run => run.curves.marks.forEach(m => {
    if (!shownKinds.has(m.kind) || m.x[axis] == null) return;
    const d = Math.abs(u.valToPos(m.x[axis], "x") - x);
    if (d < away) { away = d; best = (many ? run.name + ": " : "") + m.text }
  }));
  return best;
}

let zooming = false;
const linked = () => plots.filter(p => axis === "hours" || !byHour(p.id));
function zoom(min, max) { zooming = true; linked().forEach(p => p.u.setScale("x", {min, max})); zooming = false }
function wholeRange() {
  let min = Infinity, max = -Infinity;
  linked().forEach(p => { const x = p.u.data[0]; if (x.length) { min = Math.min(min, x[0]); max = Math.max(max, x[x.length - 1]) } });
  return [min, max > min ? max : min + 1];
}
function zoomBy(what) {
  if (!linked().length) return;
  const [a, b] = wholeRange(), s = linked()[0].u.scales.x, mid = (s.min + s.max) / 2, half = (s.max - s.min) / 2;
  if (what === "all") return zoom(a, b);
  if (what === "last") return zoom(b - (b - a) / 10, b);
  const next = Math.min(half * (what === "in" ? .5 : 2), (b - a) / 2), low = Math.max(a, Math.min(mid - next, b - 2 * next));
  zoom(low, low + 2 * next);
}

function build(figure) {
  const id = figure.dataset.chart, series = seriesOf(id), box = $(".plot", figure), legend = $(".legend", figure);
  const off = new Set($$("button[aria-pressed=false]", legend).map(b => b.dataset.label));
  box.textContent = ""; legend.textContent = "";
  figure.hidden = !series.length;
  if (!series.length) return;
  const tables = series.map(s => [s.x[axis], ...(s.low ? [s.low, s.high] : []), s.mid]);
  const joined = uPlot.join(tables), uSeries = [{}], bands = [], index = [];
  series.forEach(s => {
    const colour = css(s.colour), shown = !off.has(s.label);
    if (s.low) {
      const at = uSeries.length;
      uSeries.push({show: shown, stroke: "transparent", points: {show: false}}, {show: shown, stroke: "transparent", points: {show: false}});
      bands.push({series: [at + 1, at], fill: alpha(colour, .22)});
    }
    index.push(uSeries.length);
    uSeries.push({show: shown, label: s.label, stroke: colour, width: 1.6, dash: s.dash || undefined, spanGaps: !s.gaps && !!s.points, points: s.points ? {show: series[0].mid.length < 150, size: 5, fill: colour} : {show: false}});
  });
  const line = css("--line"), muted = css("--muted"), font = "12px system-ui,sans-serif";
  const ax = {stroke: muted, grid: {stroke: line, width: 1}, ticks: {stroke: line, width: 1}, font};
  const log = logarithmic && (id === "loss" || id === "grad_norm");
  const values = (u, ticks) => ticks.map(v => v == null ? "" : short(v));
  const range = u => {
    // Medians alone decide the range: one skipped step must not flatten the curve.
    let low = Infinity, high = -Infinity; const x = u.data[0], {min, max} = u.scales.x;
    index.forEach(k => { if (u.series[k].show) u.data[k].forEach((v, i) => { if (v != null && (min == null || (x[i] >= min && x[i] <= max))) { low = Math.min(low, v); high = Math.max(high, v) } }) });
    if (low > high) return [0, 1];
    if (id === "tokens_per_second" || id === "lr") low = Math.min(0, low);
    const pad = (high - low || Math.abs(high) || 1) * .06;
    return [low < 0 || low - pad >= 0 ? low - pad : 0, high + pad];
  };
  const chips = [];
  const near = make("span", "", {className: "near"});
  const put = (u) => {
    const at = u.cursor.idx;
    series.forEach((s, k) => {
      const i = u.cursor.idxs ? u.cursor.idxs[index[k]] : at;
      let j = i; const col = u.data[index[k]];
      while (j != null && j > 0 && col[j] === undefined) j--;
      const v = j == null ? null : col[j];
      chips[k].textContent = v == null ? "" : " " + fmt(v) + (s.low && u.data[index[k] - 2][j] != null ? ` (${fmt(u.data[index[k] - 2][j])} to ${fmt(u.data[index[k] - 1][j])})` : "");
    });
    const where = at == null ? "" : `${units[byHour(id) ? "hours" : axis]} ${fmt(u.data[0][at])}`;
    const mark = at == null || (byHour(id) && axis !== "hours") ? null : nearMark(u, u.cursor.left);
    near.textContent = where + (mark ? " · " + mark : "");
  };
  const u = new uPlot({
    width: Math.max(200, box.clientWidth), height: 240, legend: {show: false}, series: uSeries, bands,
    cursor: {sync: {key: byHour(id) ? "hours" : "curves", setSeries: false, scales: ["x", null]}, drag: {x: true, y: false}, focus: {prox: -1}, y: false},
    scales: {x: {time: false}, y: log ? {distr: 3} : {range: (u, min, max) => range(u)}},
    axes: [{...ax, values, space: 70}, {...ax, values, size: 58}],
    hooks: {draw: [u => drawMarks(u, id)], setCursor: [put], setScale: [(u, key) => { if (key === "x" && !zooming && ready && (axis === "hours" || !byHour(id))) zoom(u.scales.x.min, u.scales.x.max) }]},
  }, joined, box);
  let ready = false; setTimeout(() => { ready = true });
  u.over.addEventListener("dblclick", () => setTimeout(() => { if (axis === "hours" || !byHour(id)) zoomBy("all") }));
  series.forEach((s, k) => {
    const button = make("button", null, {type: "button"}), swatch = make("span", null, {className: "swatch"}), value = make("span", "", {className: "value"});
    swatch.style.background = css(s.colour); button.dataset.label = s.label;
    button.setAttribute("aria-pressed", String(!off.has(s.label))); button.title = "Show or hide";
    button.append(swatch, make("span", s.label), value); chips.push(value);
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true"; button.setAttribute("aria-pressed", String(on));
      const first = s.low ? index[k] - 2 : index[k];
      for (let i = first; i <= index[k]; i++) u.setSeries(i, {show: on});
    });
    legend.append(button);
  });
  legend.append(near);
  const spans = series.map(s => { const v = s.mid.filter(n => n != null); return `${s.label}: first ${fmt(v[0])}, last ${fmt(v[v.length - 1])}, least ${fmt(Math.min(...v))}, largest ${fmt(Math.max(...v))}` });
  box.setAttribute("aria-label", `${$("h3", figure).textContent} across ${units[byHour(id) ? "hours" : axis]}. ${spans.join("; ")}. Arrow keys move along the curve, plus and minus zoom, 0 shows all.`);
  plots.push({u, box, put, id});
}

function keys(event) {
  const plot = plots.find(p => p.box === event.currentTarget);
  if (!plot) return;
  const {u} = plot, step = {ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20}[event.key];
  if (step) {
    const x = u.data[0], s = u.scales.x;
    let low = x.findIndex(v => v >= s.min), high = x.length - 1;
    while (high > 0 && x[high] > s.max) high--;
    const now = u.cursor.idx == null ? (step > 0 ? low - 1 : high + 1) : u.cursor.idx, next = Math.max(low, Math.min(high, now + step));
    u.setCursor({left: u.valToPos(x[next], "x"), top: 20});
    say($(".legend", plot.box.parentElement).innerText.replace(/\s+/g, " "));
  } else if (event.key === "+") zoomBy("in"); else if (event.key === "-") zoomBy("out"); else if (event.key === "0") zoomBy("all");
  else if (event.key === "Escape") u.setCursor({left: -10, top: -10}); else return;
  event.preventDefault();
}

function draw() {
  const range = plots.length && plots[0].axis === axis && linked().length ? [linked()[0].u.scales.x.min, linked()[0].u.scales.x.max] : null;
  plots.forEach(p => p.u.destroy()); plots = [];
  $$(".chart").forEach(build);
  plots.forEach(p => { p.axis = axis });
  if (!plots.length) return;
  const [a, b] = range || wholeRange(); zoom(a, b);
  $$(".chart details").forEach(d => { if (d.open) fill(d) });
}
function fill(details) {
  const old = $(".wide", details); if (old) old.remove();
  details.append(tableOf(details.closest("figure").dataset.chart));
}

if ($("#controls")) {
  const box = $("#marks");
  Object.entries(kinds).forEach(([kind, [words, colour]]) => {
    if (!counts[kind]) return;
    const label = make("label"), input = make("input", null, {type: "checkbox", checked: true}), swatch = make("span", null, {className: "swatch"});
    swatch.style.background = `var(${colour})`;
    input.addEventListener("change", () => { if (input.checked) shownKinds.add(kind); else shownKinds.delete(kind); plots.forEach(p => p.u.redraw(false)) });
    label.append(input, swatch, `${words} (${counts[kind]})`); box.append(label);
  });
  if (!Object.keys(counts).length) box.hidden = true;
  $$("input[name=axis]").forEach(input => input.addEventListener("change", () => { axis = input.value; draw() }));
  $("#log").addEventListener("change", event => { logarithmic = event.target.checked; draw() });
  $$("[data-zoom]").forEach(button => button.addEventListener("click", () => zoomBy(button.dataset.zoom)));
  $$(".plot").forEach(box => box.addEventListener("keydown", keys));
  $$(".chart details").forEach(d => d.addEventListener("toggle", () => { if (d.open) fill(d) }));
  draw();
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; plots.forEach(p => p.u.setSize({width: Math.max(200, p.box.clientWidth), height: 240})) } });
}
let before;
addEventListener("beforeprint", () => { before = root.dataset.theme; root.dataset.theme = "light"; draw(); $$("details.run").forEach(d => { d.dataset.was = d.open; d.open = true }) });
addEventListener("afterprint", () => { if (before) root.dataset.theme = before; else delete root.dataset.theme; draw(); $$("details.run").forEach(d => { d.open = d.dataset.was === "true" }) });
})();
