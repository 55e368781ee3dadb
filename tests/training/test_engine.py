"""What the engine decides before it is built."""

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from jadeberta.config import Recipe, load_recipe
from jadeberta.config.phases import phases_of, with_lengths
from jadeberta.data.batches import MicroBatch, fill_up
from jadeberta.errors import ConfigError
from jadeberta.training.engine import TrainingEngine, decide_compilation, require_attentions
from tests.helpers import TINY_MODEL, make_recipe


@pytest.mark.parametrize(
    ("wish", "device", "stage", "attention", "decided"),
    [
        ("auto", "cuda", 1, "sdpa", True), ("auto", "cuda", 2, "sdpa", True), ("auto", "cuda", 3, "sdpa", False),
        ("auto", "cuda", 1, "eager", False), ("auto", "cpu", 1, "sdpa", False), ("always", "cpu", 1, "sdpa", True),
        ("always", "cuda", 2, "eager", True), ("never", "cuda", 1, "sdpa", False), ("never", "cpu", 3, "sdpa", False),
    ],
)  # fmt: skip
def test_gpus_compile_what_can_be_compiled(tmp_path: Path, wish, device, stage, attention, decided) -> None:
    recipe = load_recipe(make_recipe(tmp_path / "recipe.yaml", tmp_path, tmp_path / "run", training={"compile": wish}))
    assert decide_compilation(recipe, attention, stage, torch.device(device)) is decided


def test_compilation_under_zero3_is_refused_with_the_ways_out(tmp_path: Path) -> None:
    recipe = load_recipe(make_recipe(tmp_path / "recipe.yaml", tmp_path, tmp_path / "run", training={"compile": "always"}))
    with pytest.raises(ConfigError, match=r"'auto', or deepspeed to ds_configs/zero1\.json"):
        decide_compilation(recipe, "sdpa", 3, torch.device("cpu"))


def test_cheap_recomputation_without_the_compiler_is_refused(tmp_path: Path) -> None:
    recipe = make_recipe(
        tmp_path / "recipe.yaml", tmp_path, tmp_path / "run", training={"recompute": "cheap", "compile": "never"}
    )
    with pytest.raises(ConfigError, match=r"set training\.compile to 'auto' or 'always'"):
        load_recipe(recipe)


def test_recomputation_with_the_reference_is_refused(tmp_path: Path) -> None:
    sections = {"training": {"recompute": "layers"}, "model": TINY_MODEL | {"attention": "eager"}}
    with pytest.raises(ConfigError, match="keeps its activations"):
        load_recipe(make_recipe(tmp_path / "recipe.yaml", tmp_path, tmp_path / "run", **sections))


def engine_in_parts(recipe: Recipe, device: str) -> TrainingEngine:
    """As much of an engine as enters a phase."""
    engine = object.__new__(TrainingEngine)
    engine.engine, engine.model, engine.guard = MagicMock(), MagicMock(), MagicMock()
    engine.recipe, engine.stage, engine.device = recipe, 1, torch.device(device)
    engine.process, engine.phase = SimpleNamespace(world_size=1), phases_of(recipe)[0]  # type: ignore[assignment]
    engine._uncompiled, engine._compiled, engine._is_proven = "uncompiled", "compiled", False
    return engine


def test_each_phase_is_compiled_as_its_own_attention_asks(tmp_path: Path) -> None:
    phases = [{"steps": 2, "attention": "sdpa"}, {"steps": 2}, {"steps": 2, "attention": "sdpa"}]
    sections = {"model": TINY_MODEL | {"attention": "eager"}, "phases": phases}
    recipe = load_recipe(make_recipe(tmp_path / "recipe.yaml", tmp_path, tmp_path / "run", **sections))
    engine, found = engine_in_parts(recipe, "cuda"), []
    for phase in with_lengths(phases_of(recipe), 128):
        engine.enter_phase(phase, is_border=phase.number > 1)
        found.append((engine.compiled, engine.model.forward))
    assert found == [(True, "compiled"), (False, "uncompiled"), (True, "compiled")]


def test_a_run_may_have_more_phases_than_torch_compiles_shapes(tmp_path: Path) -> None:
    phases = [{"steps": 1, "micro_batch_size": size, "global_batch_size": size} for size in range(1, 7)]
    sections = {"training": {"max_steps": 6}, "phases": phases}
    recipe = load_recipe(make_recipe(tmp_path / "recipe.yaml", tmp_path, tmp_path / "run", **sections))
    engine = engine_in_parts(recipe, "cuda")

    def forward(rows: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return rows if mask is None else rows * mask

    compiled = torch.compile(forward, fullgraph=True, dynamic=False, backend="eager")
    for phase in with_lengths(phases_of(recipe), 128):
        engine.enter_phase(phase, is_border=phase.number > 1)
        rows = torch.ones(phase.micro_batch_size + 1, 3)
        # A micro-batch with padding among those without is compiled separately: two shapes in each phase.
        assert compiled(rows).sum() == compiled(rows, rows).sum() == rows.numel()


def test_an_attention_of_a_later_phase_that_cannot_run_here_is_refused_before_the_first_step(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = {"hidden_size": 64, "attention_head_size": 32}
    phases = [{"steps": 2}, {"steps": 4, "attention": "fused"}]
    path = make_recipe(tmp_path / "recipe.yaml", tmp_path, tmp_path / "run", model=model, phases=phases)
    with pytest.raises(ConfigError, match=r"phases, entry 2: model\.attention 'fused' needs"):
        require_attentions(load_recipe(path))
    require_attentions(load_recipe(path, ("--phases", "[]")))


def test_a_micro_batch_of_a_rare_shape_runs_uncompiled_on_a_gpu_alone(tmp_path: Path) -> None:
    recipe = load_recipe(make_recipe(tmp_path / "recipe.yaml", tmp_path, tmp_path / "run", training={"compile": "always"}))
    ids = torch.zeros((2, 128), dtype=torch.int64)
    usual, rare = (MicroBatch(ids, torch.arange(n), torch.zeros(n, dtype=torch.int64), None, None) for n in (60, 70))
    for device, expected in (("cuda", ["compiled", "uncompiled", "compiled"]), ("cpu", ["compiled"] * 3)):
        engine, used = engine_in_parts(recipe, device), []
        engine._choose_forward()
        engine._to_device = lambda tensor: tensor  # type: ignore[method-assign]
        engine.engine.side_effect = lambda engine=engine, used=used, **inputs: used.append(engine.model.forward) or MagicMock()
        for batch in (usual, rare, usual):
            engine.forward(fill_up(batch, 64))
        assert used == expected and engine.model.forward == "compiled"
