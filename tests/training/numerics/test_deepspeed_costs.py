"""What DeepSpeed adds to a step: it waits for no device of its own accord, takes the rank's device, and sums gradients as the page says."""

import json

import pytest

from tests.helpers import ROOT, make_recipe, printed_by, start_ranks

RANKS, STEPS, MICRO_BATCHES = 2, 4, 3
SETTINGS = {"zero1": {}, "zero2": {}, "bare": {}, "exact": {"communication_data_type": "fp32"}}
"""DeepSpeed's files by name: the project's own, one that says nothing of timers, and one that sums in fp32."""
DRIVER = """
import json, os, sys
from pathlib import Path
import deepspeed, torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from jadeberta.cluster.environment import detect
from jadeberta.cluster.process_group import join_process_group
from jadeberta.config import load_recipe
from jadeberta.data.batches import MicroBatch, StepBatch
from jadeberta.training.console import redirect_library_logs
from jadeberta.training.control import RankFlags
from jadeberta.training.engine import TrainingEngine
folder, steps, micro_batches = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
process, device = detect(os.environ), torch.device("cpu", 0)  # each rank sees its own device alone
redirect_library_logs(folder, process.rank)
join_process_group(process, device, 60)
ids = torch.randint(5, 64, (2, 16), generator=torch.Generator().manual_seed(process.rank))
index = torch.arange(0, ids.numel(), 5)
batch = StepBatch(0, 0, "", [MicroBatch(ids, index, ids.flatten()[index], None, None)] * micro_batches, micro_batches * len(index), 1)
accelerator, made = get_accelerator(), deepspeed.initialize
found = {}
for file in sorted(folder.glob("*.yaml")):
    counts = {"synchronize": 0, "devices": []}
    deepspeed.initialize = lambda args=None, **rest: counts["devices"].append(args.device_rank) or made(args=args, **rest)
    engine = TrainingEngine(load_recipe(file), process, device)
    def synchronize(*of):
        counts["synchronize"] += 1
    accelerator.synchronize = synchronize
    # DeepSpeed leaves out some of its waits where a device finishes each call before the next one, as a CPU does and a GPU does
    # not; with overlap_comm it then asks for streams too, which no CPU has.
    accelerator.resolves_data_dependency = lambda: False
    for _ in range(steps):
        engine.step(batch, 1e-2, RankFlags())
    del accelerator.synchronize, accelerator.resolves_data_dependency
    optimizer, reduce = engine.engine.optimizer, engine.engine.allreduce_gradients
    if file.stem != "zero2":
        def reduced(*of, **rest):
            flat = torch.cat([g.flatten() for g in optimizer.fp32_groups_gradients_flat])
            parts = [torch.empty_like(flat) for _ in range(process.world_size)]
            dist.all_gather(parts, flat)
            reduce(*of, **rest)
            mean = torch.stack(parts).double().mean(0)
            size = torch.stack(parts).double().abs().mean(0)
            after = torch.cat([g.flatten() for g in optimizer.fp32_groups_gradients_flat]).double()
            counts["error"] = ((after - mean).abs() / size.clamp_min(1e-30)).max().item()
            counts["same"] = after.bfloat16().double().equal(after)
        engine.engine.allreduce_gradients = reduced
        engine.step(batch, 1e-2, RankFlags())
    found[file.stem] = counts
(folder / f"found-{process.rank}.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict]:
    """What each rank counted, by the name of DeepSpeed's file."""
    folder = tmp_path_factory.mktemp("costs")
    for name, more in SETTINGS.items():
        settings = json.loads((ROOT / f"ds_configs/{name if name == 'zero2' else 'zero1'}.json").read_text()) | more
        if name == "bare":
            del settings["timers"]
        (folder / f"{name}.json").write_text(json.dumps(settings))
        training = {"global_batch_size": 2 * RANKS * MICRO_BATCHES, "micro_batch_size": 2, "precision": "bf16"}
        make_recipe(folder / f"{name}.yaml", folder, folder / "run", deepspeed=str(folder / f"{name}.json"), training=training)
    processes = start_ranks(RANKS, str(folder), str(STEPS), str(MICRO_BATCHES), log=folder / "log", code=DRIVER)
    assert [p.wait(240) for p in processes] == [0] * RANKS, printed_by(folder / "log")[-3000:]
    return [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(RANKS)]


@pytest.mark.parametrize("name", ["zero1", "zero2", "bare"])
def test_deepspeed_does_not_wait_for_the_device_in_a_step_of_several_micro_steps(found: list[dict], name: str) -> None:
    assert [each[name]["synchronize"] for each in found] == [0] * RANKS


def test_deepspeed_is_told_the_device_of_the_rank(found: list[dict]) -> None:
    assert [each["zero1"]["devices"] for each in found] == [[0], [0]]  # and not of its number on the host


def test_ranks_add_gradients_in_bf16_and_in_fp32_where_the_file_says_so(found: list[dict]) -> None:
    for each in found:
        # Of the mean magnitude of the ranks' gradients: three roundings to 8 bits, or to 24.
        assert 2.0**-12 < each["zero1"]["error"] < 3 * 2.0**-8 and each["zero1"]["same"]
        assert each["exact"]["error"] < 3 * 2.0**-23 and not each["exact"]["same"]
