"""The meter around the collectives: it counts what DeepSpeed sends, changes no bit, and is not there where nobody asked for it."""

import pytest
import torch
import torch.distributed as dist

from jadeberta.plan.step_time import SMALL_REDUCTIONS, traffic
from jadeberta.shards import file_sha256
from jadeberta.training.comm_meter import COLLECTIVES, CommunicationMeter, DeviceTimer, payload
from tests.helpers import make_recipe, make_shards, read_metrics, run_ranks

PARAMETERS = 6976
"""Of tests.helpers.TINY_MODEL; DeepSpeed pads its flat groups by a few."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "shards", {"a": (60, 1)})


def trained(shards, folder, ranks: int, stage: int, precision: str, measured: bool = True) -> list[dict]:
    """Metrics of three steps of three micro-batches a rank."""
    training = {"max_steps": 3, "precision": precision, "global_batch_size": 6 * ranks, "micro_batch_size": 2}
    recipe = make_recipe(
        folder / "r.yaml", shards, folder / "run", training=training, deepspeed=f"ds_configs/zero{stage}.json",
        logging={"communication": measured},
    )  # fmt: skip
    run_ranks(ranks, "pretrain", "--config", str(recipe), log=folder / "log")
    return read_metrics(folder / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "precision"), [pytest.param(1, "fp32", marks=pytest.mark.long), (1, "bf16"), (2, "bf16"), (3, "fp32")]
)
def test_deepspeed_sends_what_the_prediction_reckons_with(shards, tmp_path, stage, precision) -> None:
    sent = traffic(PARAMETERS, stage, precision, accumulation=3)
    for row in trained(shards, tmp_path, 2, stage, precision):
        assert 0 < row["communication_s"] < row["step_s"]
        found, calls = row["communication_bytes"], row["communication_calls"]
        small = found["all_reduce"] - sent.times * sent.reduced
        assert 0 < small < 200  # tokens, loss, overflow, norm
        if stage < 3:
            assert found["all_gather"] == sent.gathered_at_end and "reduce_scatter" not in found
            assert calls["all_reduce"] - sent.times <= SMALL_REDUCTIONS
        else:
            assert found["reduce_scatter"] == sent.times * sent.scattered
            # The prediction gathers every weight for each pass; of a model as small as this they stay after the first.
            assert 0 < found["all_gather"] <= sent.times * sent.gathered
            assert calls["all_reduce"] <= SMALL_REDUCTIONS


@pytest.mark.slow
def test_a_run_that_is_measured_ends_with_the_same_bits(shards, tmp_path) -> None:
    weights, losses = {}, {}
    for measured in (True, False):
        folder = tmp_path / str(measured)
        folder.mkdir()
        rows = trained(shards, folder, 2, 2, "fp32", measured)
        assert all(("communication_s" in row) == measured for row in rows)
        losses[measured] = [(row["loss"], row["grad_norm"]) for row in rows]
        weights[measured] = file_sha256(folder / "run" / "checkpoints" / "step-00000003" / "model.safetensors")
    assert weights[True] == weights[False] and losses[True] == losses[False]


@pytest.fixture
def alone(tmp_path):
    """A process group of one rank."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_only_what_a_step_calls_counts_and_closing_puts_everything_back(alone) -> None:
    before = {name: getattr(dist, name) for name in COLLECTIVES}
    meter = CommunicationMeter(torch.device("cpu"))
    assert all(getattr(dist, name) is not before[name] for name in COLLECTIVES)
    ones = torch.ones(100)
    dist.all_reduce(ones)
    with meter.step():
        dist.all_reduce(ones)
        dist.all_gather_single(torch.empty(100), ones)
        work = dist.all_reduce(ones, async_op=True)
        work.wait()
        assert work.is_completed()
    spent = meter.take()
    assert spent.communication_bytes == {"all_reduce": 800, "all_gather": 400}
    assert spent.communication_calls == {"all_reduce": 2, "all_gather": 1} and spent.communication_s > 0
    empty = meter.take()
    assert empty.communication_s == 0 and empty.communication_bytes == {}
    meter.close()
    assert all(getattr(dist, name) is before[name] for name in COLLECTIVES)


def test_waiting_for_a_collective_counts_and_running_beside_it_does_not(monkeypatch, alone) -> None:
    now = [0.0]

    class Work:
        def wait(self) -> None:
            now[0] += 5

    def start(tensor, async_op=False):
        now[0] += 1
        return Work()

    monkeypatch.setattr(dist, "all_reduce", start)
    monkeypatch.setattr("jadeberta.training.comm_meter.time.perf_counter", lambda: now[0])
    meter = CommunicationMeter(torch.device("cpu"))
    with meter.step():
        work = dist.all_reduce(torch.ones(1), async_op=True)
        now[0] += 100  # computing
        work.wait()
    meter.close()
    assert meter.take().communication_s == 6


def test_a_collective_that_fails_leaves_the_meter_whole(alone) -> None:
    meter = CommunicationMeter(torch.device("cpu"))
    with pytest.raises(TypeError), meter.step():
        dist.all_reduce("no tensor")
    dist.all_reduce(torch.ones(3))
    meter.close()
    assert meter.take().communication_bytes == {"all_reduce": 0}


def test_on_a_gpu_only_the_compute_streams_time_counts_once_it_has_passed(monkeypatch) -> None:
    """Events as CUDA has them, played: `clock` is the compute stream's time, `passed` how far the device has come."""
    clock, passed, current = [0.0], [0.0], ["compute"]

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: str) -> None:
            assert stream == "compute"
            self.at = clock[0]

        def query(self) -> bool:
            return self.at <= passed[0]

        def elapsed_time(self, other: "Event") -> float:
            return 1000 * (other.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[0])
    device_timer = DeviceTimer(torch.device("cuda", 0))

    def collective(seconds: float) -> None:
        began = device_timer.begin()
        clock[0] += seconds
        device_timer.end(began)

    collective(2.0)
    current[0] = "beside"
    collective(50.0)
    current[0] = "compute"
    collective(3.0)
    passed[0] = 53.0
    assert device_timer.take() == 2.0
    passed[0] = 60.0
    assert device_timer.take() == 3.0 and device_timer.take() == 0.0


def test_the_payload_is_the_larger_of_what_goes_in_and_what_comes_out() -> None:
    assert payload(torch.ones(10)) == 40 and payload([torch.ones(10), torch.ones(6, dtype=torch.bfloat16)]) == 52
    assert payload(None) == payload("group") == 0
