"""`jadeberta plan`: the published run's figures, measured runs, and what is refused."""

import json

import orjson
import pytest
import yaml

from jadeberta.config import ModelConfig, load_recipe
from jadeberta.errors import ConfigError, InputError
from jadeberta.model.load import count_parameters
from jadeberta.plan.checkpoint_interval import expected_efficiency
from jadeberta.plan.cli import OF_COSTS, main
from jadeberta.plan.forecast import DEFAULTS, ClusterShape, Input, forecast
from tests.helpers import ROOT, TINY_MODEL, make_recipe, make_shards

LARGE = str(ROOT / "recipes" / "large.yaml")


def planned(capsys, *arguments: str) -> dict:
    assert main(["--config", LARGE, "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_published_run_takes_its_36_days(capsys) -> None:
    # Model card: 36 days on 8 A100, 300,000 steps of 2,304 x 512 tokens, which is 14.2 thousand tokens/s a GPU.
    plan = planned(capsys, "--tokens-per-second-per-gpu", "14200", "--device", "A100")
    assert plan["days_without_faults"] == pytest.approx(36, abs=0.2)
    assert plan["choices"]["recipe"]["days"] == pytest.approx(36.4, abs=0.3)
    assert plan["tokens"] == 300_000 * 2304 * 512
    assert plan["parameters"] == 339_838_208
    assert plan["flops_per_token"] == pytest.approx(2.180e9, rel=1e-3)
    assert plan["mfu"] == pytest.approx(0.099, abs=0.001)
    assert plan["checkpoint_bytes"] == 339_838_208 * 14
    assert plan["inputs"]["tokens_per_second_per_gpu"]["kind"] == "given" and "mfu" not in plan["inputs"]


def test_a_share_of_the_peak_gives_the_speed_and_nodes_share_the_failures(capsys) -> None:
    one = planned(capsys, "--mfu", "0.4", "--device", "H100")
    assert one["tokens_per_second"] == pytest.approx(8 * 0.4 * 989e12 / 2.180e9, rel=1e-3)
    four = planned(capsys, "--mfu", "0.4", "--device", "H100", "--nodes", "4")
    assert four["mtbf_s"] == pytest.approx(one["mtbf_s"] / 4) == pytest.approx(3000 * 900)
    assert four["days_without_faults"] == pytest.approx(one["days_without_faults"] / 4)
    assert one["failures"] == pytest.approx(one["choices"]["recipe"]["days"] / 125)
    assert one["inputs"]["mtbf_node_hours"]["kind"] == "assumed" and "Llama 3" in one["inputs"]["mtbf_node_hours"]["source"]


def test_the_choices_are_what_the_formula_says() -> None:
    recipe = load_recipe(LARGE)
    given = {"tokens_per_second_per_gpu": 14200, "mtbf_node_hours": 100, "stall_seconds": 20, "write_seconds": 60}
    given |= {"restart_seconds": 300, "queue_seconds": 0, "time_limit_hours": 0}
    plan = forecast(recipe, ClusterShape(nodes=4), {name: Input(value, "given", "") for name, value in given.items()}, 1000)
    step_s = 2304 * 512 / (14200 * 32)
    every = plan.choices["recipe"]
    assert every.steps == recipe.checkpoint.every_steps and every.seconds == pytest.approx(every.steps * step_s)
    assert every.goodput == expected_efficiency(every.steps * step_s, 20, 60, 300, 25 * 3600)
    assert every.days == pytest.approx(300_000 * step_s / 86400 / every.goodput)
    best = plan.choices["best"]
    assert best.steps == round(best.seconds / step_s)
    assert all(best.goodput >= choice.goodput - 1e-6 for choice in plan.choices.values())
    assert plan.choices["young"].seconds == pytest.approx((2 * 20 * 90_000) ** 0.5)


def test_a_growing_batch_takes_fewer_tokens_and_an_average_more_disk() -> None:
    speed = {"tokens_per_second_per_gpu": Input(14200, "given", "")}
    plain = forecast(load_recipe(LARGE), ClusterShape(), speed, 1000)
    options = ("--training.batch_size_warmup", "[[576, 4000], [1152, 1000]]", "--training.ema_decay", "0.9999")
    grown = forecast(load_recipe(LARGE, options), ClusterShape(), speed, 1000)
    fewer = (2304 - 576) * 4000 + (2304 - 1152) * 1000
    assert grown.tokens == plain.tokens - fewer * 512 and grown.step_s == plain.step_s
    assert grown.total_flops / plain.total_flops == pytest.approx(grown.tokens / plain.tokens)
    assert plain.days_without_faults - grown.days_without_faults == pytest.approx(fewer * 512 / (14200 * 8) / 86400)
    assert (plain.checkpoint_bytes, grown.checkpoint_bytes) == (14_000, 18_000)


def test_a_parameter_is_counted_once_whatever_the_model_shares() -> None:
    from jadeberta.model import build

    tiny = ModelConfig(**TINY_MODEL, share_att_key=False)  # type: ignore[arg-type]
    stored = build(tiny.hugging_face()).state_dict()
    assert count_parameters(tiny) == sum({t.data_ptr(): t.numel() for t in stored.values() if t.is_floating_point()}.values())


def test_figures_of_a_run_go_before_assumptions_and_options_before_them(capsys, tmp_path) -> None:
    def write(name: str, rows: list[dict]) -> None:
        (tmp_path / name).write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))

    write("ledger.jsonl", [
        {"time": 100, "event": "start", "life": 0, "world_size": 8},
        {"time": 160, "event": "save", "life": 0, "step": 1, "stall_s": 1.0, "write_s": 20.0},
        {"time": 190, "event": "save", "life": 0, "step": 2, "stall_s": 3.0, "write_s": 30.0},
        {"time": 300, "event": "start", "life": 1, "world_size": 8},
        {"time": 320, "event": "resume", "life": 1, "step": 2},
    ])  # fmt: skip
    write("metrics.jsonl", [
        {"step": 1, "time": 150, "step_s": 10, "life": 0, "tokens_per_second": 80_000},
        {"step": 2, "time": 180, "step_s": 30, "life": 0, "tokens_per_second": 160_000},
        {"step": 3, "time": 360, "step_s": 40, "life": 1, "tokens_per_second": 140_000},
    ])  # fmt: skip
    inputs = planned(capsys, "--measured", str(tmp_path))["inputs"]
    # Saves of 20 s and 30 s, with stalls of 1 s and 3 s in them; starts of 40 s and 20 s;
    # 80 seconds of steps with (10 x 80 + 30 x 160 + 40 x 140) thousand tokens on 8 ranks.
    found = {name: used["value"] for name, used in inputs.items() if used["kind"] == "measured"}
    assert found == {
        "stall_seconds": 2.0, "write_seconds": 23.0, "restart_seconds": 30.0, "tokens_per_second_per_gpu": 140_000 / 8,
    }  # fmt: skip
    inputs = planned(capsys, "--measured", str(tmp_path), "--mfu", "0.2", "--stall-seconds", "0.5")["inputs"]
    assert inputs["mfu"] == {"value": 0.2, "kind": "given", "source": ""} and "tokens_per_second_per_gpu" not in inputs
    assert (inputs["stall_seconds"]["value"], inputs["write_seconds"]["value"]) == (0.5, 23.0)
    write("metrics.jsonl", [])
    inputs = planned(capsys, "--measured", str(tmp_path))["inputs"]
    assert inputs["mfu"]["kind"] == inputs["restart_seconds"]["kind"] == "assumed"


def test_the_table_names_every_assumption_with_its_source(capsys) -> None:
    main(["--config", LARGE, "--training.max_steps", "10000", "--training.precision", "fp32"])
    printed = capsys.readouterr().out
    assert "11.8 billion" in printed and "5.44 GB" in printed
    assert max(map(len, printed.splitlines())) <= 130
    for name, default in DEFAULTS.items():
        assert f"--{name.replace('_', '-')}" in printed and " ".join(default.source.split()[:4]) in " ".join(printed.split())
    assert printed.count("assumed: ") == len(DEFAULTS) + len(OF_COSTS)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--device", "Cray-1"], "its peak is not known"),
        (["--mfu", "1.2"], "must not be above 1"),
        (["--mfu", "0.2", "--tokens-per-second-per-gpu", "9"], "give one of them"),
        (["--mfu", "lots"], "not a number above 0"),
        (["--stall-seconds", "-1"], "not a number of at least 0"),
        (["--mtbf-node-hours", "nan"], "not a number above 0"),
        (["--nodes", "0"], "not a number from 1 to 100000"),
        (["--nodes", "1,100001"], "not a number from 1 to 100000"),
        (["--gpus-per-node", "9" * 5000], "not a number from 1 to 100000"),
        (["--nodes", "5"], "World sizes that fit"),
        (["--time-limit-hours", "0.1"], "no time to train"),
        (["--training.max_step", "5"], "did you mean training.max_steps"),
        (["--queue", "5"], "unknown key queue"),
    ],
)
def test_bad_options_are_one_sentence(arguments, complaint) -> None:
    with pytest.raises(ConfigError) as raised:
        main(["--config", LARGE, *arguments])
    assert complaint in str(raised.value) and "\n" not in str(raised.value)


def test_missing_files_are_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match="--config"):
        main([])
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such recipe"):
        main(["--config", "nowhere.yaml"])
    with pytest.raises(InputError, match=r"no ledger\.jsonl"):
        main(["--config", LARGE, "--measured", str(tmp_path)])


def test_another_device_is_planned_from_its_speed(capsys, tmp_path) -> None:
    recipe = yaml.safe_load((ROOT / "recipes" / "large.yaml").read_text(encoding="utf-8"))
    recipe["training"] |= {"global_batch_size": 12, "micro_batch_size": 12}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    arguments = ["--device", "MI300X", "--gpus-per-node", "1", "--tokens-per-second-per-gpu", "50000"]
    assert main(["--config", str(tmp_path / "r.yaml"), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "1 node x 1 MI300X" in printed and "MFU" not in printed


def test_rows_are_as_long_as_those_of_the_shards_where_the_recipe_does_not_say_it(capsys, tmp_path) -> None:
    shards = make_shards(tmp_path / "shards", {"wiki": (6, 1)}, length=128)
    recipe = str(make_recipe(tmp_path / "recipe.yaml", shards, tmp_path / "run"))
    phases = "[{steps: 4}, {steps: 2, sequence_length: 256}]"

    def printed(*options: str) -> str:
        assert main(["--config", recipe, "--gpus-per-node", "1", *options]) == 0
        return " ".join(capsys.readouterr().out.split())

    assert f"rows 128 tokens ({shards}/index.json)" in printed()
    assert f"rows 512 tokens (model.max_position_embeddings: no index of shards in {tmp_path}/none)" in printed(
        "--data.shards", f"{tmp_path}/none"
    )
    assert f"rows 128 tokens, where a phase names none ({shards}/index.json)" in printed("--phases", phases)
    assert "names none" not in printed("--phases", "[{steps: 6, sequence_length: 256}]")
    assert main(["--config", recipe, "--gpus-per-node", "1", "--json", "--nodes", "1,2", "--phases", phases]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [p["tokens"] for p in plan["phases"]] == [4 * 12 * 128, 2 * 12 * 256]
    # The longest phase alone is compared: its rows count.
    longest = max(plan["phases"], key=lambda p: p["days_without_faults"])
    assert plan["sizes"][0]["tokens_per_second"] == pytest.approx(longest["tokens_per_second"], rel=0.01)


def test_phases_are_planned_one_by_one_and_added_up(capsys) -> None:
    phases = (
        "[{steps: 200000, sequence_length: 128}, "
        "{steps: 100000, global_batch_size: 1152, micro_batch_size: 9, mask_probability: [0.3, 0.1]}]"
    )
    arguments = ["--device", "A100", "--mfu", "0.3", "--phases", phases]
    plan = planned(capsys, *arguments)
    first, second = plan["phases"]
    assert first["tokens"] == 200_000 * 2304 * 128 and second["tokens"] == 100_000 * 1152 * 512
    assert plan["tokens"] == first["tokens"] + second["tokens"]
    assert plan["days_without_faults"] == pytest.approx(first["days_without_faults"] + second["days_without_faults"])
    assert plan["step_s"] == pytest.approx(plan["days_without_faults"] * 86400 / 300_000)
    # Short rows need less work a token. 18 of them have half the tokens of 9 rows of 512, and keep a little less a token for attention.
    assert first["flops_per_token"] < second["flops_per_token"]
    assert 0.9 < 2 * first["activation_bytes"] / second["activation_bytes"] < 1
    assert main(["--config", LARGE, "--nodes", "1,2", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "activations, GB" in printed and "the longest phase alone on more nodes" in printed
    odd = "[{steps: 200000, micro_batch_size: 16}, {steps: 100000, global_batch_size: 1168, micro_batch_size: 1}]"
    with pytest.raises(ConfigError, match=r"phases, entry 2: .* does not divide over 24 ranks"):
        planned(capsys, "--nodes", "3", "--phases", odd)
