"""Draws tokens from logits with numbers that are a function of a key alone: the same on any rank, in any micro-batch, after any restart.

Gumbel's maximum (Gumbel 1954; Maddison et al. 2014): a token whose lead over the next one is more than rounding is drawn whatever the
order of additions was. The inverse of a cumulative sum would be moved by the rounding of every token before it.
"""

import torch

from jadeberta.model.attention.dropout import MULTIPLIERS, signed32

STEPS = 2.0**-23


@torch.library.custom_op("jadeberta::sample_tokens", mutates_args=())
def sample_tokens(logits: torch.Tensor, keys: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Draws one token of softmax(logits / temperature) a row, int64 [M].

    An operator of its own, which torch.compile calls and does not look into: torch's compiler for CPUs (2.13) ends with a segmentation
    fault on these lines.

    Args:
        logits: fp32 [M, vocab].
        keys: random numbers, int64 [M]; all 64 bits count.
        temperature: above 0.
    """
    with torch.no_grad():
        x = torch.arange(logits.shape[-1], dtype=torch.int32, device=logits.device) * signed32(0x9E3779B9)
        x = x + keys.to(torch.int32)[:, None]  # [M, vocab]; int64 to int32 keeps the low half
        high = (keys >> 32).to(torch.int32)[:, None]
        for key in (high, None):
            x = (x ^ _shifted(x, 16)) * signed32(MULTIPLIERS[0])
            x = (x ^ _shifted(x, 15)) * signed32(MULTIPLIERS[1])
            x = x ^ _shifted(x, 16)
            x = x if key is None else x + key
        # 23 bits and a half: neither 0 nor 1, each exact in fp32.
        uniform = (_shifted(x, 9).float() + 0.5) * STEPS
        return (logits / temperature - torch.log(-torch.log(uniform))).argmax(-1)


@sample_tokens.register_fake
def _(logits: torch.Tensor, keys: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    return keys.new_empty(keys.shape)


def _shifted(x: torch.Tensor, bits: int) -> torch.Tensor:
    """x >> bits of unsigned numbers, which torch's int32 are not."""
    return (x >> bits) & ((1 << (32 - bits)) - 1)
