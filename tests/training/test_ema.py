"""The average of the weights under ZeRO 1, 2 and 3 is the one computed by hand; gradients are clipped to their norm over all ranks."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from jadeberta.checkpoint.consolidate import consolidate_weights
from jadeberta.config import load_recipe
from jadeberta.data.batches import MicroBatch
from jadeberta.errors import CheckpointError
from jadeberta.model import build
from jadeberta.training.ema import decay_of
from tests.helpers import make_recipe, printed_by, start_ranks

RANKS, STEPS, SPOILT, CLIP, DECAY = 2, 5, 2, 0.05, 0.25
MICRO_BATCHES = [2, 1, 2, 4, 3]
"""Of a rank in each step: the batch changes, as it does in a warm-up."""
SETTINGS = [(1, "fp32"), (2, "bf16"), (2, "fp32"), (3, "bf16"), (3, "fp32")]

# Some steps of an engine of each setting, one after another in the same ranks; what they hold after each step goes to the disk. Then,
# in one rank, what two ranks held at the end is restored under other stages, and one more step is made.
DRIVER = """
import json, os, sys
from pathlib import Path
import torch
from jadeberta.checkpoint.state_dict import restore, save_tensors, tensor_files
from jadeberta.cluster.environment import detect
from jadeberta.config import load_recipe
from jadeberta.data.batches import StepBatch
from jadeberta.training.ema import show
from jadeberta.training.control import RankFlags
from jadeberta.training.console import redirect_library_logs
from jadeberta.training.engine import TrainingEngine
from jadeberta.cluster.process_group import join_process_group
from jadeberta.training.zero_state import gather_working_weights
from tests.training.test_ema import micro_batches_of
folder, steps, spoilt = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
process, device = detect(os.environ), torch.device("cpu")
redirect_library_logs(folder, process.rank)
join_process_group(process, device, 60)

def batch_of(step):
    micro_batches = micro_batches_of(step, process.rank)
    return StepBatch(step, 0, "", micro_batches, sum(len(m.labels) for m in micro_batches), 32 * len(micro_batches))

def keep(engine, place):
    place.mkdir(parents=True, exist_ok=True)
    for name, (tensors, metadata) in tensor_files(engine).items():
        save_tensors(place / name, {k: t.detach().clone().contiguous() for k, t in tensors.items()}, metadata)

if process.world_size == 1:
    for stage in (1, 3):
        engine = TrainingEngine(load_recipe(folder / f"{stage}-fp32.yaml"), process, device)
        restore(folder / "2-bf16" / str(steps), engine)
        keep(engine, folder / f"alone-{stage}" / "0")
        engine.step(batch_of(0), 1e-2, RankFlags())
        keep(engine, folder / f"alone-{stage}" / "1")
    sys.exit()
for recipe_file in sorted(folder.glob("*.yaml")):
    engine = TrainingEngine(load_recipe(recipe_file), process, device)
    place = folder / recipe_file.stem
    keep(engine, place / "0")
    norms, faults, forward = [], [], engine.forward
    for step in range(steps):
        engine.forward = (lambda m: tuple(float("nan") * x for x in forward(m))) if step == spoilt else forward
        result = engine.step(batch_of(step), 1e-2, RankFlags())
        norms.append(result.grad_norm)
        faults.append(result.fault)
        keep(engine, place / str(step + 1))
    show(engine.engine, "ema")
    keep(engine, place / "shown")
    show(engine.engine, "master")
    keep(engine, place / "back")
    if process.is_root:
        (place / "reported.json").write_text(json.dumps([norms, faults]))
"""


def micro_batches_of(step: int, rank: int) -> list[MicroBatch]:
    """A rank's share of a step; the ranks predict different numbers of tokens."""
    micro_batches = []
    for number in range(MICRO_BATCHES[step]):
        ids = torch.randint(5, 64, (2, 16), generator=torch.Generator().manual_seed(100 * step + 10 * rank + number))
        index = torch.arange(rank, ids.numel(), 5 + rank)
        micro_batches.append(MicroBatch(ids, index, ids.flatten()[index], None, None))
    return micro_batches


def write_manifest(directory: Path) -> None:
    """As much of one as says which files belong to the checkpoint."""
    (directory / "manifest.json").write_text(json.dumps({"files": {path.name: {} for path in directory.glob("*.safetensors")}}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What two ranks kept of every setting."""
    folder = tmp_path_factory.mktemp("average")
    for stage, precision in SETTINGS:
        make_recipe(
            folder / f"{stage}-{precision}.yaml", folder, folder / "run", deepspeed=f"ds_configs/zero{stage}.json",
            model={"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
            training={
                "global_batch_size": 8, "micro_batch_size": 2, "precision": precision, "ema_decay": DECAY,
                "max_grad_norm": CLIP, "weight_decay": 0.1,
            },
        )  # fmt: skip
    drive(folder, RANKS)
    last = folder / "2-bf16" / str(STEPS)
    for place in {path.parent for path in folder.glob("*/*/optimizer-*.safetensors")}:
        write_manifest(place)
    (last / "state.json").write_text(json.dumps({"adam_step": STEPS - 1}))
    drive(folder, 1)
    return folder


def drive(folder: Path, ranks: int) -> None:
    processes = start_ranks(ranks, str(folder), str(STEPS), str(SPOILT), log=folder / "log", code=DRIVER)
    assert [p.wait(240) for p in processes] == [0] * ranks, printed_by(folder / "log")[-3000:]


def held(directory: Path, kind: str) -> dict[str, torch.Tensor]:
    """A kind of optimizer tensor of the parameters that have it, flat: the files' pieces one behind the other."""
    pieces: dict[str, list[tuple[int, torch.Tensor]]] = {}
    for path in directory.glob("optimizer-*.safetensors"):
        with safe_open(path, "pt") as file:
            for name, place in json.loads(file.metadata()["fragments"]).items():
                if f"{kind}.{name}" in file.keys():  # noqa: SIM118
                    pieces.setdefault(name, []).append((place["start"], file.get_tensor(f"{kind}.{name}")))
    return {name: torch.cat([t for _, t in sorted(found, key=lambda p: p[0])]) for name, found in pieces.items()}


def bits(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.glob("*.safetensors"))}


settings = pytest.mark.parametrize("setting", [f"{stage}-{precision}" for stage, precision in SETTINGS])


@pytest.mark.slow
@settings
def test_the_average_follows_every_update_and_no_step_that_was_left_out(folder, setting) -> None:
    place = folder / setting
    average = held(place / "0", "master")
    assert all(held(place / "0", "ema")[name].equal(start) for name, start in average.items())
    # min(0.25, 2/11), min(0.25, 3/12), then 0.25: the first update keeps less than the others.
    kept = iter([2 / 11, 0.25, 0.25, 0.25])
    for step in range(STEPS):
        found = held(place / str(step + 1), "ema")
        if step == SPOILT:
            assert all(found[name].equal(before) for name, before in held(place / str(step), "ema").items())
            continue
        share = next(kept)
        average = {name: share * average[name] + (1 - share) * new for name, new in held(place / str(step + 1), "master").items()}
        assert found.keys() == average.keys()
        for name, expected in average.items():
            torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-7)
    assert max((average[n] - m).abs().max().item() for n, m in held(place / str(STEPS), "master").items()) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 3])
def test_at_another_world_size_and_stage_it_is_restored_bit_for_bit_and_goes_on_counting(folder, stage) -> None:
    saved, restored = folder / "2-bf16" / str(STEPS), folder / f"alone-{stage}" / "0"
    for kind in ("master", "exp_avg", "exp_avg_sq", "ema"):
        found, expected = held(restored, kind), held(saved, kind)
        assert found.keys() == expected.keys() and all(found[name].equal(expected[name]) for name in expected), kind
    # Not 2 / 11, as at a first update.
    after, new = (held(folder / f"alone-{stage}" / "1", kind) for kind in ("ema", "master"))
    for name, before in held(restored, "ema").items():
        torch.testing.assert_close(after[name], 0.25 * before + 0.75 * new[name], rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@settings
def test_the_forward_pass_can_use_the_average_and_then_has_its_own_bits_again(folder, setting) -> None:
    place = folder / setting
    last, shown = bits(place / str(STEPS)), bits(place / "shown")
    assert bits(place / "back") == last
    assert {name for name in last if last[name] != shown[name]} == {"model.safetensors"}
    average = consolidate_weights(place / str(STEPS), "ema")
    with safe_open(place / "shown" / "model.safetensors", "pt") as file:
        assert set(file.keys()) == average.keys()
        for name in average:
            weight = file.get_tensor(name)
            assert weight.equal(average[name].to(weight.dtype)), name


def gradients_of(folder: Path, setting: str, step: int) -> dict[str, torch.Tensor]:
    """By plain torch, in one process: of the mean loss over all masked tokens of a step's whole batch, flat."""
    model = build(load_recipe(folder / f"{setting}.yaml").model.hugging_face(), "sdpa", seed=0)
    model.load_state_dict(consolidate_weights(folder / setting / str(step)), strict=False)
    loss, count = torch.zeros(()), 0
    for m in (m for rank in range(RANKS) for m in micro_batches_of(step, rank)):
        logits = model(m.input_ids, masked_index=m.masked_index).logits
        loss, count = loss + F.cross_entropy(logits, m.labels, reduction="sum"), count + len(m.labels)
    (loss / count).backward()
    return {name: p.grad.flatten() for name, p in model.named_parameters()}


@pytest.mark.slow
@settings
def test_gradients_are_clipped_to_their_norm_over_all_ranks_and_parameters_also_where_the_batch_grows(folder, setting) -> None:
    norms, faults = json.loads((folder / setting / "reported.json").read_text())
    assert [fault is not None for fault in faults] == [step == SPOILT for step in range(STEPS)]
    close = 1e-4 if setting.endswith("fp32") else 3e-2
    moments = {name: torch.zeros_like(moment) for name, moment in held(folder / setting / "0", "exp_avg").items()}
    for step in (step for step in range(STEPS) if step != SPOILT):
        gradients = gradients_of(folder, setting, step)
        norm = torch.cat(list(gradients.values())).norm().item()
        assert norms[step] == pytest.approx(norm, rel=close) and norm > 3 * CLIP
        # Adam's first moment tells the gradient that it was given.
        after = held(folder / setting / str(step + 1), "exp_avg")
        given = {name: 10 * (moment - 0.9 * moments[name]) for name, moment in after.items()}
        moments = after
        assert torch.cat(list(given.values())).norm().item() == pytest.approx(CLIP, rel=1e-4)
        for name, gradient in gradients.items():
            torch.testing.assert_close(given[name], gradient * CLIP / norm, rtol=close, atol=close * CLIP)


@pytest.mark.slow
def test_a_checkpoint_without_an_average_says_so(folder, tmp_path) -> None:
    source = folder / "1-fp32/1/optimizer-00001-of-00002.safetensors"
    with safe_open(source, "pt") as file:
        metadata = file.metadata()
    plain = {name: tensor for name, tensor in load_file(source).items() if not name.startswith("ema.")}
    save_file(plain, tmp_path / source.name, metadata)
    write_manifest(tmp_path)
    with pytest.raises(CheckpointError, match="holds no ema weights"):
        consolidate_weights(tmp_path, "ema")


def test_the_average_keeps_less_of_itself_at_first() -> None:
    assert [decay_of(n, 0.9999) for n in (1, 10, 1000)] == [2 / 11, 11 / 20, 1001 / 1010]
    assert decay_of(10**6, 0.9999) == 0.9999 and decay_of(1, 0.1) == 0.1
