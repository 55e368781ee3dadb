"""torch.compile takes the fast model."""

import pytest
import torch

from tests.model.drop_in.conftest import make_batch, make_pair


@pytest.mark.long
@pytest.mark.parametrize("attention_dropout", [0.0, 0.2])
def test_a_compiled_model_gives_the_same_loss_and_gradients_at_every_length(attention_dropout) -> None:
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
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*results, strict=True)) or attention_dropout
        assert all(tensor.isfinite().all() for tensor in results[1])
