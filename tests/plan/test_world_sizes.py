"""`jadeberta plan` at several sizes: what goes between the ranks, where each constant comes from, and what is refused."""

import json

import pytest

from jadeberta.errors import ConfigError, InputError
from jadeberta.plan.cli import main
from tests.helpers import ROOT

LARGE = str(ROOT / "recipes" / "large.yaml")
FAST = ["--config", LARGE, "--tokens-per-second-per-gpu", "45000"]


def planned(capsys, *arguments: str) -> dict:
    assert main([*FAST, "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def sizes(capsys, *arguments: str) -> list[dict]:
    return planned(capsys, *arguments)["sizes"]


def preflight(path, hosts: int, **constants: float) -> str:
    path.write_text(json.dumps({"hosts": [{"host": f"n{k}"} for k in range(hosts)], "constants": constants}), encoding="utf-8")
    return str(path)


def test_more_nodes_are_faster_and_less_efficient(capsys) -> None:
    rows = sizes(capsys, "--nodes", "1,2,4,8,16")
    assert [row["nodes"] for row in rows] == [1, 2, 4, 8, 16] and [row["accumulation"] for row in rows] == [16, 8, 4, 2, 1]
    speeds, shares = [row["tokens_per_second"] for row in rows], [row["efficiency"] for row in rows]
    assert speeds == sorted(speeds) and shares == sorted(shares, reverse=True) and shares[0] == 1
    for row in rows:
        assert row["step_s"] == pytest.approx(row["compute_s"] + row["communication_s"])
        assert row["days"] == pytest.approx(row["step_s"] * 300_000 / 86400)


def test_the_wire_of_stage_1_is_a_reduce_of_the_gradients_and_a_gathering_of_the_weights(capsys) -> None:
    one, eight = sizes(capsys, "--nodes", "1,8", "--link-gbps", "200", "--link-latency-us", "0", "--nvlink-latency-us", "0")
    gradients = 2 * 339_838_208
    assert eight["communication_s"] == pytest.approx(3 * 63 / 64 * gradients / 25e9)
    assert one["communication_s"] == pytest.approx(3 * 7 / 8 * gradients / 235e9)


def test_stage_2_with_overlap_hides_what_it_sends_behind_the_backward_pass_unless_that_is_compiled(capsys, tmp_path) -> None:
    plain = sizes(capsys, "--nodes", "1,16")[1]
    settings = json.loads((ROOT / "ds_configs/zero2.json").read_text())
    settings["zero_optimization"]["overlap_comm"] = True
    (tmp_path / "overlap.json").write_text(json.dumps(settings))
    stage_2 = ("--nodes", "1,16", "--deepspeed", str(tmp_path / "overlap.json"))
    hidden = sizes(capsys, *stage_2, "--training.compile", "never")[1]
    assert hidden["communication_s"] < plain["communication_s"] / 2
    assert sizes(capsys, *stage_2)[1]["communication_s"] >= plain["communication_s"]


def test_where_the_micro_batch_does_not_fit_the_largest_below_it_is_taken(capsys) -> None:
    rows = sizes(capsys, "--nodes", "1,3,32,64")
    assert [row["micro_batch"] for row in rows] == [18, 16, 9, 0]
    main([*FAST, "--nodes", "1,64"])
    assert "does not divide over so many GPUs" in capsys.readouterr().out


def test_preflight_goes_before_assumptions_and_tells_nothing_of_the_other_kind_of_link(capsys, tmp_path) -> None:
    file = preflight(tmp_path / "two.json", 2, latency_s=0.0, bandwidth_bytes_per_s=1e9)
    plan = planned(capsys, "--nodes", "1,2", "--preflight", file)
    one, two = plan["sizes"]
    assert two["communication_s"] == pytest.approx(3 * 15 / 16 * 2 * 339_838_208 / 1e9)
    assert one["communication_s"] < two["communication_s"] / 100
    assert plan["inputs"]["preflight"]["value"] == 1 and plan["inputs"]["preflight"]["kind"] == "measured"
    alone = sizes(
        capsys, "--nodes", "1,2", "--preflight", preflight(tmp_path / "one.json", 1, latency_s=0.0, bandwidth_bytes_per_s=1e9)
    )
    assert alone[0]["communication_s"] == pytest.approx(3 * 7 / 8 * 2 * 339_838_208 / 1e9)


def test_every_assumption_about_links_is_named_with_its_source(capsys) -> None:
    main([*FAST, "--nodes", "1,2"])
    printed = " ".join(capsys.readouterr().out.split())
    for option, source in {"--link-gbps 200": "HDR", "--link-latency-us 9.6": "NCCL", "--nvlink-gb-per-s 235": "NCCL"}.items():
        assert f"{option} assumed: " in printed and source in printed.split(f"{option} assumed: ")[1][:120]
    main(FAST)
    assert "--link-gbps" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--nodes", "1,x"], "not a number from 1 to 100000"),
        (["--link-gbps", "400"], "name several sizes"),
        (["--nodes", "1,2", "--device", "MI300X"], "give --nvlink-gb-per-s"),
    ],
)
def test_bad_options_are_one_sentence(arguments, complaint) -> None:
    with pytest.raises(ConfigError, match=complaint):
        main([*FAST, *arguments])


def test_a_preflight_of_one_rank_is_refused_by_name(tmp_path) -> None:
    file = preflight(tmp_path / "alone.json", 1, gemm_flops_per_second_per_rank=1e12)
    with pytest.raises(InputError, match="two ranks or more"):
        main([*FAST, "--nodes", "1,2", "--preflight", file])
    with pytest.raises(InputError, match="cannot be read"):
        main([*FAST, "--nodes", "1,2", "--preflight", str(tmp_path / "nowhere.json")])
