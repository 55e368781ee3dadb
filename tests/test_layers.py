"""Imports go one way. LAYERS is the one place that states the order; README's tree lists the same folders in the same order."""

import ast
import re
import sys
from functools import cache

from tests.helpers import ROOT

# From the bottom up. A module or package imports only from those before it. Every module and package is listed here.
LAYERS = [
    "jadeberta.errors",
    "jadeberta.model_constants",
    "jadeberta.utils",
    "jadeberta.shards",
    # preprocess knows the shard format, errors and utils of jadeberta, and nothing else
    "preprocess.text",
    "preprocess.compressed",
    "preprocess.document_files",
    "preprocess.config",
    "preprocess.engines",
    "preprocess.segmenters",
    "preprocess.readers",
    "preprocess.workdir",
    "preprocess.written_files",
    "preprocess.load_config",
    "preprocess.executors",
    "preprocess.filters",
    "preprocess.tokenization",
    "preprocess.stages",
    "preprocess.estimate",
    "preprocess.job_status",
    "preprocess.corpus_report",
    "preprocess.demo",
    "preprocess.cli",
    "preprocess.__main__",
    "jadeberta.config",
    "jadeberta.cluster",
    "jadeberta.data",
    "jadeberta.model",
    "jadeberta.training",
    "jadeberta.checkpoint",
    "jadeberta.provenance",
    "jadeberta.evaluation",
    "jadeberta.release",
    "jadeberta.hub",
    "jadeberta.start",
    "jadeberta.jobs",
    "jadeberta.status",
    "jadeberta.alerts",
    "jadeberta.report",
    "jadeberta.publish",
    "jadeberta.plan",
    "jadeberta.preflight",
    "jadeberta.scaling",
    "jadeberta.race",
    "jadeberta.finetune",
    "jadeberta.compare",
    "jadeberta.segmenting_tokenizer",
    "jadeberta.fill",
    "jadeberta.pretrain",
    "jadeberta.demo",
    "jadeberta.completion",
    "jadeberta.cli",
    "jadeberta.__main__",
]
ROOTS = {"jadeberta", "preprocess"}
"""The packages' own `__init__` hold a docstring and the version, and anyone may read them."""


@cache
def import_graph() -> dict[str, set[str]]:
    """Module -> modules of the project that it imports anywhere, inside functions too."""
    files = [f for root in sorted(ROOTS) for f in sorted((ROOT / root).rglob("*.py"))]
    names = {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}
    graph: dict[str, set[str]] = {}
    for name, file in names.items():
        found = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert node.level == 0, f"{file}: relative import"
                full = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {f if f in names else node.module for f in full}
        graph[name] = (found & names.keys()) - {name}
    return graph


def layer_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_every_module_has_a_layer_and_every_layer_a_module() -> None:
    assert len(LAYERS) == len(set(LAYERS))
    assert {layer_of(m) for m in import_graph()} - ROOTS == set(LAYERS)


def test_no_import_points_up() -> None:
    height = {name: place for place, name in enumerate(LAYERS)} | dict.fromkeys(ROOTS, -1)
    edges = [(a, b) for a, targets in import_graph().items() for b in targets]
    assert len(edges) > 300
    assert [f"{a} -> {b}" for a, b in edges if height[layer_of(b)] > height[layer_of(a)]] == []


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {name: set(targets) for name, targets in import_graph().items()}
    while free := [name for name, targets in graph.items() if not targets]:
        for name in free:
            del graph[name]
        for targets in graph.values():
            targets.difference_update(free)
    assert sorted(graph) == []


def test_preprocess_knows_the_shard_format_and_nothing_of_training() -> None:
    used = {layer_of(b) for a, targets in import_graph().items() for b in targets if a.startswith("preprocess")}
    assert {name for name in used if name.startswith("jadeberta")} <= {"jadeberta.errors", "jadeberta.utils", "jadeberta.shards"}


def test_utils_and_errors_need_only_the_standard_library_orjson_and_rich() -> None:
    outside = set()
    for folder in ("errors.py", "utils"):
        for file in [ROOT / "jadeberta" / folder] if folder.endswith(".py") else (ROOT / "jadeberta" / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    outside |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    outside.add(node.module.split(".")[0])
    assert outside - set(sys.stdlib_module_names) - {"jadeberta"} <= {"orjson", "rich", "yaml"}


def test_no_folder_is_crowded_and_no_two_files_share_a_name() -> None:
    files = [f for top in ("jadeberta", "preprocess", "bench", "tests", "slurm", "launch") for f in (ROOT / top).rglob("*.*")]
    files = [f for f in files if f.suffix in (".py", ".sh")]
    crowded = {str(d): n for d in {f.parent for f in files} if (n := sum(f.parent == d for f in files)) > 20}
    assert crowded == {}
    shared = {"__init__.py", "__main__.py", "cli.py", "conftest.py"}  # these do the same job wherever they stand
    names = sorted(f.name for f in files if f.name not in shared)
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_readme_shows_the_tree_in_this_order() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for root in sorted(ROOTS):
        block = re.search(rf"(?m)^{root}/.*\n((?:  .*\n)+)", text)
        assert block, f"README shows no tree of {root}/"
        shown = [line.split()[0] for line in block[1].splitlines()]
        folders = [
            f"{name.split('.')[1]}/"
            for name in LAYERS
            if name.startswith(f"{root}.") and (ROOT / name.replace(".", "/")).is_dir()
        ]
        assert [name for name in shown if name.endswith("/")] == folders
        assert [name for name in shown if not name.endswith("/") and not (ROOT / root / name).is_file()] == []
