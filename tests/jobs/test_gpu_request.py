"""A job whose --gres contradicts its script's --gpus-per-node takes the GPUs that it has, or says what to submit instead."""

import pytest

from jadeberta.errors import ConfigError
from jadeberta.jobs.gpu_request import decide_gpus


def job(asked: str, has: str, **more: str) -> dict[str, str]:
    return {"SLURM_GPUS_PER_NODE": asked, "SLURM_GPUS_ON_NODE": has, "SLURM_JOB_NUM_NODES": "2"} | more


@pytest.mark.parametrize(
    "env", [{}, job("8", "8"), job("", "4"), job("8", ""), job("a100:4", "4"), job("4", "8"), job("a100", "1")]
)
def test_where_nothing_contradicts_nothing_is_changed(env) -> None:
    assert decide_gpus(env).per_node == decide_gpus(env).sentence == ""


@pytest.mark.parametrize("asked", ["8", "a100:8", "gpu:a100:8(S:0-1)"])
@pytest.mark.parametrize("ranks", [{"SLURM_NTASKS_PER_NODE": "4"}, {"SLURM_NTASKS": "7"}, {"SLURM_NTASKS_PER_NODE": "1"}, {}])
def test_a_job_whose_ranks_have_a_gpu_each_takes_what_it_has(asked, ranks) -> None:
    found = decide_gpus(job(asked, "4", **ranks))
    assert found.per_node == "4"
    assert "has 4 GPUs on a node" in found.sentence and "ask for 8" in found.sentence and "--gpus-per-node=4" in found.sentence


@pytest.mark.parametrize("ranks", [{"SLURM_NTASKS_PER_NODE": "8"}, {"SLURM_NTASKS": "9"}])
def test_more_ranks_than_gpus_is_one_sentence_with_the_remedy(ranks) -> None:
    with pytest.raises(ConfigError) as refused:
        decide_gpus(job("8", "4", **ranks))
    assert "has 4 GPUs on a node" in str(refused.value) and "ask for 8" in str(refused.value)
    assert str(refused.value).endswith("Submit it with --gpus-per-node=4 --ntasks-per-node=4 in place of --gres.")
