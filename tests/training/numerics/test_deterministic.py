"""training.deterministic pins what decides about sums, proves itself before the first step, changes no bit, and notes where bits end."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import orjson
import pytest
import torch
import torch.distributed as dist

from jadeberta.cluster.environment import host_name
from jadeberta.config import load_recipe
from jadeberta.data.batches import MicroBatch, OverlongMicroBatch, StepBatch
from jadeberta.errors import ConfigError
from jadeberta.shards import file_sha256
from jadeberta.shards.tokenizer_format import DEFAULT_SPECIAL_TOKENS
from jadeberta.training.engine import TrainingEngine
from jadeberta.training.objective import build_model
from jadeberta.training.repeatable.determinism import changed_since, pinned_variables, prove, require_provable_stage
from jadeberta.utils.json_lines import read_jsonl
from tests.helpers import make_recipe, make_shards, printed_by, run_ranks, start_ranks

SETTINGS = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "TORCHINDUCTOR_DETERMINISTIC": "1", "NCCL_ALGO": "Ring", "NCCL_PROTO": "Simple",
    "NCCL_MIN_NCHANNELS": "16", "NCCL_MAX_NCHANNELS": "16",
}  # fmt: skip


def test_what_decides_about_sums_is_pinned_and_what_the_user_pinned_stays() -> None:
    assert pinned_variables({}) == SETTINGS
    own = {"CUBLAS_WORKSPACE_CONFIG": ":16:8", "NCCL_ALGO": "RING", "NCCL_MAX_NCHANNELS": "8", "NCCL_PROTO": "LL128"}
    assert pinned_variables(own) == SETTINGS | own | {"NCCL_MIN_NCHANNELS": "8"}


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        ({"NCCL_ALGO": "Ring,Tree"}, "NCCL_ALGO is 'Ring,Tree'"),
        ({"NCCL_ALGO": "^Tree"}, "unset it, or set it to Ring"),
        ({"NCCL_ALGO": "Tree"}, "NCCL_ALGO is 'Tree'"),
        ({"CUBLAS_WORKSPACE_CONFIG": ":0:0"}, "unset it, or set it to :4096:8"),
        ({"TORCHINDUCTOR_DETERMINISTIC": "0"}, "TORCHINDUCTOR_DETERMINISTIC is '0'"),
        ({"NCCL_PROTO": ""}, "NCCL_PROTO is ''"),
        ({"NCCL_MIN_NCHANNELS": "2", "NCCL_MAX_NCHANNELS": "16"}, "2 to 16 channels"),
    ],
)
def test_a_setting_that_leaves_the_choice_open_is_refused(env: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=r"training\.deterministic is true but") as refused:
        pinned_variables(env)
    assert sentence in str(refused.value)


def test_zero_3_is_refused() -> None:
    require_provable_stage(2)
    with pytest.raises(ConfigError, match=r"zero1\.json or zero2\.json, or training\.deterministic to false"):
        require_provable_stage(3)


@pytest.fixture
def proving(tmp_path: Path):
    """Proves that a model repeats itself, on one rank."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    recipe = load_recipe(make_recipe(tmp_path / "r.yaml", tmp_path, tmp_path / "run"))
    model = build_model(recipe, DEFAULT_SPECIAL_TOKENS, "sdpa")
    ids = torch.randint(5, 64, (2, 16), generator=torch.Generator().manual_seed(1))
    index = torch.arange(0, 32, 5)
    batch = StepBatch(0, 0, "", [MicroBatch(ids, index, ids.flatten()[index], None, None)], len(index), 32)

    def inputs(micro_batch: MicroBatch) -> dict[str, Any]:
        return {key: value for key, value in vars(micro_batch).items() if key != "draws"}

    def run(spoil: Any = None) -> None:
        engine = SimpleNamespace(model=model, recipe=recipe, process=SimpleNamespace(rank=0, world_size=1), inputs=inputs)
        if spoil is not None:
            model.register_parameter("spoilt", torch.nn.Parameter(torch.ones(2)))
            forward, calls = model.forward, []

            def spoilt(**inputs: Any) -> Any:
                calls.append(1)
                found = forward(**inputs)
                return SimpleNamespace(to_tuple=lambda: (found.to_tuple()[0] + spoil(model, len(calls)), *found.to_tuple()[1:]))

            model.forward = spoilt  # type: ignore[method-assign]
        prove(engine, batch)  # type: ignore[arg-type]

    yield run
    dist.destroy_process_group()


def test_two_equal_passes_with_dropout_prove_it(proving) -> None:
    proving()


def test_a_gradient_that_differs_by_one_bit_is_named(proving) -> None:
    # Its sum is the same, so the loss is: 0 and -0 differ in a bit alone.
    with pytest.raises(ConfigError, match="differ on rank 0, in spoilt and 1 more"):
        proving(lambda model, call: (model.spoilt * torch.tensor([0.0 if call == 1 else -0.0, 1.0])).sum() * 0)


def test_an_operation_without_a_deterministic_form_is_a_sentence(proving) -> None:
    def refuse(model: Any, call: int) -> None:
        raise RuntimeError(
            "scatter_add_cuda_kernel does not have a deterministic implementation, but you set it. You can turn off"
        )

    with pytest.raises(ConfigError, match=r"cannot be so here \(scatter_add_cuda_kernel does not have") as refused:
        proving(refuse)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("change", "proven"), [({}, True), ({"attention": "fused"}, False), ({"sequence_length": 256}, False)])
def test_a_phase_with_another_attention_or_row_length_is_proved_again(change: dict[str, Any], proven: bool) -> None:
    before = {"sequence_length": None, "attention": "sdpa", "micro_batch_size": 2, "global_batch_size": 4, "mask_bounds": (0, 0)}
    engine = SimpleNamespace(
        phase=SimpleNamespace(**before), process=SimpleNamespace(world_size=1), engine=MagicMock(), model=MagicMock(), compiled=False,
        _is_proven=True, _choose_forward=lambda: None,
    )  # fmt: skip
    TrainingEngine.enter_phase(engine, SimpleNamespace(**before | change), is_border=False)  # type: ignore[arg-type]
    assert engine._is_proven is proven


def test_an_overlong_micro_batch_on_a_gpu_runs_uncompiled_and_recomputes_its_layers_and_no_other_does() -> None:
    ids, seen = torch.zeros(1, 8, dtype=torch.int64), []
    model = SimpleNamespace(training=True, recompute=False, forward="compiled")

    def run(**_: Any) -> Any:
        seen.append((model.forward, model.recompute))
        return SimpleNamespace(to_tuple=lambda: ())

    engine = SimpleNamespace(
        engine=run, model=model, device=torch.device("cuda"), compiled=True, inputs=lambda _: {}, _compiled="compiled",
        _uncompiled="uncompiled", recipe=SimpleNamespace(training=SimpleNamespace(z_loss=0.0, recompute="none")),
    )  # fmt: skip
    for kind in (MicroBatch, OverlongMicroBatch, MicroBatch):
        TrainingEngine.forward(engine, kind(ids, ids[0], ids[0], None, None))  # type: ignore[arg-type]
    assert seen == [("compiled", False), ("uncompiled", True), ("compiled", False)]


def test_only_what_changed_since_the_attempt_before_ends_the_bits() -> None:
    rows = [
        {"event": "bits", "torch": "1", "devices": ["old"]},
        {"event": "start"},
        {"event": "bits", "torch": "2", "devices": ["A100"]},
    ]
    assert changed_since(rows, {"torch": "2", "devices": ["A100"]}) == {} == changed_since(rows[1:2], {"torch": "3"})
    assert changed_since(rows, {"torch": "2", "hosts": {"a": ""}}) == {}  # an older version did not record it
    assert changed_since(rows, {"torch": "2", "devices": ["H100"]}) == {"devices": [["A100"], ["H100"]]}


@pytest.mark.long
@pytest.mark.slow
def test_a_run_has_the_bits_that_it_has_without_and_says_where_they_end(tmp_path: Path) -> None:
    shards, weights = make_shards(tmp_path / "shards", {"a": (60, 1)}), {}
    for name, deterministic in (("plain", False), ("same", True)):
        training = {"max_steps": 2, "deterministic": deterministic, "precision": "bf16"}
        recipe = make_recipe(tmp_path / f"{name}.yaml", shards, tmp_path / name, training=training)
        run_ranks(1, "pretrain", "--config", str(recipe), log=tmp_path / name)
        weights[name] = file_sha256(tmp_path / name / "checkpoints" / "step-00000002" / "model.safetensors")
    assert weights["plain"] == weights["same"]
    ledger = tmp_path / "same" / "ledger.jsonl"
    plain = [row["deterministic"] for row in read_jsonl(tmp_path / "plain" / "ledger.jsonl") if row["event"] == "bits"]
    (noted,) = [row for row in read_jsonl(ledger) if row["event"] == "bits"]
    assert plain == [False] and noted["deterministic"] and [*noted["hosts"]] == [host_name(os.environ)]
    assert noted["ranks"] == 1 == len(noted["devices"]) and noted["torch"] == str(torch.__version__) and "changed" not in noted
    # The attempt before ran with another torch.
    lines = [orjson.loads(line) for line in ledger.read_bytes().splitlines()]
    changed = [row | {"torch": "2.0"} if row["event"] == "bits" else row for row in lines]
    ledger.write_bytes(b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in changed))
    told = run_ranks(1, "pretrain", "--config", str(tmp_path / "same.yaml"), "--training.max_steps", "3", log=tmp_path / "again")
    assert f"the bits of an uninterrupted run end at step 2 (torch was 2.0, is {torch.__version__}); its data goes on" in told
    found = [row.get("changed") for row in read_jsonl(ledger) if row["event"] == "bits"]
    assert found == [None, {"torch": ["2.0", str(torch.__version__)]}]


@pytest.mark.slow
def test_an_environment_that_leaves_a_choice_ends_the_run_before_a_step(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", {"a": (60, 1)})
    recipe = make_recipe(tmp_path / "r.yaml", shards, tmp_path / "run", training={"deterministic": True})
    for name, option in (("start", ()), ("dry", ("--dry-run",))):
        (rank,) = start_ranks(1, "pretrain", "--config", str(recipe), *option, log=tmp_path / name, NCCL_ALGO="Ring,Tree")
        assert rank.wait(120) == 2 and "NCCL_ALGO is 'Ring,Tree'" in printed_by(tmp_path / name)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
