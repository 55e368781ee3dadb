"""Fine-tuning takes the fast attention for a DeBERTa V2: transformers' losses without dropout, and no mixture of the two in one table."""

import json

import orjson
import pytest
from transformers import BertConfig, DebertaV2Config

from jadeberta.errors import ConfigError
from jadeberta.finetune.cli import _attention, main
from tests.finetune import toy_model as toy

HURRIES = ["--setting", "1e-3,1", "--batch-size", "16", "--max-length", "32", "--task", "jnli"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toy.write_task(tmp_path_factory.mktemp("jglue"), "jnli", train=40, valid=9)


def test_the_fast_attention_gives_eagers_losses_and_their_points_are_not_mixed(model, data, tmp_path) -> None:
    def losses(out: str, *options: str) -> list[float]:
        assert main([*HURRIES, "--model", str(model), "--data", str(data), "--out", str(tmp_path / out), *options]) == 0
        results = json.loads((tmp_path / out / "results.json").read_text())
        assert results["conduct"]["attention"] == ("eager" if options else "sdpa")
        return [point["loss"] for point in results["points"]]

    assert losses("fast") == pytest.approx(losses("slow", "--attention", "eager"), rel=1e-5)
    point = next((tmp_path / "slow/points").glob("*.json"))
    row = orjson.loads(point.read_bytes())
    del row["identity"]["conduct"]["attention"]  # as older versions left it
    point.write_bytes(orjson.dumps(row))
    with pytest.raises(
        ConfigError, match=r"conduct.attention eager, this is sdpa\. Give --attention eager, or name another --out"
    ):
        losses("slow")
    assert losses("slow", "--attention", "eager")


def test_the_attention_is_for_a_deberta_v2_and_other_models_keep_theirs() -> None:
    deberta, bert = DebertaV2Config(), BertConfig()
    assert [_attention(given, deberta) for given in (None, "sdpa", "eager")] == ["sdpa", "sdpa", "eager"]
    assert [_attention(given, bert) for given in (None, "eager")] == ["eager", "eager"]
    with pytest.raises(ConfigError, match="--attention sdpa is for DeBERTa V2, and the model is a bert"):
        _attention("sdpa", bert)
    with pytest.raises(ConfigError, match="'fused' needs"):
        _attention("fused", deberta)
