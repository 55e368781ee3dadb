"""The small pure parts of the preflight: the round robin, latency and bandwidth, requirements of a run, hosts of ranks."""

import pytest

from jadeberta.cluster.hostlist import placement
from jadeberta.config import CheckpointConfig, Recipe, TrainingConfig, WatchdogConfig
from jadeberta.preflight.collectives import fit_latency_bandwidth
from jadeberta.preflight.host_info import GpuInfo, is_training, read_devices, read_processes
from jadeberta.preflight.network_benchmarks import latency_bandwidth_of
from jadeberta.preflight.requirements import requirements_of
from jadeberta.preflight.round_robin import repeat_rounds, rounds


@pytest.mark.parametrize("hosts", range(0, 20))
def test_in_a_round_robin_every_two_hosts_are_paired_once_and_no_host_twice_in_a_round(hosts) -> None:
    played = rounds(hosts)
    pairs = [frozenset(pair) for each in played for pair in each]
    assert len(pairs) == len(set(pairs)) == hosts * (hosts - 1) // 2
    assert len(played) == (0 if hosts < 2 else hosts - 1 + hosts % 2)
    for each in played:
        assert len({host for pair in each for host in pair}) == 2 * len(each)


def test_a_second_look_at_a_host_pairs_it_with_a_few_others_and_nobody_else() -> None:
    looked = repeat_rounds(rounds(16), {3}, most=4)
    assert len(looked) == 4 and all(len(pairs) == 1 and 3 in pairs[0] for pairs in looked)
    assert len({pair for pairs in looked for pair in pairs}) == 4
    assert len(repeat_rounds(rounds(3), {0}, most=4)) == 2  # it has no more partners
    assert repeat_rounds(rounds(16), set(), most=4) == []


def test_a_small_message_that_was_held_up_makes_no_link_look_fast() -> None:
    large, seconds = 64 << 20, 1.3e-2
    of_link = [(1 << 20, 4e-4), (large, seconds)]
    latency, bandwidth = latency_bandwidth_of([(8, 4e-5), *of_link])
    assert latency == pytest.approx(2e-5, rel=1e-3) and bandwidth == pytest.approx(large / (seconds - 4e-5), rel=1e-3)
    for held_up in (5e-4, 9e-3, 1.0):
        assert bandwidth <= latency_bandwidth_of([(8, held_up), *of_link])[1] <= 1.5 * large / seconds


@pytest.mark.parametrize("ranks", [2, 8, 100])
@pytest.mark.parametrize("collective,trips", [("all_reduce", 2), ("all_gather", 1)])
def test_latency_and_bandwidth_are_found_again_in_times_of_the_ring(collective, trips, ranks) -> None:
    latency, bandwidth = 2e-5, 25e9
    sizes = [8, 1 << 20, 1 << 28]
    times = [trips * (ranks - 1) * (latency + size / ranks / bandwidth) for size in sizes]
    line = fit_latency_bandwidth(collective, ranks, list(zip(sizes, times, strict=True)))
    assert line is not None and line.ranks == ranks
    assert line.latency_s == pytest.approx(latency, rel=1e-3) and line.bandwidth_bytes_per_s == pytest.approx(bandwidth, rel=1e-3)


def test_one_rank_has_no_ring() -> None:
    assert fit_latency_bandwidth("all_reduce", 1, [(8, 1e-6), (1 << 20, 1e-5)]) is None


def test_a_message_that_seems_to_take_no_time_gives_no_endless_bandwidth() -> None:
    line = fit_latency_bandwidth("all_reduce", 2, [(8, 2e-4), (1 << 20, 1e-4)])
    assert line is not None and 0 < line.bandwidth_bytes_per_s < 1e14 and line.latency_s > 0


def test_what_a_run_needs_follows_from_its_recipe() -> None:
    recipe = Recipe(
        checkpoint=CheckpointConfig(every_steps=1000, keep_last=3, keep_every=50_000),
        training=TrainingConfig(max_steps=300_000),
        watchdog=WatchdogConfig(save_s=900),
    )
    requirements = requirements_of(recipe, parameters=1_000_000, world_size=8, existing=0)
    assert requirements.checkpoint_bytes == 14_000_000  # fp32 weight and two moments, bf16 weight
    assert (requirements.soon, requirements.whole_run, requirements.save_s) == (4, 10, 450)
    assert requirements.share(2) == 3_500_000
    later = requirements_of(recipe, 1_000_000, 8, existing=5)
    assert (later.soon, later.whole_run) == (1, 5)
    recipe.checkpoint.keep_last, recipe.watchdog.save_s = 0, 0
    forever = requirements_of(recipe, 1_000_000, 8, existing=100)
    assert (forever.soon, forever.whole_run, forever.save_s) == (1, 201, float("inf"))


@pytest.mark.parametrize(
    "env,world,expected",
    [
        ({"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}, 4, {0: "n1", 1: "n1", 2: "n2", 3: "n2"}),
        ({"SLURM_STEP_NODELIST": "a,b7", "SLURM_STEP_TASKS_PER_NODE": "1,2"}, 3, {0: "a", 1: "b7", 2: "b7"}),
        ({"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_DISTRIBUTION": "cyclic"}, 4, {}),
        ({"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_DISTRIBUTION": "cyclic"}, 2, {0: "n1", 1: "n2"}),
        # torchrun under srun: a task is not a rank.
        ({"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, 8, {}),
        ({}, 2, {}),
    ],
)  # fmt: skip
def test_the_host_of_a_rank_that_never_came_is_known_from_slurm(env, world, expected) -> None:
    assert placement(env, world) == expected


def test_nvidia_smi_is_read() -> None:
    # The second GPU has no ECC; the driver need not tell the memory of a process.
    devices = "0, GPU-6a1c, 550.54.15, 0\n1, GPU-7b2d, 550.54.15, [N/A]\n2, GPU-8c3e, 550.54.15, 3\n"
    assert read_devices(devices) == [
        GpuInfo(0, "GPU-6a1c", "550.54.15", 0),
        GpuInfo(1, "GPU-7b2d", "550.54.15", 0),
        GpuInfo(2, "GPU-8c3e", "550.54.15", 3),
    ]
    processes = "GPU-6a1c, 4711, 5120, /opt/my env/bin/python, -u\nGPU-7b2d, 4712, [N/A], python\n"
    assert read_processes(processes, "GPU-6a1c") == [(4711, "/opt/my env/bin/python, -u", "5120")]
    assert read_devices("No devices were found\n") == [] and read_processes("", "GPU-6a1c") == []


@pytest.mark.parametrize(
    "command,is_one",
    [
        ("/venv/bin/python -m jadeberta pretrain --config a.yaml", True),
        ("/venv/bin/python /venv/bin/jadeberta pretrain --config a.yaml", True),
        ("/venv/bin/python -m jadeberta preflight --config a.yaml", False),
        ("vim /home/me/jadeberta pretrain.txt", False),
        ("python -m jadeberta", False),
    ],
)
def test_a_training_is_known_by_its_command_line(command, is_one) -> None:
    assert is_training(command.split()) is is_one
