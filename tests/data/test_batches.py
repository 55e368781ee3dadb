"""Batches are the same for any number of loaders, go on past excluded rows, and no loader outlives its trainer."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jadeberta.config import ModelConfig
from jadeberta.data.batches import (
    OverlongMicroBatch,
    StepBatch,
    StepDataset,
    fill_up,
    iterate_steps,
    make_micro_batch,
    masked_capacity,
)
from jadeberta.data.masking import IGNORED, Masker
from jadeberta.data.sample_order import SampleOrder
from jadeberta.model import build
from jadeberta.shards import ShardError, ShardReader, open_shards
from tests.helpers import ROOT, TINY_MODEL, children_of, make_shards

VOCAB = TINY_MODEL["vocab_size"]
DAMAGED = (2, 7, 11)
"""Rows of cc100, which begins at row 10 of the directory."""


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    return make_shards(tmp_path / "shards", {"wikipedia": (10, 2), "cc100": (20, 1)}, length=512)


@pytest.fixture
def damaged(sound: Path) -> Path:
    """Three rows of cc100 with a flipped bit each."""
    entry = open_shards(sound).index.corpora["cc100"].train[0]
    with open(sound / entry.file, "r+b") as f:
        for row in DAMAGED:
            offset = entry.blocks[0][1] + row * 1024 + 10
            os.pwrite(f.fileno(), bytes([os.pread(f.fileno(), 1, offset)[0] ^ 1]), offset)
    return sound


def dataset(reader: ShardReader, rank: int = 0, world_size: int = 1, micro_batch_size: int = 4) -> StepDataset:
    order = SampleOrder.of(3, 8, reader.corpora, {"wikipedia": 2, "cc100": 1})
    return StepDataset(reader, order, Masker(1, VOCAB), micro_batch_size, rank, world_size, by_document=True)


def batches(reader: ShardReader, workers: int, steps: int = 10) -> list[StepBatch]:
    return list(iterate_steps(dataset(reader), 0, steps, workers, prefetch=2))


def content(batch: StepBatch) -> list:
    tensors = [t for micro_batch in batch.micro_batches for t in vars(micro_batch).values()]
    return [
        batch.batch_hash,
        batch.masked_tokens,
        batch.tokens,
        batch.excluded,
        *(t if t is None else t.tolist() for t in tensors),
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_loaders_change_no_batch_and_lose_no_record(damaged: Path, workers: int) -> None:
    expected = [content(batch) for batch in batches(open_shards(damaged, damaged="exclude"), 0)]
    assert [content(batch) for batch in batches(open_shards(damaged, damaged="exclude"), workers)] == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_row_ends_the_iteration_by_name_where_it_shall(damaged: Path, workers: int) -> None:
    with pytest.raises(ShardError, match=r"cc100-00000\.tar: row \d+, its tokens at byte \d+: it was changed"):
        batches(open_shards(damaged), workers)


def test_rows_set_aside_are_recorded_with_the_batch_that_asked_for_them_and_change_no_other(damaged: Path) -> None:
    reader = open_shards(damaged, damaged="exclude")
    order, seen = dataset(reader).order, set()
    for batch in batches(reader, 0):
        wanted = order.rows(order.step(batch.step)[1])
        lost = [int(row) - 10 for row in wanted if row - 10 in DAMAGED]
        assert [record.row for record in batch.excluded] == lost
        assert {record.file for record in batch.excluded} <= {"cc100-00000.tar"}
        seen |= set(lost)
        ids = torch.cat([micro_batch.input_ids for micro_batch in batch.micro_batches])
        labels = torch.full(ids.shape, IGNORED).flatten()
        places = torch.cat([m.masked_index + n * m.input_ids.numel() for n, m in enumerate(batch.micro_batches)])
        asked = torch.cat([m.labels for m in batch.micro_batches])
        labels[places[asked != IGNORED]] = asked[asked != IGNORED]
        for row, row_ids, row_labels in zip(wanted.tolist(), ids, labels.reshape(ids.shape), strict=True):
            if row - 10 in DAMAGED:
                assert not row_ids.any() and (row_labels == IGNORED).all()
            else:
                original = torch.where(row_labels == IGNORED, row_ids, row_labels)
                assert original.tolist() == reader[row][0].tolist()
    assert seen == set(DAMAGED)


def test_sound_shards_set_nothing_aside(sound: Path) -> None:
    assert [batch.excluded for batch in batches(open_shards(sound, damaged="exclude"), 0)] == [[]] * 10


@pytest.mark.parametrize("whole_words", [False, True])
def test_nothing_of_a_row_of_padding_is_predicted(whole_words: bool) -> None:
    padding = np.zeros((3, 512), np.uint16)
    starts = np.arange(VOCAB) % 2 == 0 if whole_words else None
    ids, labels = Masker(1, VOCAB, 0.9, starts)(padding, np.zeros(3, np.int64), np.arange(3))
    assert not ids.any() and (labels == IGNORED).all()
    batch = make_micro_batch(ids, labels, padding, padding)
    assert batch.masked_index.shape == batch.labels.shape == (0,) and batch.labels.dtype == torch.int64
    assert batch.attention_mask is not None and not batch.attention_mask.any()


@pytest.mark.parametrize(
    ("probability", "masked", "expected"), [(0.15, 0, 192), (0.15, 190, 192), (0.15, 193, 384), (1.0, 1024, 1024)]
)
def test_lists_of_masked_places_have_one_length_and_grow_only_by_doubling(probability: float, masked: int, expected: int) -> None:
    capacity = masked_capacity(1024 if probability == 1 else 900, probability)
    assert masked <= capacity or masked == 193
    rows = np.full((2, 512), 9, np.int64)
    labels = np.full(1024, IGNORED)
    labels[1024 - masked :] = 9
    exact = make_micro_batch(rows, labels.reshape(2, 512), rows, None)
    filled = fill_up(exact, capacity)
    assert filled.masked_index.shape == filled.labels.shape == (expected,)
    assert torch.equal(filled.masked_index[:masked], exact.masked_index) and torch.equal(filled.labels[:masked], exact.labels)
    assert isinstance(filled, OverlongMicroBatch) == (expected > capacity)
    assert (filled.labels[masked:] == IGNORED).all() and not filled.masked_index[masked:].any()


@pytest.mark.parametrize(("attention", "by_document"), [("eager", False), ("sdpa", False), ("sdpa", True)])
@pytest.mark.parametrize("lost", [1, 4])
def test_model_trains_on_with_rows_of_padding_as_if_they_were_not_there(
    sound: Path, attention: str, by_document: bool, lost: int
) -> None:
    tokens, documents = (part.copy() for part in open_shards(sound).rows(np.arange(4)))
    tokens[:lost], documents[:lost] = 0, 0

    def gradients(rows: slice) -> tuple[float, list[torch.Tensor]]:
        model = build(ModelConfig(**TINY_MODEL).hugging_face(), attention, seed=1).eval()
        ids, labels = Masker(1, VOCAB)(tokens[rows], np.zeros(4, np.int64)[rows], np.arange(4)[rows])
        batch = make_micro_batch(ids, labels, tokens[rows], documents[rows] if by_document else None)
        inputs = dict(vars(batch))
        loss = F.cross_entropy(model(**{k: v for k, v in inputs.items() if k != "labels"}).logits, batch.labels, reduction="sum")
        loss.backward()
        return loss.item(), [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]

    loss, found = gradients(slice(None))
    assert np.isfinite(loss) and all(torch.isfinite(grad).all() for grad in found)
    if lost == 4:
        assert loss == 0 and not any(grad.any() for grad in found)
        return
    expected_loss, expected = gradients(slice(lost, None))
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for grad, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-3, atol=1e-5)


def test_loaders_end_at_once_with_a_trainer_that_is_killed(sound: Path) -> None:
    code = (
        "import time; from pathlib import Path; from tests.data.test_batches import *\n"
        f"steps = iterate_steps(dataset(open_shards({str(sound)!r})), 0, 10**6, 2, prefetch=2)\n"
        "next(steps); print('going', flush=True); time.sleep(60)"
    )
    trainer = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert trainer.stdout is not None and trainer.stdout.readline() == "going\n"
    loaders = children_of(trainer.pid)
    assert len(loaders) >= 2
    trainer.kill()
    trainer.wait()
    time.sleep(1)  # torch's own loaders look for their parent only every five seconds
    assert [pid for pid in loaders if is_running(pid)] == []


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
