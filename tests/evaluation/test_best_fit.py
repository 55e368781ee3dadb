"""Rows of whole documents and padding: trained and asked document by document, counted without their padding."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jadeberta.config import ModelConfig, load_recipe
from jadeberta.data.batches import StepDataset
from jadeberta.data.masking import Masker
from jadeberta.data.sample_order import SampleOrder
from jadeberta.errors import ConfigError
from jadeberta.evaluation.mlm import EVALUATION_SEED, evaluate_mlm
from jadeberta.model import build
from jadeberta.pretrain import check_against_shards
from jadeberta.shards import INDEX_NAME, CorpusEntry, ShardIndex, ShardReader, file_sha256, open_shards, write_shard
from preprocess.tokenization.packing import EncodedDocument, best_fit
from tests.helpers import TINY_MODEL, make_recipe

LENGTHS = [500, 200, 150, 400, 90, 1300, 33, 260, 7, 410]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("shards")
    generator = np.random.default_rng(0)
    bodies = [generator.integers(5, TINY_MODEL["vocab_size"], length, dtype=np.uint16) for length in LENGTHS]
    documents = (
        EncodedDocument(np.concatenate([[np.uint16(1)], body, [np.uint16(2)]]), np.asarray([len(body)])) for body in bodies
    )
    rows = best_fit(documents, np.ones(TINY_MODEL["vocab_size"], bool))
    model = directory / "tokenizer" / "spm.model"
    model.parent.mkdir()
    model.write_bytes(b"stands for a tokenizer")
    index = ShardIndex(512, TINY_MODEL["vocab_size"], file_sha256(model), {"engine": "none"}, "none", "none", {}, "best_fit")
    index.corpora["web"] = CorpusEntry(
        1,
        *(
            [write_shard(directory / name, rows.tokens, rows.numbers, rows.documents, {})]
            for name in ("web.tar", "valid-web.tar")
        ),
    )
    (directory / INDEX_NAME).write_bytes(index.to_json())
    return directory


def test_tokens_of_a_step_are_those_that_are_not_padding(shards: Path) -> None:
    reader = open_shards(shards)
    order = SampleOrder.of(1, len(reader), reader.corpora, {"web": 1})
    dataset = StepDataset(reader, order, Masker(1, TINY_MODEL["vocab_size"]), 1, 0, 1, by_document=True)
    batch = dataset.batch(dataset[0])
    assert isinstance(reader, ShardReader) and not isinstance(batch, Exception)
    fragments = len(LENGTHS) + 2  # the one of 1,300 tokens is cut in three
    assert batch.tokens == sum(LENGTHS) + 2 * fragments < 512 * len(reader)


def test_training_on_them_as_one_text_is_refused(shards: Path, tmp_path: Path) -> None:
    for packing in ("documents", "concat"):
        make_recipe(tmp_path / f"{packing}.yaml", shards, tmp_path / "run", data={"packing": packing})
    check_against_shards(load_recipe(tmp_path / "documents.yaml"), open_shards(shards))
    with pytest.raises(
        ConfigError, match=r"data\.packing is concat, but the rows of .* best_fit\), .* Set data\.packing: documents"
    ):
        check_against_shards(load_recipe(tmp_path / "concat.yaml"), open_shards(shards))


def test_evaluation_asks_each_document_by_itself(shards: Path) -> None:
    torch.manual_seed(0)
    model = build(ModelConfig(**TINY_MODEL, conv_kernel_size=3).hugging_face()).eval()
    reader = open_shards(shards, "valid")
    figures = evaluate_mlm(model, reader, batch_size=2, mask_probability=0.3)["all"]
    tokens, numbers = reader.rows(np.arange(len(reader)))
    keys = np.arange(len(reader))
    ids, labels = Masker(EVALUATION_SEED, TINY_MODEL["vocab_size"], 0.3)(tokens, np.zeros_like(keys), keys)
    loss, asked = 0.0, 0
    for row in range(len(reader)):
        for number in range(1, int(numbers[row].max()) + 1):
            alone = numbers[row] == number
            with torch.inference_mode():
                logits = model(torch.from_numpy(ids[row][alone])[None]).logits[0]
            wanted = torch.from_numpy(labels[row][alone])
            loss += F.cross_entropy(logits, wanted, reduction="sum").item()
            asked += int((wanted >= 0).sum())
    assert figures["masked_tokens"] == asked > 500
    assert figures["loss"] == pytest.approx(loss / asked, rel=1e-5)
