"""The z-loss adds its gradient to that of the cross-entropy and leaves the reported loss as it is."""

import pytest
import torch
import torch.nn.functional as F

from jadeberta.data.masking import IGNORED
from jadeberta.model.loss import masked_loss

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = (3 * torch.randn(7, 11, generator=GENERATOR, dtype=torch.float64) + 2).requires_grad_()
LABELS = torch.randint(11, (7,), generator=GENERATOR)


def gradient(loss: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, LOGITS)[0]


def test_the_value_is_the_cross_entropy_and_the_gradient_that_of_both_terms() -> None:
    plain = F.cross_entropy(LOGITS, LABELS, reduction="sum")
    of_plain = gradient(plain)
    for weight in (1e-4, 0.5):
        found = masked_loss(LOGITS, LABELS, weight)
        assert found.item() == plain.item()
        # By hand: d(log Z)^2 / dx = 2 log Z softmax(x).
        log_z = torch.log(torch.exp(LOGITS).sum(-1, keepdim=True))
        expected = of_plain + weight * 2 * (log_z * LOGITS.softmax(-1)).detach()
        torch.testing.assert_close(gradient(found), expected, rtol=1e-12, atol=1e-14)


def test_without_a_weight_it_is_the_cross_entropy_bit_for_bit() -> None:
    plain, found = F.cross_entropy(LOGITS, LABELS, reduction="sum"), masked_loss(LOGITS, LABELS)
    assert found.equal(plain) and gradient(found).equal(gradient(plain))


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_what_fills_the_list_of_masked_tokens_up_adds_nothing(weight) -> None:
    filled = torch.cat([LABELS, torch.full((3,), IGNORED)])
    longer = torch.cat([LOGITS, LOGITS[:3] + 1])
    expected, found = masked_loss(LOGITS, LABELS, weight), masked_loss(longer, filled, weight)
    assert found.item() == pytest.approx(expected.item(), rel=1e-14)
    torch.testing.assert_close(gradient(found), gradient(expected), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("weight", [0.0, 1e-4])
def test_no_masked_token_is_no_loss_and_no_gradient(weight) -> None:
    logits = torch.zeros(0, 11, requires_grad=True)
    loss = masked_loss(logits, torch.zeros(0, dtype=torch.int64), weight)
    loss.backward()
    assert loss.item() == 0.0 and logits.grad.shape == (0, 11)
