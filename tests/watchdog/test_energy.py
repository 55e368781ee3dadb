"""Energy: fake counters of a processor and of a GPU, what a watchdog makes of them, and the sums in ledger, status and card."""

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest
import torch

from jadeberta.cluster import device as device_module
from jadeberta.cluster.device import gpu_uuid
from jadeberta.cluster.energy_counters import Counter, PowerOverTime, find_counters
from jadeberta.pretrain import _record_energy
from jadeberta.release.card import energy_row
from jadeberta.status.goodput import compute_goodput
from jadeberta.training.watchdog.energy_sums import Energy, add_up, energy_of, read_energy, total
from jadeberta.utils.json_lines import read_jsonl
from tests.helpers import ROOT
from tests.watchdog.watched import Watched

KWH = 3.6e6
NO_NVML = "/none/libnvidia-ml.so.1"


def zone(powercap: Path, name: str, kind: str, uj: int, wraps: int | None = 1_000_000_000) -> Path:
    folder = powercap / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{kind}\n")
    (folder / "energy_uj").write_text(f"{uj}\n")
    if wraps is not None:
        (folder / "max_energy_range_uj").write_text(f"{wraps}\n")
    return folder


@pytest.fixture(scope="module")
def nvml(tmp_path_factory) -> str:
    library = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, ROOT / "tests/watchdog/fake_nvml.c"], check=True)
    return str(library)


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    """Sets energy and power of the fake GPU, millijoules and milliwatts."""
    monkeypatch.setenv("FAKE_NVML", str(tmp_path / "gpu"))

    def write(energy: object, power: object = "-") -> None:
        (tmp_path / "gpu").write_text(f"{energy} {power}")

    return write


def test_packages_and_memory_are_counted_once_and_nothing_else(tmp_path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    zone(tmp_path, "intel-rapl:1", "package-1", 0)
    zone(tmp_path, "intel-rapl:0:0", "core", 1)
    zone(tmp_path, "intel-rapl:0:1", "dram", 7_000_000)
    zone(tmp_path, "intel-rapl:2", "psys", 9)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 9)
    zone(tmp_path, "intel-rapl:3", "package-3", 1).joinpath("energy_uj").write_text("damaged")
    (tmp_path / "intel-rapl:4").mkdir()
    found = [(c.name, c.read()) for c in find_counters("", tmp_path, NO_NVML)]
    assert found.pop() == ("cpu:intel-rapl:3", None)
    assert found == [
        ("cpu:intel-rapl:0", 5.0),
        ("cpu:intel-rapl:0:1", 7.0),
        ("cpu:intel-rapl:1", 0.0),
    ]
    assert find_counters("", tmp_path / "none", NO_NVML) == find_counters("GPU-one", tmp_path / "none", NO_NVML) == []


def test_a_counter_that_wraps_around_goes_on(tmp_path) -> None:
    folder = zone(tmp_path, "intel-rapl:0", "package-0", 900_000_000)
    (counter,) = find_counters("", tmp_path, NO_NVML)
    for uj in (900_000_000, 990_000_000, 10_000_000, 500_000_000, 20_000_000):
        (folder / "energy_uj").write_text(str(uj))
        counter.sample()
    # 90 J, 10 J to the wrap and 10 J after it, 490 J, 500 J to the wrap and 20 J after it.
    assert counter.used == pytest.approx(90 + 20 + 490 + 520)
    (folder / "energy_uj").unlink()
    counter.sample()  # it answers no more: what was measured stays
    assert counter.used == pytest.approx(1120)


def test_a_counter_that_was_reset_counts_from_its_reset() -> None:
    values = iter([100.0, 150.0, 20.0, None, 30.0])
    counter = Counter("gpu:x", lambda: next(values))
    for _ in range(5):
        counter.sample()
    assert counter.used == 50 + 20 + 10


def test_the_energy_of_a_gpu_is_that_of_its_counter_and_else_its_power_over_time(nvml, gpu, tmp_path) -> None:
    gpu(2_000_000_000_000, 300_000)
    (counter,) = find_counters("GPU-one", tmp_path / "none", nvml)
    counter.sample()
    gpu(2_000_000_500_000)
    counter.sample()
    assert (counter.name, counter.used) == ("gpu:GPU-one", 500.0)
    assert find_counters("GPU-two", tmp_path / "none", nvml) == []
    gpu("-", 250_000)
    (counter,) = find_counters("GPU-one", tmp_path / "none", nvml)
    assert counter.read() == 0.0 < counter.read() and isinstance(counter.read.__self__, PowerOverTime)
    gpu("-")
    assert find_counters("GPU-one", tmp_path / "none", nvml) == []


def test_power_over_time_leaves_out_the_time_without_an_answer() -> None:
    powers, times = iter([100.0, 300.0, None, 300.0, 300.0]), iter([0.0, 10.0, 20.0, 30.0, 40.0])
    counter = PowerOverTime(lambda: next(powers), lambda: next(times))
    assert [counter.read() for _ in range(5)] == [0.0, 2000.0, None, 2000.0, 5000.0]


def test_the_driver_gets_the_uuid_as_it_writes_it(monkeypatch) -> None:
    monkeypatch.setattr(device_module.torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="12-34"))
    assert (gpu_uuid(torch.device("cuda", 0)), gpu_uuid(torch.device("cpu"))) == ("GPU-12-34", "")
    monkeypatch.setattr(device_module.torch.cuda, "get_device_properties", lambda _: SimpleNamespace())
    assert gpu_uuid(torch.device("cuda", 0)) == ""


def test_ranks_of_a_host_or_of_a_gpu_share_a_counter_and_it_counts_once() -> None:
    records = [
        {"host": "n1", "energy_j": {"gpu:a": KWH, "cpu:intel-rapl:0": KWH}, "uptime_s": 9.0},
        {"host": "n1", "energy_j": {"gpu:b": 2 * KWH, "cpu:intel-rapl:0": 1.1 * KWH}, "uptime_s": 10.0},
        {"host": "n2", "energy_j": {"gpu:a": KWH, "cpu:intel-rapl:0": KWH, "gpu:c": "much", "gpu:d": -1.0}},
        {"host": "n3", "energy_j": [1]}, {"host": "n4"},
    ]  # fmt: skip
    assert add_up(records) == {"gpu_kwh": 4.0, "gpus": 3, "cpu_kwh": pytest.approx(2.1), "hosts": 2, "seconds": 10.0}
    assert add_up(records[3:]) == {}
    assert add_up([{"host": "n1", "energy_j": {"gpu:a": KWH}}])["cpu_kwh"] is None


def test_the_newest_event_of_each_attempt_counts_and_the_sum_says_how_much_was_measured() -> None:
    ledger = [
        {"event": "start", "attempt": 0, "time": 1.0},
        {"event": "energy", "attempt": 0, "gpu_kwh": 1.0, "cpu_kwh": 0.5, "time": 2.0},
        {"event": "energy", "attempt": 0, "gpu_kwh": 3.0, "cpu_kwh": 0.75, "time": 3.0},
        {"event": "start", "life": 1, "time": 4.0},
        {"event": "start", "attempt": 2, "time": 5.0},
        {"event": "energy", "attempt": 2, "gpu_kwh": None, "cpu_kwh": 100.0, "time": 6.0},
        {"event": "energy", "attempt": 2, "gpu_kwh": "x", "time": 7.0},
    ]
    assert energy_of(ledger) == {0: Energy(3.0, 0.75, 1, 1), 1: Energy(attempts=1), 2: Energy(None, 100.0, 1, 1)}
    sums = total(energy_of(ledger).values())
    assert sums.in_words() == "3.000 kWh of GPUs, 100.8 kWh of processors and memory, measured in 2 of 3 attempts"
    assert total(energy_of(ledger[3:4]).values()).in_words() == "not measured"
    result = compute_goodput(ledger, [])
    assert [(one.gpu_kwh, one.cpu_kwh) for one in result.attempts] == [(3.0, 0.75), (None, None), (None, 100.0)]
    assert asdict(result)["energy"] == {"gpu_kwh": 3.0, "cpu_kwh": 100.75, "measured": 2, "attempts": 3}


def test_the_watchdog_measures_rank_0_adds_up_and_one_that_replaces_it_goes_on(tmp_path, nvml, gpu) -> None:
    gpu(1000)
    folder = zone(tmp_path / "powercap", "intel-rapl:0", "package-0", 999_000_000)
    first = Watched(tmp_path / "run", tmp_path / "powercap", nvml)
    first.wait_for(0.0)
    (folder / "energy_uj").write_text("8000000")  # it has wrapped: 1 J before, 8 J after
    gpu(1000 + 3_600_000)
    first.watchdog.write_record(first.wait_for(3600.0))
    second = Watched(tmp_path / "run", tmp_path / "powercap", nvml)
    second.watchdog.closing = True
    second.watchdog.keep_files()  # once
    for joules in range(3600, 100_000, 10):  # it begins to sample somewhere in between
        gpu(1000 + joules * 1000)
        record = second.watchdog.take_record()
        if record["energy_j"]["gpu:GPU-one"] > 3700:
            break
        time.sleep(0.002)
    second.watchdog.write_record(record)
    second.watchdog.record_energy()
    (row,) = read_jsonl(tmp_path / "run/ledger.jsonl")
    assert (row["event"], row["attempt"], row["gpus"], row["hosts"]) == ("energy", 4, 1, 1)
    assert 3700 < row["gpu_kwh"] * KWH <= joules and row["cpu_kwh"] == pytest.approx(9 / KWH)
    used = read_energy(tmp_path / "run", 2, 4)
    assert used["gpu_kwh"] == row["gpu_kwh"] and read_energy(tmp_path / "run", 1, 5) == {} == read_energy(tmp_path / "none", 1, 4)


def test_the_watchdog_goes_on_where_the_run_directory_is_away_as_the_energy_is_due(tmp_path, monkeypatch) -> None:
    watchdog = Watched(tmp_path / "run", tmp_path / "powercap", NO_NVML).watchdog
    monkeypatch.setattr(watchdog, "read_records", lambda: {0: {"host": "a", "energy_j": {"gpu:GPU-one": KWH}}})
    (tmp_path / "run").write_text("")  # no directory can be made of it
    watchdog.record_energy()
    (tmp_path / "run").unlink()
    watchdog.record_energy()
    assert [row["gpu_kwh"] for row in read_jsonl(tmp_path / "run/ledger.jsonl")] == [1.0]


def test_a_trainer_tells_its_watchdog_where_the_counters_are(tmp_path) -> None:
    zone(tmp_path / "powercap", "intel-rapl:0", "package-0", 5)
    body = f"""
from pathlib import Path
from jadeberta.cluster import energy_counters
from jadeberta.config import WatchdogConfig
from jadeberta.training.watchdog.client import WatchdogClient
energy_counters.POWERCAP = Path({str(tmp_path / "powercap")!r})
watchdog = WatchdogClient(Path({str(tmp_path)!r}), 0, 1, WatchdogConfig())
input()
watchdog.stop()
"""
    command = [sys.executable, "-c", body]
    trainer = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    try:
        end, record = time.monotonic() + 30, {}
        while "energy_j" not in record and time.monotonic() < end:
            time.sleep(0.05)
            with contextlib.suppress(OSError, orjson.JSONDecodeError):
                record = orjson.loads((tmp_path / "heartbeat/rank-00000.json").read_bytes())
        assert record["energy_j"] == {"cpu:intel-rapl:0": 0.0}
    finally:
        trainer.communicate(b"\n", 20)


def test_the_card_says_what_was_used_or_that_nothing_was_measured() -> None:
    for ledger, words in (
        ([{"event": "start", "attempt": 0}, {"event": "energy", "attempt": 0, "gpu_kwh": 1234.5}], "1,234.5 kWh of GPUs"),
        ([{"event": "start", "attempt": 0}], "not measured"),
    ):
        assert f"| energy | {words} |" in energy_row(ledger)
    assert energy_row([]) == ""


def test_an_attempt_that_ends_in_order_records_what_all_ranks_have_used_by_then(tmp_path) -> None:
    (tmp_path / "heartbeat").mkdir()
    for rank in range(2):
        record = {"rank": rank, "host": f"n{rank}", "attempt": 4, "energy_j": {"gpu:a": KWH}, "uptime_s": 60.0}
        (tmp_path / f"heartbeat/rank-{rank:05d}.json").write_bytes(orjson.dumps(record))
    for is_root, expected in ((True, [{"gpu_kwh": 2.0, "gpus": 2, "cpu_kwh": None, "hosts": 0, "seconds": 60.0}]), (False, [])):
        rows: list[dict] = []
        process = SimpleNamespace(is_root=is_root, world_size=2)
        record_row = lambda event, rows=rows, **fields: rows.append(fields)  # noqa: E731
        _record_energy(SimpleNamespace(process=process, run_dir=tmp_path, attempt=4, record=record_row))
        assert rows == expected
