"""Attention by its two implementations, head by head and through the memory-efficient kernel, against the plain formula in fp64."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from jadeberta.model.attention import relative_positions, sdpa
from jadeberta.model.attention.dispatch import attend
from jadeberta.model.attention.dropout import DropoutMask, rng_keys
from jadeberta.model.attention.relative_positions import (
    distance_buckets,
    largest_bucket,
    scores_by_distance,
    sum_scores_by_bucket,
)

B, H, D, SPAN, MAX_POSITIONS = 2, 3, 8, 8, 64
TERMS = [("c2p", "p2c"), ("c2p",), ("p2c",), ()]


def make_inputs(length: int, terms: tuple[str, ...], documents: bool = False) -> dict:
    g = torch.Generator().manual_seed(length)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()

    sizes = (length, SPAN, SPAN, MAX_POSITIONS)
    ids = torch.randint(0, 3, (B, length), generator=g).sort(dim=1).values if documents else None
    return {
        "qkv": draw(B, length, 3, H, D),
        "position_keys": draw(2 * SPAN, H, D) if "c2p" in terms else None,
        "position_queries": draw(2 * SPAN, H, D) if "p2c" in terms else None,
        "bucket_ids": distance_buckets(*sizes, "cpu"),
        "largest": largest_bucket(*sizes),
        "document_ids": ids,
        "scale": 1 / math.sqrt(D * (1 + len(terms))),
    }


def plain(inputs: dict, keep: torch.Tensor | None = None, dropout: float = 0.0) -> torch.Tensor:
    """The formula, term by term; `keep` is a dropout mask [B, H, S, S]."""
    q, k, v = inputs["qkv"].permute(2, 0, 3, 1, 4)
    length = q.shape[2]
    places = torch.arange(length)
    row = inputs["bucket_ids"][places[:, None] - places[None, :] + length - 1]  # [S, S]
    scores = q @ k.transpose(-1, -2)
    if inputs["position_keys"] is not None:
        scores = scores + torch.einsum("bhid,ijhd->bhij", q, inputs["position_keys"][row])
    if inputs["position_queries"] is not None:
        scores = scores + torch.einsum("bhjd,ijhd->bhij", k, inputs["position_queries"][row])
    scores = scores * inputs["scale"]
    if (ids := inputs["document_ids"]) is not None:
        scores = scores.masked_fill((ids[:, :, None] != ids[:, None, :])[:, None], -math.inf)
    weights = scores.softmax(-1)
    if keep is not None:
        weights = weights * keep / (1 - dropout)
    return (weights @ v).transpose(1, 2)


def gradients(out: torch.Tensor, inputs: dict) -> list[torch.Tensor]:
    leaves = [inputs[name] for name in ("qkv", "position_keys", "position_queries") if inputs[name] is not None]
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    return list(torch.autograd.grad((out * weights).sum(), leaves))


def masks(seed: int, length: int, dropout: float) -> torch.Tensor:
    keep = DropoutMask(length, dropout, torch.float64, torch.device("cpu"))
    return torch.stack([keep.make(seed, head).clone() for head in range(B * H)]).view(B, H, length, length) != 0


def assert_gives_the_formula(inputs: dict, dropout: float) -> None:
    """Output and gradients under the dropout masks of one seed."""
    expected = plain(inputs, masks(5, inputs["qkv"].shape[1], dropout) if dropout else None, dropout)
    found = attend(**inputs, seed=torch.tensor(5), dropout=dropout)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for ours, formula in zip(gradients(found, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(ours, formula, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("terms", TERMS, ids="+".join)
@pytest.mark.parametrize(("length", "dropout"), [(1, 0.0), (2, 0.0), (7, 0.3), (33, 0.1)])
def test_head_by_head_gives_the_formula_and_its_gradients_under_the_same_mask(length, dropout, terms, documents) -> None:
    assert_gives_the_formula(make_inputs(length, terms, documents), dropout)


@pytest.fixture
def kernels(monkeypatch) -> Iterator[list]:
    """The two kernels' sums in plain torch, in the place of the GPU's; gives what was asked of them."""
    asked: list = []

    def weights_of(q, k, bias, scale):
        scores = q @ k.transpose(-1, -2) * scale
        return (scores if bias is None else scores + bias).softmax(-1)

    def forward(q, k, v, bias, dropout, scale):
        if not torch.compiler.is_compiling():
            asked.append(bias)
        empty = q.new_empty(0)
        return weights_of(q, k, bias, scale) @ v, empty, empty.clone(), empty.clone()

    def backward(grad_out, q, k, v, bias, out, state, dropout, scale):
        weights = weights_of(q, k, bias, scale)
        grad_weights = grad_out @ v.transpose(-1, -2)
        grad_scores = weights * (grad_weights - (grad_out * out).sum(-1, keepdim=True))
        grad_q, grad_k = grad_scores @ k * scale, grad_scores.transpose(-1, -2) @ q * scale
        return grad_q, grad_k, weights.transpose(-1, -2) @ grad_out, None if bias is None else grad_scores

    monkeypatch.setattr(sdpa, "forward_kernel", forward)
    monkeypatch.setattr(sdpa, "backward_kernel", backward)
    yield asked


def efficiently(inputs: dict) -> torch.Tensor:
    names = ("qkv", "position_keys", "position_queries", "bucket_ids", "largest", "document_ids")
    return sdpa.SdpaFunction.apply(*(inputs[name] for name in names), 0.0, inputs["scale"])


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("terms", TERMS, ids="+".join)
@pytest.mark.parametrize("length", [1, 2, 33])
def test_bias_and_its_gradients_around_the_efficient_kernel_are_the_formulas(length, terms, documents, kernels) -> None:
    inputs = make_inputs(length, terms, documents)
    expected, found = plain(inputs), efficiently(inputs)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for ours, formula in zip(gradients(found, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(ours, formula, rtol=1e-11, atol=1e-11)
    assert (kernels[0] is None) == (not terms and not documents)
    if kernels[0] is not None:
        starts = [s * kernels[0].element_size() for s in kernels[0].stride()[:-1]]
        assert all(start % 16 == 0 for start in starts), "rows of the bias must start at 16 bytes"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_the_bias_that_is_made_again_is_the_first_one_to_the_last_bit(dtype, kernels, monkeypatch) -> None:
    inputs = make_inputs(33, ("c2p", "p2c"), documents=False)
    for name in ("qkv", "position_keys", "position_queries"):
        inputs[name] = inputs[name].detach().to(dtype).requires_grad_()
    again, backward = [], sdpa.backward_kernel

    def recorded(grad_out, q, k, v, bias, *rest):
        again.append(bias)
        return backward(grad_out, q, k, v, bias, *rest)

    monkeypatch.setattr(sdpa, "backward_kernel", recorded)
    efficiently(inputs).sum().backward()
    assert torch.equal(again[0], kernels[0])


def test_compiled_the_gpus_way_gives_the_same_numbers(kernels) -> None:
    inputs = make_inputs(33, ("c2p", "p2c"), documents=True)
    compiled = torch.compile(lambda: efficiently(inputs), backend="aot_eager", fullgraph=True)
    expected, found = efficiently(inputs), compiled()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for ours, uncompiled in zip(gradients(found, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(ours, uncompiled, rtol=1e-11, atol=1e-11)


def test_between_documents_the_efficient_bias_leaves_nothing(kernels) -> None:
    inputs = make_inputs(33, ("c2p", "p2c"), documents=True)
    ids = inputs["document_ids"]
    efficiently(inputs)
    weights = kernels[0].softmax(-1)
    assert (weights[(ids[:, :, None] != ids[:, None, :])[:, None].expand_as(weights)] == 0).all()


@pytest.mark.parametrize("dtype", sdpa.DTYPES, ids=str)
@pytest.mark.parametrize("length", [512, 200])
def test_the_gpu_kernels_take_what_they_are_given(dtype, length) -> None:
    """On tensors without content, by the shapes, strides and dtypes that torch has written down for its kernels."""
    with FakeTensorMode():
        shapes = ((2, length, 3, 16, 64), (512, 16, 64))
        qkv, table = (torch.empty(shape, dtype=dtype).requires_grad_() for shape in shapes)
        bucket_ids, ids = (torch.empty(shape, dtype=torch.int64) for shape in ((2 * length - 1,), (2, length)))
        out = sdpa.SdpaFunction.apply(qkv, table, table, bucket_ids, 6, ids, 0.1, 0.07)
        assert out.shape == (2, length, 16, 64) and out.dtype is dtype
        grads = torch.autograd.grad(out.sum(), [qkv, table])
        assert [g.shape for g in grads] == [qkv.shape, table.shape] and all(g.dtype is dtype for g in grads)


def test_a_gpu_goes_through_the_efficient_kernel_wherever_it_can(monkeypatch) -> None:
    taken = []
    monkeypatch.setattr(sdpa.SdpaFunction, "apply", lambda *arguments: taken.append(arguments) or arguments[0])
    with FakeTensorMode():
        for dtype, largest in ((torch.bfloat16, 6), (torch.float32, sdpa.LARGEST_BUCKET)):
            qkv, table = (torch.empty(shape, dtype=dtype, device="cuda") for shape in ((2, 32, 3, 4, 8), (16, 4, 8)))
            bucket_ids, seed = (torch.empty(shape, dtype=torch.int64, device="cuda") for shape in ((63,), ()))
            assert attend(qkv, table, table, bucket_ids, largest, None, seed, 0.1, 0.07).device.type == "cuda"
    assert len(taken) == 2


@pytest.mark.parametrize("ascending", [False, True])
@pytest.mark.parametrize("buckets", [SPAN, -1])
def test_sums_by_bucket_are_the_gradient_of_reading_by_distance(ascending, buckets) -> None:
    sizes = (21, SPAN, buckets, MAX_POSITIONS)
    bucket_ids = distance_buckets(*sizes, "cpu")
    x = torch.randn(2, 21, 2 * SPAN, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(2, 21, 21, dtype=torch.float64)
    (expected,) = torch.autograd.grad(scores_by_distance(x, bucket_ids, ascending), x, upstream)
    torch.testing.assert_close(sum_scores_by_bucket(upstream, bucket_ids, ascending, 2 * SPAN, largest_bucket(*sizes)), expected)


def test_dropout_keeps_its_share_independently_of_place_head_and_seed() -> None:
    keep = DropoutMask(512, 0.1, torch.float32, torch.device("cpu"))
    drawn = torch.stack([keep.make(seed, head).clone() != 0 for seed in (1, 2) for head in range(8)]).double()
    n = drawn[0].numel()
    deviation = math.sqrt(0.09 / n)
    assert all(abs(share - 0.9) < 4.5 * deviation for share in drawn.mean(dim=(1, 2)).tolist())
    centred = (drawn - 0.9) / 0.3
    for a in range(16):
        for b in range(a):
            assert abs((centred[a] * centred[b]).mean()) < 4.5 / math.sqrt(n), (a, b)
    for shift in (1, 2, 511):  # neighbours in a row, of which two share a number, and in a column
        for dim in (1, 2):
            pairs = centred * centred.roll(shift, dims=dim)
            assert abs(pairs.mean()) < 4.5 / math.sqrt(16 * n), (shift, dim)
    rows = drawn.mean(dim=2).flatten()
    assert rows.var().item() == pytest.approx(0.09 / 512, rel=0.1)  # as many ups and downs as independent draws have


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_same_counters_drop_the_same_weights_in_every_dtype(dtype) -> None:
    keep = DropoutMask(16, 0.25, dtype, torch.device("cpu"))
    weights = keep.apply_(torch.full((16, 16), 3.0, dtype=dtype), keep.make(9, 4))
    reference = DropoutMask(16, 0.25, torch.float32, torch.device("cpu"))
    assert torch.equal(weights == 3, reference.make(9, 4) != 0) and set(weights.flatten().tolist()) == {0.0, 3.0}
    assert len({rng_keys(seed, head) for seed in range(100) for head in range(100)}) == 10_000


def test_in_training_each_micro_batch_draws_other_masks_and_the_generator_repeats_them() -> None:
    from tests.model.test_parity import make_batch, make_pair

    ours = make_pair(attention_probs_dropout_prob=0.2)[1].train()
    ids, _, labels = make_batch(31)

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return ours(ids, labels=labels).loss.item()

    assert loss(1) == loss(1) != loss(2)


def test_bucket_ids_are_kept_as_tensors_with_values() -> None:
    relative_positions._distance_buckets.cache_clear()
    assert distance_buckets(3, SPAN, SPAN, MAX_POSITIONS, "cpu").tolist() == [6, 7, 8, 9, 10]
