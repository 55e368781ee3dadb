"""An evaluation is tied by hashes to the weights, rows and tokenizer that it is of, and does not depend on the rows at once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jadeberta.config import ModelConfig
from jadeberta.data.masking import Masker
from jadeberta.errors import CheckpointError, ConfigError
from jadeberta.evaluation.identity import refuse_foreign_evaluation, refuse_other_weights, split_fingerprint
from jadeberta.evaluation.mlm import EVALUATION_SEED, evaluate_mlm, main, score_rows
from jadeberta.model import build, load
from jadeberta.shards import open as open_shards
from tests.helpers import TINY_MODEL, copy_model, make_shards

Evaluate = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("identity") / "shards", {"wiki": (4, 1), "web": (4, 1)})


@pytest.fixture(scope="module")
def model(shards: Path) -> Path:
    """An exported directory with random bf16 weights and the tokenizer of the shards."""
    directory = shards.parent / "model"
    torch.manual_seed(3)
    build(ModelConfig(**TINY_MODEL).hugging_face()).to(torch.bfloat16).save_pretrained(directory)
    (directory / "spm.model").write_bytes((shards / "tokenizer/spm.model").read_bytes())
    return directory


@pytest.fixture
def evaluate(model: Path, shards: Path, tmp_path: Path) -> Evaluate:
    def run(*options: str, checkpoint: Path = model) -> dict[str, Any]:
        output = tmp_path / "evaluation.json"
        main(["mlm", "--checkpoint", str(checkpoint), "--shards", str(shards), "--output", str(output), *options])
        return json.loads(output.read_text())

    return run


def test_the_json_names_weights_rows_tokenizer_and_seed(evaluate: Evaluate, shards: Path, model: Path) -> None:
    found, reader = evaluate(), open_shards(shards, "valid")
    assert found["weights_sha256"] == evaluate("--batch-size", "1")["weights_sha256"] and len(found["weights_sha256"]) == 64
    assert found["tokenizer_sha256"] == reader.index.tokenizer_sha256
    assert found["fingerprints"] == {"128": reader.index.fingerprint}
    assert found["split_sha256"] == split_fingerprint(reader.index, "valid") != split_fingerprint(reader.index, "train")
    assert (found["seed"], found["limit"], found["step"], found["documents_apart"]) == (EVALUATION_SEED, 0, None, False)


def test_other_weights_and_other_held_out_rows_have_other_hashes(evaluate: Evaluate, model: Path, tmp_path: Path) -> None:
    other = copy_model(model, tmp_path / "other")
    torch.manual_seed(4)
    changed = build(ModelConfig(**TINY_MODEL).hugging_face())
    changed.save_pretrained(other)
    assert evaluate(checkpoint=other)["weights_sha256"] != evaluate()["weights_sha256"]
    one, two = (open_shards(make_shards(tmp_path / str(seed), {"wiki": (4, 1)}, seed=seed), "valid").index for seed in (1, 2))
    assert split_fingerprint(one, "valid") != split_fingerprint(two, "valid")


def test_the_number_of_rows_at_once_does_not_change_the_figures(evaluate: Evaluate) -> None:
    alone = evaluate("--batch-size", "1")
    for size in ("2", "5"):
        together = evaluate("--batch-size", size)
        for corpus in ("wiki", "web"):
            one, other = alone["corpora"][corpus], together["corpora"][corpus]
            assert one["accuracy"] == other["accuracy"] and one["documents"] == other["documents"]
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)
            assert one["interval"]["loss"] == pytest.approx(other["interval"]["loss"], rel=1e-6)


def test_a_tokenizer_of_the_same_size_is_not_the_same_tokenizer(evaluate: Evaluate, model: Path, tmp_path: Path) -> None:
    other = copy_model(model, tmp_path / "other")
    (other / "spm.model").write_bytes(b"another tokenizer")
    with pytest.raises(
        ConfigError, match=r"its tokenizer \(spm\.model, sha256 .* so that the rows have other ids\. Name the shards"
    ):
        evaluate(checkpoint=other)
    (other / "spm.model").unlink()
    with pytest.raises(ConfigError, match="has no tokenizer, so that nothing says"):
        evaluate(checkpoint=other)
    (other / "tokenizer.model").write_bytes((model / "spm.model").read_bytes())  # the same file under another published name
    assert evaluate("--limit", "1", checkpoint=other)["limit"] == 1


def test_a_model_of_another_architecture_is_refused_in_one_sentence(evaluate: Evaluate, model: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"config\.json: a bert and no deberta-v2, .* Name a checkpoint or an exported directory\.$"
    ):
        evaluate(checkpoint=copy_model(model, tmp_path / "bert", model_type="bert"))


def test_documents_are_kept_apart_where_the_training_kept_them_apart(
    evaluate: Evaluate, model: Path, shards: Path, tmp_path: Path
) -> None:
    run = copy_model(model, tmp_path / "run")
    tokenizer = open_shards(shards).index.tokenizer_sha256
    results = {}
    for packing in ("concat", "documents"):
        state = {"settings": {"data.packing": packing}, "fingerprints": {"tokenizer": tokenizer}, "step": 6}
        (run / "state.json").write_text(json.dumps(state))
        results[packing] = evaluate(checkpoint=run)
    together, apart = (evaluate("--documents", how) for how in ("together", "apart"))
    assert results["documents"]["step"] == 6 and results["documents"]["documents_apart"]
    assert results["documents"]["all"] == apart["all"] != together["all"] == results["concat"]["all"]
    with pytest.raises(ConfigError, match="--attention eager: cannot keep the documents of a row apart"):
        evaluate("--attention", "eager", checkpoint=run)


def test_a_document_that_goes_on_in_the_next_row_is_one(model: Path, shards: Path) -> None:
    reader, ours = open_shards(shards, "valid"), load(model).float().eval()
    figures = evaluate_mlm(ours, reader, batch_size=2, mask_probability=0.15)
    asked = 0
    for rows in reader.corpora.values():
        chosen = np.asarray(rows)
        scored = score_rows(ours, reader, chosen, Masker(EVALUATION_SEED, 64, 0.15))
        # No row of these shards begins with [CLS], so that its first document is the last one of the row before.
        groups = {(row, number) if row == 0 or number > 1 else (row - 1, int(scored.documents[row - 1]))
                  for row, number in zip(scored.row.tolist(), scored.document.tolist(), strict=True)}  # fmt: skip
        asked += len(groups)
    assert figures["all"]["documents"] == asked == sum(figures[name]["documents"] for name in reader.corpora) > 8


def test_several_seeds_give_the_spread_and_the_first_gives_the_figures(evaluate: Evaluate) -> None:
    several, first, second = evaluate("--seeds", "2"), evaluate(), evaluate("--seed", str(EVALUATION_SEED + 1))
    assert several["all"] == first["all"] and "spread" not in first
    spread = several["spread"]["all"]["accuracy"]
    values = [first["accuracy"], second["accuracy"]]
    assert several["spread"]["seeds"] == [EVALUATION_SEED, EVALUATION_SEED + 1] and spread["values"] == values
    assert spread["mean"] == pytest.approx(np.mean(values)) and spread["deviation"] == pytest.approx(np.std(values, ddof=1))


STATE = {"step": 6, "fingerprints": {"shards": "a" * 64, "tokenizer": "b" * 64}}
OWN = {"weights_sha256": "c" * 64, "step": 6, "weights": "trained", "fingerprints": {"128": "a" * 64}}


def test_an_evaluation_of_the_checkpoint_itself_is_taken() -> None:
    refuse_foreign_evaluation(OWN, STATE, Path("step"), "trained")
    refuse_foreign_evaluation(OWN | {"step": None}, STATE, Path("step"), "trained")  # of its export
    refuse_other_weights(OWN, ["c" * 64], Path("step"), "trained")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"step": 4}, "the evaluation is of step 4, step of step 6"),
        ({"weights": "ema"}, "of the ema weights, the export of the trained ones"),
        ({"fingerprints": {"128": "d" * 64}}, "on rows of other shards"),
        ({"fingerprints": "a" * 64}, "on rows of other shards"),
        ({"weights_sha256": "d" * 64}, "of other weights"),
        ({"weights_sha256": None}, "of other weights"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_evaluation_of_something_else_is_refused_with_the_command_that_makes_it(changes: dict, reason: str) -> None:
    with pytest.raises(
        CheckpointError, match=f"{reason}.* with 'jadeberta evaluate mlm --checkpoint step --weights trained --output'"
    ):
        refuse_foreign_evaluation(OWN | changes, STATE, Path("step"), "trained")
        refuse_other_weights(OWN | changes, ["c" * 64], Path("step"), "trained")


@pytest.mark.parametrize("key", ["weights_sha256", "fingerprints"])
def test_an_evaluation_without_hashes_is_refused(key: str) -> None:
    old = {name: value for name, value in OWN.items() if name != key}
    with pytest.raises(CheckpointError, match=f"no {key}: an older version made it"):
        refuse_foreign_evaluation(old, STATE, Path("step"), "trained")
