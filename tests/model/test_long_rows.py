"""Long rows: attention in blocks of queries is the same function, and its memory grows with the row, not with its square."""

import copy
from collections.abc import Iterator

import pytest
import torch
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from bench.row_memory import bytes_at_once
from jadeberta.model.attention import blocks
from jadeberta.model.attention.dispatch import attend, attention_form, takes_blocks
from jadeberta.model.attention.dropout import DropoutMask, dropped_weights, rng_keys_of
from jadeberta.model.attention.relative_positions import distance_buckets
from tests.model.test_attention import TERMS, assert_gives_the_formula, gradients, make_inputs
from tests.model.test_compiled import assert_same, step
from tests.model.test_compiled import make_inputs as make_inputs_of_a_step
from tests.model.test_parity import assert_same_training, make_batch, make_pair

TINY = {"num_hidden_layers": 1, "num_attention_heads": 2, "attention_head_size": 8, "hidden_size": 16, "intermediate_size": 16}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Blocks are small operators: threads that wait for a core which another test uses take ten times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_blocks(monkeypatch) -> Iterator[None]:
    """Blocks of 16 queries, for rows of more than 8 tokens."""
    monkeypatch.setattr(blocks, "LONG_ROW", 8)
    monkeypatch.setattr(blocks, "BLOCK_SCORES", 16)
    yield


@pytest.mark.parametrize("terms", TERMS, ids="+".join)
@pytest.mark.parametrize(("length", "dropout", "documents"), [(16, 0.0, False), (33, 0.3, True), (80, 0.1, False)])
def test_blocks_give_the_formula_and_its_gradients_under_the_same_mask(length, dropout, terms, documents, small_blocks) -> None:
    assert_gives_the_formula(make_inputs(length, terms, documents), dropout)


def together(monkeypatch, heads: int) -> None:
    """Computes all heads of a row at once, as on a GPU; there is none here."""
    monkeypatch.setattr(blocks, "groups", lambda inputs: ((b, slice(0, heads)) for b in range(len(inputs.qkv))))


def test_heads_that_are_computed_together_give_what_each_gives_alone(small_blocks, monkeypatch) -> None:
    inputs = make_inputs(50, ("c2p", "p2c"), documents=True)
    alone = attend(**inputs, seed=torch.tensor(7), dropout=0.2)
    expected = gradients(alone, inputs)
    together(monkeypatch, inputs["qkv"].shape[3])
    at_once = attend(**inputs, seed=torch.tensor(7), dropout=0.2)
    torch.testing.assert_close(at_once, alone, rtol=1e-12, atol=1e-12)
    for ours, other in zip(gradients(at_once, inputs), expected, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", [0, 5, 2**62 - 1, -3])
def test_blocks_drop_the_weights_that_whole_rows_drop(seed) -> None:
    keys = rng_keys_of(torch.tensor(seed), torch.arange(2, 5))
    dropped = dropped_weights(*keys, torch.arange(20, 31), 33, 0.25)
    whole = DropoutMask(33, 0.25, torch.float32, torch.device("cpu"))
    for number, head in enumerate(range(2, 5)):
        assert torch.equal(dropped[number], whole.make(seed, head)[20:31] == 0)


def test_the_published_row_and_all_others_that_are_short_keep_their_path() -> None:
    assert not any(takes_blocks(length, 6, torch.bfloat16, gpu) for length in (128, 512, 1024) for gpu in (False, True))
    assert not takes_blocks(512, 300, torch.float64, on_gpu=False)
    assert [attention_form("sdpa", "cpu", length) for length in (1024, 1025)] == ["one head at a time", "blocks of queries"]
    assert takes_blocks(1025, 6, torch.float32, on_gpu=False) and takes_blocks(512, 17, torch.bfloat16, on_gpu=True)


@pytest.mark.parametrize(("length", "relative"), [(1024, -1), pytest.param(2048, 512, marks=pytest.mark.long)])
def test_long_rows_have_hugging_faces_loss_and_gradients(length, relative, monkeypatch) -> None:
    """Also where distances reach beyond max_relative_positions; the row is padded, and computed in blocks also at 1,024."""
    monkeypatch.setattr(blocks, "LONG_ROW", 512)
    changes = {**TINY, "max_position_embeddings": length, "max_relative_positions": relative, "position_buckets": 256}
    ids, mask, labels = make_batch(length, length // 3)
    assert_same_training(*make_pair(**changes), (ids[1:], mask[1:], labels[1:]), 2e-5)


@pytest.mark.parametrize(
    ("length", "buckets", "relative", "in_blocks"),
    [
        (1024, 32, -1, False),
        (1024, 32, -1, True),
        (1030, 64, 100, True),
        (1030, 7, -1, True),
        (1030, 512, -1, True),
        (1030, -1, 64, True),
    ],
)
def test_rows_of_1024_and_more_are_hugging_faces_with_any_number_of_buckets(
    length, buckets, relative, in_blocks, monkeypatch
) -> None:
    """In blocks of queries of which the last is shorter, and as whole rows."""
    monkeypatch.setattr(blocks, "LONG_ROW", 512 if in_blocks else 2048)
    monkeypatch.setattr(blocks, "BLOCK_SCORES", 200 * 1024)
    assert length % blocks.block_size(length)
    changes = {**TINY, "max_position_embeddings": length, "max_relative_positions": relative, "position_buckets": buckets}
    ids, mask, labels = make_batch(length, length // 3)
    assert_same_training(*make_pair(**changes), (ids[1:], mask[1:], labels[1:]), 2e-5)


@pytest.mark.parametrize("farthest", [512, pytest.param(8192, marks=pytest.mark.long)])
def test_rows_of_8192_have_the_formulas_context_and_gradients(farthest) -> None:
    """Seen from a few queries: the formula needs no [S, S] matrix for these, and other queries get no gradient."""
    length, span, size = 8192, 256, 8
    chosen = torch.tensor([0, 1, 127, 128, 1000, 4095, 5003, 8190, 8191])
    generator = torch.Generator().manual_seed(1)
    shapes = ((1, length, 3, 1, size), (2 * span, 1, size), (2 * span, 1, size))
    given = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    qkv, key_table, query_table = given
    documents = (torch.arange(length) > 3000).long() + (torch.arange(length) < 8190).long()
    ids = distance_buckets(length, span, span, farthest, "cpu")
    found = attend(*given, ids, 1, documents[None], torch.tensor(0), 0.0, 0.3)[0, chosen, 0]

    q, k, v = qkv[0, :, :, 0].unbind(1)
    distances = chosen[:, None] - torch.arange(length)[None, :]
    rows = torch.clamp(make_log_bucket_position(distances, span, farthest).long() + span, 0, 2 * span - 1)  # Hugging Face's
    scores = q[chosen] @ k.T + (q[chosen] @ key_table[:, 0].T).gather(1, rows) + (query_table[:, 0] @ k.T).gather(0, rows)
    scores = (0.3 * scores).masked_fill(documents[chosen, None] != documents[None, :], -torch.inf)
    expected = scores.softmax(-1) @ v
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    upstream = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    for ours, formula in zip(*(torch.autograd.grad(out, given, upstream) for out in (found, expected)), strict=True):
        torch.testing.assert_close(ours, formula, rtol=1e-9, atol=1e-10)


@pytest.mark.long
def test_rows_of_8192_have_hugging_faces_loss_and_every_gradient() -> None:
    changes = {**TINY, "num_attention_heads": 1, "hidden_size": 8, "max_position_embeddings": 8192, "position_buckets": 256}
    reference, ours = make_pair(**changes)
    ids, mask, labels = make_batch(8192, 1000)
    assert_same_training(reference, ours, (ids[1:], mask[1:], labels[1:]), 5e-5)


@pytest.mark.parametrize("length", [1024, pytest.param(2048, marks=pytest.mark.long), pytest.param(8192, marks=pytest.mark.long)])
def test_a_packed_long_row_gives_each_document_what_it_gets_alone(length, monkeypatch) -> None:
    monkeypatch.setattr(blocks, "LONG_ROW", 512)
    changes = {**TINY, "num_attention_heads": 1, "hidden_size": 8, "max_position_embeddings": 8192, "position_buckets": 256}
    _, ours = make_pair(torch.float64, **changes)
    ids, _, _ = make_batch(length)
    ends = [100, length // 2 + 7, length - 50, length]
    documents = torch.zeros(1, length, dtype=torch.int64)
    for number, (start, end) in enumerate(zip([0, *ends[:2]], ends[:3], strict=True), start=1):
        documents[0, start:end] = number
    with torch.no_grad():
        packed = ours(ids[:1], document_ids=documents).logits[0]
        for number in (1, 2, 3):
            places = documents[0] == number
            alone = ours(ids[:1, places]).logits[0]
            assert (packed[places] - alone).abs().max() < 1e-9


@pytest.mark.parametrize("heads", [1, 4])
def test_memory_of_a_long_row_grows_with_its_length_and_not_with_its_square(heads) -> None:
    peaks = {length: bytes_at_once(length, heads) for length in (2048, 4096, 8192)}
    assert peaks[4096] < 1.7 * peaks[2048] and peaks[8192] < 1.9 * peaks[4096], peaks
    assert peaks[8192] < heads * 2 * 8192 * 8192, "less than the bf16 scores of all heads alone"


def test_a_whole_row_of_scores_would_grow_with_the_square(monkeypatch) -> None:
    monkeypatch.setattr(blocks, "block_size", lambda length: length)
    assert bytes_at_once(4096, 1) > 3.5 * bytes_at_once(2048, 1)


def test_recomputed_and_compiled_steps_on_long_rows_give_the_same_numbers(small_blocks) -> None:
    """Blocks are one operator of the graph, however many there are, and a recomputed layer drops the same weights."""
    torch._dynamo.reset()
    _, ours = make_pair(num_hidden_layers=1, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    ours.train()
    inputs = make_inputs_of_a_step(40, documents=True)
    kept = copy.deepcopy(step(ours, ours, inputs))
    ours.recompute = True
    again = copy.deepcopy(step(ours, ours, inputs))
    assert again[:2] == kept[:2] and all(torch.equal(again[2][name], gradient) for name, gradient in kept[2].items())
    ours.recompute = False
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True, dynamic=False)
    assert_same(step(compiled, ours, inputs), kept, 1e-5)
