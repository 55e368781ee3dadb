"""Muon, StableAdamW and Lion under ZeRO: each update is the one of a plain formula in fp64, at any world size and after a resume."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import DebertaV2Config

from jadeberta.config import ModelConfig, TrainingConfig, load_recipe, resolve_file
from jadeberta.errors import ConfigError
from jadeberta.model import build
from jadeberta.model.replaced_tokens import ReplacedTokenModel
from jadeberta.training.engine import deepspeed_settings
from jadeberta.training.optimizers import build_optimizer
from jadeberta.training.optimizers.groups import decay_groups, hidden_matrices, matrix_groups
from jadeberta.training.optimizers.orthogonalise import STEPS as NEWTON_SCHULZ_STEPS
from jadeberta.training.optimizers.orthogonalise import orthogonalise, update_scale
from tests.helpers import TINY_MODEL, make_recipe, printed_by, start_ranks
from tests.training.test_ema import bits, held

LR, MUON_LR, DECAY, CLIP, STEPS, SPOILT = 1e-2, 3e-2, 0.1, 0.05, 3, 1
SETTINGS = [
    "muon-1-fp32", "muon-2-bf16",
    *(pytest.param(setting, marks=pytest.mark.long) for setting in ("stable_adamw-2-fp32", "lion-3-fp32", "adamw-1-fp32")),
]  # fmt: skip
MODEL = {"num_hidden_layers": 3, "intermediate_size": 40, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
"""Half of its hidden matrices ends within one."""

# Each setting makes some steps, the second of which the guard skips; what is held after each goes to the disk. Then engines made anew go
# on from the last step but one: of the same number of ranks, and in two ranks also of what one rank held.
DRIVER = """
import json, os, sys
from pathlib import Path
import torch
import torch.distributed as dist
from jadeberta.checkpoint.state_dict import current_adam_step, restore, save_tensors, tensor_files
from jadeberta.cluster.environment import detect
from jadeberta.cluster.process_group import join_process_group
from jadeberta.config import ModelConfig, TrainingConfig, load_recipe, resolve_file
from jadeberta.data.batches import MicroBatch, StepBatch
from jadeberta.training.console import redirect_library_logs
from jadeberta.training.control import RankFlags
from jadeberta.training.engine import TrainingEngine
from jadeberta.training.optimizers import matrix
from tests.training.test_ema import write_manifest
folder, steps, spoilt, lr = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
process, device = detect(os.environ), torch.device("cpu")
world = process.world_size
redirect_library_logs(folder, process.rank)
join_process_group(process, device, 60)
counted, plain = [], matrix.orthogonalise
matrix.orthogonalise = lambda *a: counted.append(tuple(a[0].shape)) or plain(*a)

def batch_of(step):
    share, micro_batches = 8 // world, []
    for row in range(process.rank * share, (process.rank + 1) * share, 2):
        ids = torch.randint(5, 64, (2, 16), generator=torch.Generator().manual_seed(100 * step + row))
        index = torch.arange(0, ids.numel(), 5)
        micro_batches.append(MicroBatch(ids, index, ids.flatten()[index], None, None))
    return StepBatch(step, 0, "", micro_batches, sum(len(m.labels) for m in micro_batches), 32 * len(micro_batches))

def keep(engine, place):
    place.mkdir(parents=True, exist_ok=True)
    for name, (tensors, metadata) in tensor_files(engine).items():
        save_tensors(place / name, {k: t.detach().clone().contiguous() for k, t in tensors.items()}, metadata)
    (place / "state.json").write_text(json.dumps({"adam_step": current_adam_step(engine)}))
    dist.barrier()
    write_manifest(place)

def run(engine, place, first):
    losses, counts, forward = [], [], engine.forward
    for step in range(first, steps):
        counted.clear()
        engine.forward = (lambda m: tuple(float("nan") * x for x in forward(m))) if step == spoilt else forward
        result = engine.step(batch_of(step), lr, RankFlags())
        losses.append(None if result.fault else result.loss)
        counts.append([len(counted), engine.differing_ranks()])
        keep(engine, place / str(step + 1))
    (place / f"reported-{process.rank}.json").write_text(json.dumps([losses, counts]))

for recipe_file in sorted(folder.glob("*.yaml")):
    recipe, name = load_recipe(recipe_file), recipe_file.stem
    engine = TrainingEngine(recipe, process, device)
    keep(engine, folder / f"{name}-{world}" / "0")
    run(engine, folder / f"{name}-{world}", 0)
    for before in range(1, world + 1):
        resumed = TrainingEngine(recipe, process, device)
        restore(folder / f"{name}-{before}" / str(steps - 1), resumed)
        run(resumed, folder / f"{name}-{before}-to-{world}", steps - 1)
"""


@pytest.fixture(scope="module", params=SETTINGS)
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one rank and two ranks kept of a setting: a folder for each number of ranks beside this path, which ends in the setting."""
    folder, setting = tmp_path_factory.mktemp("optimizers"), request.param
    optimizer, stage, precision = setting.rsplit("-", 2)
    own = {"muon_lr": MUON_LR, "muon_weight_decay": 2 * DECAY} if optimizer == "muon" else {}
    make_recipe(
        folder / f"{setting}.yaml", folder, folder / "run", deepspeed=f"ds_configs/zero{stage}.json",
        model=MODEL | {"initializer_scale_by_depth": optimizer == "lion"},
        training={
            "global_batch_size": 8, "micro_batch_size": 2, "precision": precision, "max_grad_norm": CLIP, "weight_decay": DECAY,
            "optimizer": optimizer, "lr": LR, "ema_decay": 0.5, **own,
        },
    )  # fmt: skip
    for ranks in (1, 2):
        processes = start_ranks(ranks, str(folder), str(STEPS), str(SPOILT), str(LR), log=folder / "log", code=DRIVER)
        assert [p.wait(240) for p in processes] == [0] * ranks, printed_by(folder / "log")[-3000:]
    return folder / setting


def beside(kept: Path, name: str) -> Path:
    return kept.parent / f"{kept.name}-{name}"


def reported(place: Path, rank: int = 0) -> tuple[list[float | None], list[int]]:
    losses, counts = json.loads((place / f"reported-{rank}.json").read_text())
    assert all(differing == [] for _, differing in counts)
    return losses, [count for count, _ in counts]


def tiny_model(seed: int = 0) -> torch.nn.Module:
    return build(ModelConfig(**TINY_MODEL | MODEL).hugging_face(), "sdpa", seed=seed)


def shapes_of(directory: Path) -> dict[str, list[int]]:
    found = {}
    for path in directory.glob("optimizer-*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= {name: place["shape"] for name, place in json.loads(file.metadata()["fragments"]).items()}
    return found


def orthogonal_by_singular_values(matrix: torch.Tensor) -> torch.Tensor:
    """The same polynomial, of the singular values alone."""
    u, s, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.square().sum().sqrt()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (u * s) @ vt


def expected_update(optimizer: str, name: str, shape: list[int], before: dict, grad: torch.Tensor, step: int) -> torch.Tensor:
    """The weights after an update, by formulas in fp64; flat.

    `before` holds master and moments; `grad` is clipped; `step` counts from 1.
    """
    weights, grad = before["master"].double(), grad.double()
    decay = 0.0 if name.endswith("bias") or "LayerNorm" in name else DECAY
    if optimizer == "lion":
        return weights - LR * ((0.9 * before["exp_avg"].double() + 0.1 * grad).sign() + decay * weights)
    if optimizer == "muon" and "momentum" in before:
        momentum = 0.95 * before["momentum"].double() + 0.05 * grad
        direction = orthogonal_by_singular_values((0.05 * grad + 0.95 * momentum).view(*shape))
        return (1 - MUON_LR * 2 * DECAY) * weights - MUON_LR * 0.2 * max(shape) ** 0.5 * direction.flatten()
    first = (0.9 * before["exp_avg"].double() + 0.1 * grad) / (1 - 0.9**step)
    second = (0.999 * before["exp_avg_sq"].double() + 0.001 * grad**2) / (1 - 0.999**step)
    rate = LR
    if optimizer == "stable_adamw":
        rate /= max(1.0, (grad**2 / second.clamp_min(1e-12)).mean().sqrt().item())
    return (1 - rate * decay) * weights - rate * first / (second.sqrt() + 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_an_update_is_the_one_of_a_formula_in_fp64(kept, ranks) -> None:
    optimizer, place = kept.name.split("-")[0], beside(kept, str(ranks))
    shapes, hidden = shapes_of(place / "0"), set(hidden_matrices(tiny_model()))
    for number, step in enumerate((0, 2), 1):  # the one in between is skipped
        kinds = ("master", "exp_avg", "exp_avg_sq", "momentum")
        was, now = ({kind: held(place / str(s), kind) for kind in kinds} for s in (step, step + 1))
        assert ("momentum" in {k for k, v in was.items() if v}) == (optimizer == "muon")
        for name, shape in shapes.items():
            before = {kind: tensors[name] for kind, tensors in was.items() if name in tensors}
            assert ("momentum" in before) == (optimizer == "muon" and name in hidden)
            assert ("exp_avg_sq" in before) == (
                optimizer in ("adamw", "stable_adamw") or (optimizer == "muon" and name not in hidden)
            )
            moment = "momentum" if "momentum" in before else "exp_avg"
            kept = {"momentum": 0.95, "exp_avg": 0.99 if optimizer == "lion" else 0.9}[moment]
            grad = (now[moment][name].double() - kept * before[moment].double()) / (1 - kept)
            expected = expected_update(optimizer, name, shape, before, grad, number)
            found = now["master"][name].double()
            if optimizer == "lion":  # the sign of a sum that is 0 but for rounding may be either
                wrong = ((found - expected).abs() > 1e-6).double().mean().item()
                assert wrong < 0.02, name
                continue
            torch.testing.assert_close(
                found, expected, rtol=1e-4, atol=2e-3 * (expected - before["master"]).abs().max().item() + 1e-9
            )


@pytest.mark.slow
def test_two_ranks_have_the_losses_of_one_and_a_skipped_step_moves_nothing(kept) -> None:
    losses, _ = reported(beside(kept, "1"))
    of_two, _ = reported(beside(kept, "2"))
    assert [loss is None for loss in losses] == [step == SPOILT for step in range(STEPS)] == [loss is None for loss in of_two]
    close = 2e-2 if kept.name.endswith("bf16") else 1e-4
    assert [x for x in of_two if x is not None] == pytest.approx([x for x in losses if x is not None], rel=close)
    for ranks in (1, 2):
        before, after = (bits(beside(kept, str(ranks)) / str(SPOILT + n)) for n in (0, 1))
        assert before == after


@pytest.mark.slow
def test_a_resumed_run_has_every_bit_and_one_at_another_world_size_the_same_losses(kept) -> None:
    for ranks in (1, 2):
        assert bits(beside(kept, f"{ranks}-to-{ranks}") / str(STEPS)) == bits(beside(kept, str(ranks)) / str(STEPS))
    one, split = (reported(beside(kept, name))[0][-1] for name in ("1", "1-to-2"))
    assert split == pytest.approx(one, rel=2e-2 if kept.name.endswith("bf16") else 1e-4)


@pytest.mark.slow
def test_a_run_starts_from_the_weights_of_its_seed_scaled_by_depth_where_asked(kept) -> None:
    start, weights = held(beside(kept, "2") / "0", "master"), dict(tiny_model(seed=7).named_parameters())
    close = {"rtol": 8e-3, "atol": 0} if kept.name.endswith("bf16") else {"rtol": 1e-6, "atol": 1e-8}
    for name, found in start.items():
        is_scaled = kept.name.startswith("lion") and name.endswith("output.dense.weight")
        torch.testing.assert_close(found, weights[name].detach().flatten() / (6**0.5 if is_scaled else 1), **close)


@pytest.mark.slow
def test_every_hidden_matrix_is_orthogonalised_once_a_step_or_on_both_ranks_that_hold_it(kept) -> None:
    matrices = set(hidden_matrices(tiny_model())) if kept.name.startswith("muon") else set()
    assert reported(beside(kept, "1"))[1] == [len(matrices), 0, len(matrices)]
    names = []
    for path in sorted((beside(kept, "2") / "0").glob("optimizer-*.safetensors")):
        with safe_open(path, "pt") as file:
            names.append(matrices & set(json.loads(file.metadata()["fragments"])))
    assert names[0] | names[1] == matrices and len(names[0] & names[1]) == bool(matrices)  # the border lies in one
    for rank in (0, 1):
        assert reported(beside(kept, "2"), rank)[1] == [len(names[rank]), 0, len(names[rank])]


def test_hidden_matrices_are_those_of_the_layers_in_any_module_tree() -> None:
    model = tiny_model()
    of_layer = ["attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj", "attention.output.dense",
                "intermediate.dense", "output.dense"]  # fmt: skip
    expected = [f"deberta.encoder.layer.{n}.{name}.weight" for n in range(3) for name in of_layer]
    assert hidden_matrices(model) == expected
    config = DebertaV2Config(**ModelConfig(**TINY_MODEL | MODEL).hugging_face())
    both: torch.nn.Module = ReplacedTokenModel(config, 3, "gdes")
    assert hidden_matrices(both) == [f"{which}.{name}" for which in ("generator", "discriminator") for name in expected]
    hidden, *others = matrix_groups(both, 0.1, {"weight_decay": 0.3})
    assert len(hidden["params"]) == 2 * len(expected) and hidden["weight_decay"] == 0.3
    assert [group["weight_decay"] for group in others] == [0.1, 0.0]
    assert {id(p) for g in (hidden, *others) for p in g["params"]} == {id(p) for g in decay_groups(both, 0) for p in g["params"]}


def test_a_matrix_that_is_an_embedding_too_is_no_hidden_one() -> None:
    layers = torch.nn.ModuleList([torch.nn.Linear(4, 8, bias=False)])
    tied = torch.nn.Embedding(8, 4)
    layers[0].weight = tied.weight
    assert hidden_matrices(torch.nn.ModuleDict({"layers": layers, "words": tied})) == []


@pytest.mark.parametrize("shape", [(16, 16), (32, 12), (12, 32), (1, 7)])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_newton_schulz_is_its_polynomial_of_the_singular_values(shape, dtype, close) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-9
    found, expected = orthogonalise(matrix, dtype), orthogonal_by_singular_values(matrix)
    assert found.dtype == dtype and NEWTON_SCHULZ_STEPS == 5
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=close)
    assert (orthogonalise(torch.zeros(shape), dtype) == 0).all()


def test_the_scale_lets_the_rate_of_adamw_carry_over() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((64, 64), (256, 64), (64, 256)):
        direction = orthogonal_by_singular_values(torch.randn(shape, generator=generator))
        assert (update_scale(shape, "match_adamw") * direction).square().mean().sqrt().item() == pytest.approx(0.2, rel=0.2)
    assert [update_scale(shape, "original") for shape in ((64, 64), (256, 64), (64, 256))] == [1.0, 2.0, 1.0]


def test_the_update_agrees_with_torchs_muon() -> None:
    weight = torch.randn(24, 16, generator=torch.Generator().manual_seed(1))
    ours, theirs = weight.clone(), torch.nn.Parameter(weight.clone())
    muon = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    momentum = torch.zeros_like(ours)
    for seed in range(3):
        grad = torch.randn(24, 16, generator=torch.Generator().manual_seed(10 + seed))
        theirs.grad = grad.clone()
        muon.step()
        momentum = 0.95 * momentum + 0.05 * grad
        step = orthogonalise(0.05 * grad + 0.95 * momentum, torch.float32)
        ours = ours * (1 - 0.02 * 0.1) - 0.02 * update_scale((24, 16), "match_adamw") * step
    torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=2e-3)  # torch orthogonalises in bf16
    assert (ours - weight).abs().max() > 0.02


@pytest.mark.parametrize(
    ("optimizer", "zero", "sentence"),
    [
        ("muon", {"stage": 3}, r"training\.optimizer muon works under ZeRO stage 1 or 2, .* has stage 3; set deepspeed to"),
        ("stable_adamw", {"stage": 3}, "stable_adamw works under ZeRO stage 1 or 2"),
        ("lion", {"stage": 0}, r"zero_optimization\.stage is 0; it must be 1, 2 or 3"),
        ("muon", {"stage": 2, "offload_optimizer": {"device": "cpu"}}, "muon does not go together with offload_optimizer"),
        ("lion", {"stage": 1, "cpu_offload": True}, "lion does not go together with cpu_offload"),
    ],
)
def test_what_takes_whole_parameters_or_the_update_away_is_refused(tmp_path, optimizer, zero, sentence) -> None:
    settings = json.loads(resolve_file("ds_configs/zero1.json").read_text()) | {"zero_optimization": zero}
    (tmp_path / "ds.json").write_text(json.dumps(settings))
    sections = {"training": {"optimizer": optimizer}, "deepspeed": str(tmp_path / "ds.json")}
    with pytest.raises(ConfigError, match=sentence):
        deepspeed_settings(load_recipe(make_recipe(tmp_path / "recipe.yaml", tmp_path, tmp_path / "run", **sections)), 1)


def test_the_published_optimizer_keeps_its_settings_of_deepspeed(tmp_path) -> None:
    zero = {"stage": 2, "offload_optimizer": {"device": "none"}}
    (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": zero}))
    for optimizer, allowed in (("adamw", None), ("muon", True)):
        sections = {"training": {"optimizer": optimizer}, "deepspeed": str(tmp_path / "ds.json")}
        recipe = load_recipe(make_recipe(tmp_path / "recipe.yaml", tmp_path, tmp_path / "run", **sections))
        assert deepspeed_settings(recipe, 1).get("zero_allow_untested_optimizer") is allowed


@pytest.mark.parametrize(
    ("training", "sentence"),
    [
        ({"muon_lr": 1e-3}, r"training\.muon_lr 0\.001 belongs to training\.optimizer muon, which is adamw; set it to 0\.0"),
        ({"optimizer": "muon", "lion_beta2": 0.9}, r"training\.lion_beta2 0\.9 belongs to training\.optimizer lion"),
        ({"optimizer": "muon", "muon_weight_decay": -0.5}, "at least 0, or -1"),
        ({"optimizer": "muon", "muon_momentum": 1.0}, r"training\.muon_momentum is 1\.0; it must be at least 0 and below 1"),
        ({"optimizer": "muon", "muon_lr": -1.0}, r"training\.muon_lr is -1\.0; it must be at least 0"),
        ({"optimizer": "muon", "muon_lr": float("nan")}, r"training\.muon_lr is nan"),
        ({"optimizer": "muon", "muon_lr": 1e300, "lr": 1e-10}, r"training\.muon_lr 1e\+300 is too many times training\.lr 1e-10"),
        ({"optimizer": "sgd"}, "optimizer"),
    ],
)
def test_settings_that_no_update_can_have_are_refused(tmp_path, training, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_recipe(make_recipe(tmp_path / "recipe.yaml", tmp_path, tmp_path / "run", training=training))


def test_adamw_is_torchs_with_the_groups_of_the_published_run() -> None:
    model = tiny_model()
    optimizer = build_optimizer(model, TrainingConfig(weight_decay=0.1))
    assert type(optimizer) is torch.optim.AdamW
    expected = torch.optim.AdamW(decay_groups(model, 0.1), lr=1e-4, betas=(0.9, 0.999), eps=1e-6, fused=True)
    assert optimizer.state_dict() == expected.state_dict()


def test_muon_without_a_hidden_matrix_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no hidden matrix; set it to adamw"):
        build_optimizer(torch.nn.Linear(2, 2), TrainingConfig(optimizer="muon"))


def test_a_rate_and_a_decay_of_muons_own_at_adamws_values_change_nothing() -> None:
    adam = {"optimizer": "muon", "lr": 3e-4, "weight_decay": 0.1}
    plain, own = (
        build_optimizer(tiny_model(), TrainingConfig(**adam, **muon))
        for muon in ({}, {"muon_lr": 3e-4, "muon_weight_decay": 0.1})
    )
    assert plain.state_dict() == own.state_dict() and plain.param_groups[0]["rate_share"] == 1.0
