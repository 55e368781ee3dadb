"""A branch goes on from a step of another run: with its bits where nothing is changed, and with its data on other ranks."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash

from jadeberta.checkpoint.consolidate import consolidate_weights
from jadeberta.checkpoint.manifest import manifest_bytes
from jadeberta.config import load_recipe
from jadeberta.config.lineage import describe_entry
from jadeberta.data.phase_order import PhasedOrder
from jadeberta.data.run_data import open_run_data
from jadeberta.errors import CheckpointError, ConfigError, JadebertaError
from jadeberta.pretrain import pretrain
from jadeberta.shards import open as open_shards
from jadeberta.start.plan import settle_start
from jadeberta.utils.files import file_sha256
from jadeberta.utils.json_lines import read_jsonl
from tests.helpers import make_recipe, make_shards, printed_by, read_metrics, run_ranks, start_ranks
from tests.start.sources import planned, started
from tests.training.test_guard import DRIVER

CHANGES = {"training": {"max_steps": 4, "schedule": "constant"}, "checkpoint": {"every_steps": 2}}


# Ends with SIGKILL before the fourth step, of which the first checkpoint of a branch here would be.
DYING = """
import os, signal
from jadeberta.cli import main
from jadeberta.training.engine import TrainingEngine
whole = TrainingEngine.step
def step(self, batch, *rest):
    if batch.step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, batch, *rest)
TrainingEngine.step = step
main()
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"), {"wikipedia": (20, 3), "cc100": (40, 1)})


@pytest.fixture(scope="module")
def source(tmp_path_factory, shards) -> Path:
    """A run of four steps on one rank, with checkpoints of the second and the fourth."""
    folder = tmp_path_factory.mktemp("source")
    recipe = make_recipe(folder / "recipe.yaml", shards, folder / "run", **CHANGES)
    run_ranks(1, "pretrain", "--config", str(recipe), log=folder / "log")
    return folder / "run"


def tree(directory: Path) -> dict[str, tuple[int, str]]:
    """Every file of a directory with its time of change and its hash."""
    return {str(p): (p.stat().st_mtime_ns, file_sha256(p)) for p in sorted(directory.rglob("*")) if p.is_file()}


def weights(checkpoint: Path) -> dict[str, str]:
    files = json.loads((checkpoint / "manifest.json").read_text())["files"]
    return {name: entry["sha256"] for name, entry in files.items() if name.endswith(".safetensors")}


def test_an_unchanged_branch_ends_with_the_bits_of_the_run_after_a_kill_too_and_writes_nothing_there(
    shards, source, tmp_path
) -> None:
    before, step = tree(source), source / "checkpoints/step-00000002"
    recipe = make_recipe(tmp_path / "recipe.yaml", shards, tmp_path / "run", **CHANGES)
    arguments = ("pretrain", "--config", str(recipe), "--branch-from", str(step))
    (killed,) = start_ranks(1, *arguments, log=tmp_path / "killed", code=DYING)
    assert killed.wait(200) == -signal.SIGKILL and not list(tmp_path.glob("run/checkpoints/step-*"))
    printed = run_ranks(1, *arguments, log=tmp_path / "log")
    assert f"branched from {step}" in printed
    last = "checkpoints/step-00000004"
    assert weights(tmp_path / "run" / last) == weights(source / last)
    hashes = [row["batch_hash"] for row in read_metrics(source)]
    assert [row["batch_hash"] for row in read_metrics(tmp_path / "run")] == [hashes[2], *hashes[2:]]
    assert tree(source) == before
    (entry,) = json.loads((tmp_path / "run/lineage.json").read_text())
    assert (entry["kind"], entry["source"], entry["step"], entry["changed"]) == ("branch", str(step), 2, {})
    assert json.loads((tmp_path / "run" / last / "state.json").read_text())["lineage"] == [entry]


@pytest.mark.slow
def test_a_decay_phase_on_other_ranks_reads_the_same_data_and_a_second_start_resumes_it(shards, source, tmp_path) -> None:
    decay = {"max_steps": 4, "schedule": "wsd", "decay_steps": 2, "warmup_steps": 1}
    sections = {"training": decay, "checkpoint": {"every_steps": 1}, "deepspeed": "ds_configs/zero2.json"}
    recipe = make_recipe(tmp_path / "recipe.yaml", shards, tmp_path / "run", **sections)
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    step = copy / "checkpoints/step-00000002"
    arguments = ("pretrain", "--config", str(recipe), "--branch-from", str(step))
    run_ranks(2, *arguments, log=tmp_path / "log")
    found, expected = read_metrics(tmp_path / "run"), read_metrics(source)[2:]
    assert [row["batch_hash"] for row in found] == [row["batch_hash"] for row in expected]
    assert [row["lr"] for row in found] == pytest.approx([1e-3, 1e-3 * (1 - 0.5**0.5)])
    shutil.rmtree(copy)  # the source is not needed any more, and a requeued job gives the option again
    longer = make_recipe(tmp_path / "recipe.yaml", shards, tmp_path / "run", **sections | {"training": decay | {"max_steps": 6}})
    printed = run_ranks(1, *arguments[:2], str(longer), *arguments[3:], log=tmp_path / "log2")
    assert "resumed from step-00000004" in printed
    events = [row["event"] for row in read_jsonl(tmp_path / "run/ledger.jsonl")]
    assert (events.count("branch"), events.count("resume")) == (1, 1)
    (entry,) = json.loads((tmp_path / "run/lineage.json").read_text())
    assert entry["changed"] == {
        "training.decay_steps": [0, 2], "training.schedule": ["constant", "wsd"], "training.warmup_steps": [2, 1],
    }  # fmt: skip


def test_one_stable_run_gives_several_decays(shards, source, tmp_path) -> None:
    step, ends = source / "checkpoints/step-00000002", {}
    for decay in (1, 2):
        sections = {
            "training": {"schedule": "wsd", "decay_steps": decay, "max_steps": 2 + decay},
            "checkpoint": {"every_steps": 2},
        }
        recipe = make_recipe(tmp_path / f"{decay}.yaml", shards, tmp_path / f"decay-{decay}", **sections)
        run_ranks(1, "pretrain", "--config", str(recipe), "--branch-from", str(step), log=tmp_path / "log")
        rows = ends[decay] = read_metrics(tmp_path / f"decay-{decay}")
        assert [row["lr"] for row in rows] == pytest.approx([1e-3 * (1 - (n / decay) ** 0.5) for n in range(decay)])
    # The data goes on where the stable part has it; the first update, at the peak, is that of the stable run.
    stable = read_metrics(source)[2:]
    assert all(row["batch_hash"] == own["batch_hash"] for rows in ends.values() for row, own in zip(rows, stable, strict=False))
    assert ends[1][0]["loss"] == ends[2][0]["loss"] == stable[0]["loss"] and ends[2][1]["loss"] == stable[1]["loss"]


@pytest.mark.slow
def test_a_roll_back_before_the_first_checkpoint_of_a_branch_goes_back_to_its_start(shards, source, tmp_path) -> None:
    guard = {"max_skipped_in_row": 1, "max_rollbacks": 1}
    recipe = make_recipe(tmp_path / "recipe.yaml", shards, tmp_path / "run", **CHANGES | {"guard": guard})
    bad = ",".join(row["batch_hash"] for row in read_metrics(source)[2:])
    arguments = ("0", "nan", bad, "pretrain", "--config", str(recipe), "--branch-from", str(source / "checkpoints/step-00000002"))
    (process,) = start_ranks(1, *arguments, log=tmp_path / "log", code=DRIVER)
    assert process.wait(200) == 0, printed_by(tmp_path / "log")[-3000:]
    rows = read_metrics(tmp_path / "run")
    assert [(row["step"], bool(row["skipped"])) for row in rows] == [(3, True), (4, True), (3, False), (4, False)]
    (back,) = [row for row in read_jsonl(tmp_path / "run/ledger.jsonl") if row["event"] == "rollback"]
    assert (back["step"], back["stepped_over"]) == (2, [2, 4])
    state = json.loads((tmp_path / "run/checkpoints/step-00000004/state.json").read_text())
    assert (state["adam_step"], state["position"], state["rollbacks"]) == (4, 6 * 12, 1)


@pytest.fixture
def recipe(shards, tmp_path) -> Path:
    return make_recipe(tmp_path / "recipe.yaml", shards, tmp_path / "run", **CHANGES)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--model.hidden_size", "32", "--model.num_attention_heads", "4"],
            r"model\.hidden_size is 32, and 16 in .*; a branch keeps it",
        ),
        (["--training.global_batch_size", "24"], r"training\.global_batch_size is 24, and 12 in .*; a branch keeps it"),
        (["--training.batch_size_warmup", "[[6, 1]]"], r"training\.batch_size_warmup is \[\[6, 1\]\], and \[\] in"),
        (["--training.max_steps", "2"], r"training\.max_steps is 2, and .*step-00000002 is at step 2 already"),
        (["--training.ema_decay", "0.9"], r"training\.ema_decay is 0\.9, but .* holds no average"),
        (["--training.optimizer", "lion"], r"training\.optimizer is lion, and adamw in .*; a branch keeps it"),
        (
            ["--training.schedule", "wsd", "--training.decay_steps", "3", "--training.warmup_steps", "1"],
            r"decay_steps is 3, but only 2 steps are left from step 2 of .* Raise max_steps by 1, or set decay_steps to 2 or less",
        ),
    ],
)
def test_what_a_branch_must_keep_is_refused_with_both_values(source, recipe, options, words) -> None:
    with pytest.raises(ConfigError, match=words) as e:
        planned(recipe, source / "checkpoints/step-00000002", *options)
    assert "\n" not in str(e.value)


def test_what_a_branch_may_change_is_recorded(source, recipe, shards, tmp_path) -> None:
    other = make_shards(tmp_path / "other", {"wikipedia": (20, 3), "web": (9, 1)}, seed=1)
    options = (
        "--training.lr",
        "0.5",
        "--training.seed",
        "8",
        "--training.mask_probability",
        "0.3",
        "--data.packing",
        "documents",
    )
    (entry,) = planned(recipe, source / "checkpoints/step-00000002", *options, "--data.shards", str(other)).lineage
    assert entry["changed"] == {
        "training.lr": [1e-3, 0.5], "training.seed": [7, 8], "training.mask_probability": [0.15, 0.3],
        "data.packing": ["concat", "documents"], "data.repeats.cc100": [1, None], "data.repeats.web": [None, 1],
        "data.shards": [open_shards(shards).index.fingerprint, open_shards(other).index.fingerprint],
    }  # fmt: skip


def test_a_run_without_phases_branches_into_phases_that_keep_what_has_been_and_change_what_comes(source, recipe) -> None:
    step = source / "checkpoints/step-00000002"

    def phases(first: str, second: str) -> tuple[str, str]:
        return "--phases", f"[{{steps: 2{first}}}, {{steps: 2{second}}}]"

    (entry,) = planned(recipe, step, *phases("", ", global_batch_size: 6, mask_probability: 0.3")).lineage
    assert list(entry["changed"]) == ["phases"] and "changed: phases None -> 2 phases" in describe_entry(entry)
    with pytest.raises(
        ConfigError, match=r"phases: phase 1, which has begun: global_batch_size 12 -> 6 in .*; a branch keeps it"
    ):
        planned(recipe, step, *phases(", global_batch_size: 6", ""))


def test_a_branch_of_a_phased_run_that_has_rolled_back_skips_what_the_run_skips(shards, tmp_path) -> None:
    phases: list = [{"steps": 2}, {"steps": 2, "global_batch_size": 6, "weights": {"wikipedia": 0.5, "cc100": 0.5}}]
    first = make_recipe(tmp_path / "first.yaml", shards, tmp_path / "first", **CHANGES, phases=phases)
    run_ranks(1, "pretrain", "--config", str(first), log=tmp_path / "first-log")
    skipped = ((1, 12, 24), (2, 0, 6))  # it had read them before it went back to step 2
    step = Path(shutil.copytree(tmp_path / "first/checkpoints/step-00000002", tmp_path / "step-00000002"))
    change_state(step, skipped_samples=skipped, rollbacks=1)
    longer = [phases[0], phases[1] | {"lr": 0.0005}, {"steps": 2, "mask_probability": 0.3}]
    sections = CHANGES | {"training": CHANGES["training"] | {"max_steps": 6}, "phases": longer}
    recipe = make_recipe(tmp_path / "recipe.yaml", shards, tmp_path / "run", **sections)
    run_ranks(1, "pretrain", "--config", str(recipe), "--branch-from", str(step), log=tmp_path / "log")
    order = open_run_data(load_recipe(recipe)).order
    assert isinstance(order, PhasedOrder)
    expected = [order.skipping(skipped).step(number) for number in range(2, 6)]
    hashes = [xxhash.xxh64(np.stack(batch, axis=1).astype("<i8").tobytes()).hexdigest() for batch in expected]
    assert [row["batch_hash"] for row in read_metrics(tmp_path / "run")] == hashes
    assert hashes[0] != read_metrics(tmp_path / "first")[2]["batch_hash"]
    state = json.loads((tmp_path / "run/checkpoints/step-00000006/state.json").read_text())
    assert (state["skipped_samples"], state["rollbacks"]) == ([list(part) for part in skipped], 1)
    other = ("--run.dir", str(tmp_path / "third"), "--phases", "[{steps: 2}, {steps: 4, weights: {wikipedia: 1.0}}]")
    with pytest.raises(ConfigError, match="phases: phase 2, which has begun: mixed"):
        planned(recipe, step, *other)


def test_phases_are_not_taken_out_of_a_run_that_skips_samples_of_theirs(source, shards, recipe, tmp_path) -> None:
    phased = "--phases", "[{steps: 4}]"
    step = Path(shutil.copytree(source / "checkpoints/step-00000002", tmp_path / "run/checkpoints/step-00000002"))
    change_state(step, skipped_samples=[[1, 12, 24]], rollbacks=1)
    elsewhere = "--run.dir", str(tmp_path / "branch")
    with pytest.raises(ConfigError, match="has rolled back while its recipe had phases or weights, which are gone now"):
        planned(recipe, step, *elsewhere)
    with pytest.raises(CheckpointError, match="which are gone now"):
        pretrain(load_recipe(recipe), dry_run=True)
    assert planned(recipe, step, *elsewhere, *phased).branch == step
    pretrain(load_recipe(recipe, phased), dry_run=True)


def change_state(step: Path, **changes: object) -> None:
    """Changes a checkpoint's state.json as if the run had written it so."""
    state = json.loads((step / "state.json").read_text()) | changes
    (step / "state.json").write_text(json.dumps(state))
    files = {p.name: (p.stat().st_size, file_sha256(p)) for p in step.iterdir() if p.name != "manifest.json"}
    (step / "manifest.json").write_bytes(manifest_bytes(state["step"], files))


def test_no_directory_is_gone_over_and_a_source_that_is_none_is_refused(source, recipe, tmp_path) -> None:
    step = source / "checkpoints/step-00000002"
    cases: list[tuple[Path, Path, str]] = []
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained/metrics.jsonl").touch()
    cases.append((step, tmp_path / "trained", "trained: holds another run, which --branch-from would go over"))
    cases.append((step, source, "holds another run"))
    cases.append((tmp_path / "nothing", tmp_path / "run", "no such directory. Name a checkpoint, or a run"))
    (tmp_path / "weights").mkdir()
    cases.append((tmp_path / "weights", tmp_path / "run", "a branch needs the optimizer's state. Start from mere weights"))
    damaged = Path(shutil.copytree(step, tmp_path / "damaged/step-00000002"))
    (damaged / "state.json").write_text("{}")
    cases.append((damaged, tmp_path / "run", "state.json: 2 bytes, the manifest says"))
    renamed = Path(shutil.copytree(step, tmp_path / "renamed/step-00000003"))
    cases.append((renamed, tmp_path / "run", "written for step 2, the directory was renamed"))
    for given, run, words in cases:
        with pytest.raises(JadebertaError) as e:
            planned(recipe, given, "--run.dir", str(run))
        assert words in str(e.value) and "\n" not in str(e.value) and "Traceback" not in str(e.value)


def test_until_the_first_checkpoint_an_attempt_takes_the_same_step_and_refuses_another(source, recipe, tmp_path) -> None:
    run, growing = tmp_path / "run", tmp_path / "growing"
    shutil.copytree(source / "checkpoints/step-00000002", growing / "checkpoints/step-00000002")
    start = planned(recipe, growing)
    run.mkdir()
    settle_start(run, start)
    shutil.copytree(source / "checkpoints/step-00000004", growing / "checkpoints/step-00000004")  # the run trains on
    step = growing / "checkpoints/step-00000002"
    for option in (growing, step, source / "checkpoints/step-00000002", None):  # requeued, by another path, without the option
        again = planned(recipe, option)
        assert (again.branch, again.lineage) == (step, start.lineage)
        settle_start(run, again)
    with pytest.raises(ConfigError, match=r"is already a branch of .*step-00000002, and --branch-from names .*step-00000004"):
        planned(recipe, growing / "checkpoints/step-00000004")
    manifest = step / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    with pytest.raises(CheckpointError, match=r"is not what it was when the run in .* \(there .*, now .*\), and the run has"):
        planned(recipe, growing)
    shutil.rmtree(step)
    with pytest.raises(CheckpointError, match="no such directory"):
        planned(recipe, None)
    (run / "lineage.json").write_text('[{"kind": "branch"}]')
    with pytest.raises(
        CheckpointError, match=r"lineage\.json: damaged, not the lineage of a run \(an entry of kind branch lacks source"
    ):
        planned(recipe, None)


def test_two_jobs_that_start_one_directory_differently_do_not_mix(source, recipe, tmp_path) -> None:
    (tmp_path / "run").mkdir()
    ours = planned(recipe, source / "checkpoints/step-00000002")
    settle_start(tmp_path / "run", planned(recipe, source / "checkpoints/step-00000004", "--training.max_steps", "6"))
    with pytest.raises(CheckpointError, match=r"another job has started this run from .*step-00000004 meanwhile"):
        settle_start(tmp_path / "run", ours)


def test_weights_of_a_run_are_the_masters_of_its_newest_checkpoint_and_its_lineage_goes_on(source, shards, tmp_path) -> None:
    growing = tmp_path / "growing"
    shutil.copytree(source / "checkpoints/step-00000002", growing / "checkpoints/step-00000002")
    recipe = started(tmp_path, shards, growing)
    start = planned(recipe, None)
    step = growing / "checkpoints/step-00000002"
    assert all(torch.equal(start.weights[name], tensor) for name, tensor in consolidate_weights(step).items())
    (entry,) = start.lineage
    assert (entry["source"], entry["form"], entry["step"]) == (str(step), "checkpoint", 2)
    (tmp_path / "run").mkdir()
    settle_start(tmp_path / "run", start)
    shutil.copytree(source / "checkpoints/step-00000004", growing / "checkpoints/step-00000004")
    assert planned(recipe, None).lineage == start.lineage  # the run has trained on meanwhile
    # A branch of a run that has started so has the whole lineage; here its checkpoint is that of a run with one.
    other = tmp_path / "branched/checkpoints/step-00000002"
    shutil.copytree(step, other)
    change_state(other, lineage=[entry])
    branched = make_recipe(tmp_path / "branch.yaml", shards, tmp_path / "branch", **CHANGES)
    assert [e["kind"] for e in planned(branched, other).lineage] == ["init", "branch"]
    assert [e["kind"] for e in planned(started(tmp_path, shards, other, run={"dir": str(tmp_path / "third")}), None).lineage] == [
        "init", "init",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"model\.init_from .* and --branch-from .* contradict each other"):
        planned(started(tmp_path, shards, other, run={"dir": str(tmp_path / "third")}), step)
