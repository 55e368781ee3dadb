"""What a preflight's verdict means for the job follows from the hosts, the batch and the recipe's limit."""

import pytest

from jadeberta.config import ClusterConfig, Recipe, TrainingConfig
from jadeberta.jobs.preflight_policy import fitting_micro_batch, judge_fitness

HOSTS = ["node1", "node2", "node3", "node4"]


def recipe(drop_hosts: int = 1, batch: int = 2304, micro_batch: int = 18) -> Recipe:
    training = TrainingConfig(global_batch_size=batch, micro_batch_size=micro_batch)
    return Recipe(training=training, cluster=ClusterConfig(drop_hosts=drop_hosts))


def unfit(*hosts: str) -> dict:
    return {"fit": False, "unfit": {host: ["its link is slow"] for host in hosts}}


def test_a_fit_allocation_trains() -> None:
    assert judge_fitness({"fit": True}, HOSTS, 8, recipe()).action == "go"


def test_without_a_verdict_training_starts_and_the_log_says_so() -> None:
    found = judge_fitness(None, HOSTS, 8, recipe())
    assert found.action == "go" and "unchecked" in found.reason


def test_an_unfit_host_is_left_out_and_the_micro_batch_fits_the_rest() -> None:
    found = judge_fitness(unfit("node3"), HOSTS, 8, recipe())
    # 24 ranks have 96 sequences each: 18 does not divide that, 16 does.
    assert (found.action, found.hosts, found.ranks, found.micro_batch_size) == ("without", ("node3",), 24, 16)
    assert "node3: its link is slow" in found.reason


def test_names_with_and_without_domain_are_the_same_host() -> None:
    assert judge_fitness(unfit("node3.cluster.jp"), HOSTS, 8, recipe()).hosts == ("node3",)


@pytest.mark.parametrize(
    "verdict,settings",
    [
        (unfit("node3"), {"drop_hosts": 0}),  # the recipe does not allow it
        (unfit("node1", "node3"), {}),  # more than it allows
        (unfit(*HOSTS), {"drop_hosts": 4}),  # nothing would be left
        (unfit("node3"), {"batch": 2048, "micro_batch": 16}),  # the batch does not divide over three hosts
    ],
)
def test_otherwise_the_job_is_requeued_on_other_hosts(verdict, settings) -> None:
    found = judge_fitness(verdict, HOSTS, 8, recipe(**settings))
    assert found.action == "requeue" and found.hosts == tuple(verdict["unfit"]) and found.status is None


def test_a_fault_of_no_single_host_stops_the_job() -> None:
    found = judge_fitness({"fit": False, "unfit": {}, "common": ["the index differs"]}, HOSTS, 8, recipe())
    assert found.status == 2 and "the index differs" in found.reason


def test_unfit_hosts_outside_the_job_are_ignored() -> None:
    assert judge_fitness(unfit("login"), HOSTS, 8, recipe()).action == "go"


@pytest.mark.parametrize("ranks", range(1, 130))
def test_the_micro_batch_is_the_largest_that_divides(ranks) -> None:
    fits = [m for m in range(1, 19) if 2304 % (m * ranks) == 0]
    assert fitting_micro_batch(2304, 18, ranks) == max(fits, default=0)
