"""Batches of shards with uint32 ids, special tokens of other ids and two row lengths are those of the default shards, ids renamed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from jadeberta.config import ModelConfig
from jadeberta.data.batches import StepBatch, StepDataset, iterate_steps, masked_capacity
from jadeberta.data.masking import IGNORED, Masker
from jadeberta.data.sample_order import SampleOrder
from jadeberta.evaluation.mlm import evaluate_mlm
from jadeberta.model import build
from jadeberta.shards import INDEX_NAME, ShardIndex, ShardReader, SpecialTokens, open_shards, verify, write_shard
from tests.helpers import TINY_MODEL, make_shards

VOCAB = 100_000
SPECIAL = SpecialTokens(pad=99_999, cls=70_000, sep=70_001, unk=3, mask=66_666, others=(0, 1))
RENAMED = np.arange(64, dtype=np.uint32) + 80_000
RENAMED[:5] = SPECIAL.pad, SPECIAL.cls, SPECIAL.sep, SPECIAL.unk, SPECIAL.mask
"""New id of each id of the default shards."""
LENGTHS = (128, 256)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[int, Path], Path]:
    """A default directory for each length, and one of all lengths with renamed ids."""
    root = tmp_path_factory.mktemp("wide")
    plain = {length: make_shards(root / str(length), {"web": (24, 1), "wiki": (8, 2)}, length=length) for length in LENGTHS}
    index = ShardIndex.load(plain[LENGTHS[0]] / INDEX_NAME)
    index.vocab_size, index.token_dtype, index.special_tokens = VOCAB, "uint32", SPECIAL
    for name, corpus in index.corpora.items():
        for split in ("train", "valid"):
            entries = []
            for length in LENGTHS:
                rows = open_shards(plain[length], split)  # type: ignore[arg-type]
                tokens, documents = rows.rows(np.asarray(rows.corpora[name]))
                path = root / "wide" / f"{split}-{name}-s{length}.tar"
                entries.append(write_shard(path, RENAMED[tokens], documents, len(tokens), {}, length))
                entries[-1].sequence_length = length if length != LENGTHS[0] else None
            setattr(corpus, split, entries)
    (root / "wide" / INDEX_NAME).write_bytes(index.to_json())
    (root / "wide" / "tokenizer").symlink_to(plain[LENGTHS[0]] / "tokenizer")
    return plain, root / "wide"


def dataset(reader: ShardReader, by_document: bool = True) -> StepDataset:
    order = SampleOrder.of(3, 8, reader.corpora, {"web": 1, "wiki": 2})
    masker = Masker(1, reader.index.vocab_size, 0.3, special=reader.index.special_tokens)
    return StepDataset(reader, order, masker, 4, 0, 1, by_document=by_document)


def batches(reader: ShardReader, workers: int = 0) -> list[StepBatch]:
    return list(iterate_steps(dataset(reader), 0, 6, workers, prefetch=2))


@pytest.mark.parametrize("length", LENGTHS)
def test_renamed_ids_give_the_same_places_labels_and_padding(both: tuple[dict[int, Path], Path], length: int) -> None:
    plain, wide = both
    assert verify(wide) == []
    new_ids = torch.from_numpy(RENAMED.astype(np.int64))
    for old, new in zip(batches(open_shards(plain[length])), batches(open_shards(wide, sequence_length=length)), strict=True):
        assert (old.batch_hash, old.masked_tokens, old.tokens) == (new.batch_hash, new.masked_tokens, new.tokens)
        for one, other in zip(old.micro_batches, new.micro_batches, strict=True):
            assert torch.equal(one.masked_index, other.masked_index)
            asked = one.labels != IGNORED
            assert torch.equal(other.labels != IGNORED, asked) and torch.equal(other.labels[asked], new_ids[one.labels[asked]])
            assert one.document_ids is not None and torch.equal(one.document_ids, other.document_ids)
            assert (one.attention_mask is None) == (other.attention_mask is None)
            if one.attention_mask is not None:
                assert torch.equal(one.attention_mask, other.attention_mask)
            same = other.input_ids == new_ids[one.input_ids]
            drawn = ~same.flatten()
            assert set(torch.nonzero(drawn).flatten().tolist()) <= set(one.masked_index[asked].tolist())
            assert not np.isin(other.input_ids.flatten()[drawn], SPECIAL.ids).any()
            assert other.input_ids.max() < VOCAB and (other.input_ids.flatten()[drawn] > 64).any()


def test_loader_processes_send_wide_ids_unchanged(both: tuple[dict[int, Path], Path]) -> None:
    reader = open_shards(both[1], sequence_length=256)
    for one, other in zip(batches(reader), batches(reader, workers=2), strict=True):
        for here, there in zip(one.micro_batches, other.micro_batches, strict=True):
            assert torch.equal(here.input_ids, there.input_ids) and torch.equal(here.labels, there.labels)


def test_an_excluded_row_is_padding_of_which_nothing_is_predicted(both: tuple[dict[int, Path], Path]) -> None:
    reader = open_shards(both[1], damaged="exclude", sequence_length=256)
    for file in ("train-web-s256.tar", "train-wiki-s256.tar"):
        reader.exclude_shard(file, "for the test")
    batch = batches(reader)[0]
    assert (batch.tokens, batch.masked_tokens, len(batch.excluded)) == (0, 0, 8)
    for micro_batch in batch.micro_batches:
        assert (micro_batch.input_ids == SPECIAL.pad).all()
        assert micro_batch.attention_mask is not None and not micro_batch.attention_mask.any()


def test_evaluation_masks_as_many_tokens_as_with_the_default_ids(both: tuple[dict[int, Path], Path]) -> None:
    plain, wide = both
    counts = []
    for directory, size, length in ((plain[256], 64, None), (wide, VOCAB, 256)):
        torch.manual_seed(0)
        tiny = TINY_MODEL | {"vocab_size": size, "hidden_size": 8, "attention_head_size": 4, "num_hidden_layers": 1}
        model = build(ModelConfig(**tiny).hugging_face()).eval()
        reader = open_shards(directory, "valid", sequence_length=length)
        figures = evaluate_mlm(model, reader, batch_size=4, mask_probability=0.3)
        counts.append({name: figures[name]["masked_tokens"] for name in figures})
    assert counts[0] == counts[1] and counts[0]["all"] > 200


@pytest.mark.parametrize(("length", "rows"), [(128, 1), (512, 18), (8192, 1), (8192, 4)])
def test_the_list_of_masked_places_holds_those_of_nearly_every_micro_batch_at_any_length(length: int, rows: int) -> None:
    places = length * rows
    for probability in (0.15, 0.3):
        capacity = masked_capacity(places, probability)
        drawn = np.random.default_rng(length).binomial(places, probability, 20_000)
        assert capacity <= places and capacity - places * probability < 64 + 4 * np.sqrt(places)
        assert (drawn > capacity).mean() < 2e-4


def test_the_embedding_of_every_token_but_the_pad_token_is_trained() -> None:
    size, special = 70, SpecialTokens(pad=69, cls=1, sep=2, unk=None, mask=4)
    model = build(ModelConfig(**TINY_MODEL | {"vocab_size": size}).hugging_face(special))
    config = model.config
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (69, 1, 2)
    # The output layer shares the table; the gradient that comes from the input is taken alone.
    embeddings = model.deberta.embeddings.word_embeddings
    (gradient,) = torch.autograd.grad(embeddings(torch.arange(size)).sum(), embeddings.weight)
    assert torch.nonzero(gradient.abs().sum(1) == 0).flatten().tolist() == [69]
