"""torch.compile takes the fast model."""

from collections.abc import Iterator

import pytest
import torch

from tests.model.drop_in.conftest import make_batch, make_pair


def losses_and_gradients(attention_dropout: float) -> Iterator[list[list[torch.Tensor]]]:
    """Of the model as it is and compiled, at each of three lengths."""
    _, quick = make_pair("ForMaskedLM", torch.float32, attention_probs_dropout_prob=attention_dropout)
    torch.compiler.reset()
    compiled = torch.compile(quick.train(), backend="aot_eager")
    for length in (9, 12, 14):
        batch = make_batch("ForMaskedLM", length, 2, 3)
        results = []
        for model in (quick, compiled):
            quick.zero_grad()
            torch.manual_seed(1)
            loss = model(**batch).loss
            loss.backward()
            results.append([loss.detach(), *(p.grad.clone() for p in quick.parameters() if p.grad is not None)])
        yield results


@pytest.mark.long
def test_a_compiled_model_gives_the_same_loss_and_gradients_at_every_length() -> None:
    for results in losses_and_gradients(0.0):
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*results, strict=True))


@pytest.mark.long
def test_a_compiled_model_with_dropout_has_finite_gradients_that_differ_from_those_without() -> None:
    for dropped, kept in zip(losses_and_gradients(0.2), losses_and_gradients(0.0), strict=True):
        assert all(tensor.isfinite().all() for tensor in dropped[1])
        assert not torch.allclose(dropped[1][0], kept[1][0])
