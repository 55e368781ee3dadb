"""torch.compile and recomputed activations change no result, and the compiled step is one graph without a wait for the device."""

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.steps.counted_costs import kept_bytes
from jadeberta.data.batches import fill_up, make_micro_batch, masked_capacity
from jadeberta.model.attention import relative_positions
from jadeberta.model.deberta import DebertaForMaskedLM
from jadeberta.model.recompute import recomputing_cheaply
from tests.model.test_parity import SMALL, make_batch, make_pair


def make_inputs(length: int, documents: bool) -> dict:
    ids, _, labels = make_batch(length)
    own = torch.ones_like(ids)
    own[:, length // 2 :] = 2
    batch = make_micro_batch(ids.numpy(), labels.numpy(), ids.numpy(), own.numpy() if documents else None)
    batch = fill_up(batch, masked_capacity(ids.numel(), 0.3))
    return vars(batch)


def step(run, model: DebertaForMaskedLM, inputs: dict) -> tuple[float, int, dict[str, torch.Tensor]]:
    model.zero_grad()
    torch.manual_seed(3)
    sums = run(**inputs, z_loss=0.0)
    sums.loss.backward()
    return sums.loss.item(), sums.correct.item(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def assert_same(found, expected, relative: float) -> None:
    assert found[0] == pytest.approx(expected[0], rel=relative) and found[1] == expected[1]
    floor = relative * 1e-2 * max(g.norm().item() for g in expected[2].values())
    for name, gradient in expected[2].items():
        assert (found[2][name] - gradient).norm() <= relative * gradient.norm() + floor, name


@pytest.mark.parametrize("documents", [False, True])
def test_the_compiled_step_is_one_graph_with_the_same_loss_and_gradients(documents) -> None:
    torch._dynamo.reset()
    _, ours = make_pair(num_hidden_layers=2)
    inputs = make_inputs(32, documents)
    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(ours, backend=counter, fullgraph=True, dynamic=False)
    assert_same(step(compiled, ours, inputs), copy.deepcopy(step(ours, ours, inputs)), 1e-5)
    step(compiled, ours, inputs | {"labels": inputs["labels"].roll(1)})
    assert counter.frame_count == 1, "other masked places of the same number must not be compiled again"


def test_recomputed_activations_give_the_same_bits_also_with_dropout() -> None:
    _, ours = make_pair(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    ours.train()
    inputs = make_inputs(32, False)
    kept = copy.deepcopy(step(ours, ours, inputs))
    ours.recompute = True
    again = step(ours, ours, inputs)
    assert again[:2] == kept[:2] and all(torch.equal(again[2][name], gradient) for name, gradient in kept[2].items())


def test_recomputing_keeps_a_fraction_of_the_activations() -> None:
    _, ours = make_pair(num_hidden_layers=6)
    ours.train()
    inputs = make_inputs(200, False)

    def kept() -> int:
        with kept_bytes(ours) as storages:
            ours(**inputs, z_loss=0.0)
        return sum(storages.values())

    whole = kept()
    ours.recompute = True
    assert kept() < whole / 3


def test_what_a_compiled_backward_makes_again_cheaply_is_the_same_with_dropout_and_takes_less_memory() -> None:
    _, ours = make_pair(num_hidden_layers=4, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    ours.train()
    inputs = make_inputs(64, False)
    steps, kept = [], []
    for wrap in (lambda run: run, recomputing_cheaply):
        torch._dynamo.reset()
        # The plan of what is kept is made before any code is: no C++ has to be compiled to see it.
        run = wrap(torch.compile(ours, backend="aot_eager_decomp_partition", fullgraph=True, dynamic=False))
        with kept_bytes(ours) as storages:
            steps.append(copy.deepcopy(step(run, ours, inputs)))
        kept.append(sum(storages.values()))
    assert_same(steps[1], steps[0], 1e-5)
    assert kept[1] < 0.85 * kept[0]


def test_a_micro_step_never_asks_the_device_for_a_number() -> None:
    """Tensors without content cannot answer: whatever needs a value of theirs raises."""
    relative_positions._distance_buckets.cache_clear()
    sizes = (32, SMALL["position_buckets"], SMALL["position_buckets"], SMALL["max_position_embeddings"])
    relative_positions.distance_buckets(*sizes, "cpu"), relative_positions.largest_bucket(*sizes)
    _, ours = make_pair(num_hidden_layers=2, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    inputs = make_inputs(32, True)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = {k: v if v is None else mode.from_tensor(v) for k, v in inputs.items()}
        weights = {n: mode.from_tensor(p) for n, p in ours.named_parameters()}
        sums = torch.func.functional_call(ours.train(), weights, (), fake | {"z_loss": 1e-4})
        gradients = torch.autograd.grad(sums.loss, [p for n, p in weights.items() if "encoder.layer" in n])
        assert all(g is not None for g in gradients)
        with pytest.raises(Exception, match="_local_scalar_dense"):
            sums.loss.item()


@pytest.mark.parametrize("masked", [0, 1])
def test_with_none_or_one_masked_place_the_sums_are_exact(masked) -> None:
    _, ours = make_pair()
    ids, _, _ = make_batch(31)
    labels = torch.full_like(ids, -100)
    labels.view(-1)[:masked] = 7
    batch = fill_up(make_micro_batch(ids.numpy(), labels.numpy(), ids.numpy(), None), 64)
    loss, correct, gradients = step(ours, ours, vars(batch))
    if masked:
        logits = ours(ids).logits.flatten(0, 1)
        assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits[:1], torch.tensor([7])).item(), rel=1e-6)
        assert correct == int(logits[0].argmax() == 7)
    else:
        assert (loss, correct) == (0.0, 0) and not any(g.any() for g in gradients.values())
