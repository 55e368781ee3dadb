"""Disentangled attention as its paper writes it, in fp64 with every tensor in full: what the kernels are held against on a GPU."""

import torch

from jadeberta.model.attention.dropout import KeepMask
from jadeberta.model.attention.triton.arguments import Call


def formula(call: Call, upstream: torch.Tensor) -> dict[str, torch.Tensor]:
    """Context [B, S, H, D] and the gradients of qkv and both tables for `upstream` [B, S, H, D]; dropout is KeepMask's."""
    batch, length, heads, _ = call.shape
    inputs = {
        name: tensor.detach().double().requires_grad_()
        for name in ("qkv", "position_keys", "position_queries")
        if (tensor := getattr(call, name)) is not None
    }
    q, k, v = inputs["qkv"].permute(2, 0, 3, 1, 4)  # [B, H, S, D] each
    places = torch.arange(length, device=q.device)
    slots = call.slots[places[:, None] - places[None, :] + length - 1].expand(batch, heads, length, length)
    scores = q @ k.mT
    if "position_keys" in inputs:
        scores = scores + (q @ inputs["position_keys"].permute(1, 2, 0)).gather(-1, slots)
    if "position_queries" in inputs:
        scores = scores + (k @ inputs["position_queries"].permute(1, 2, 0)).gather(-1, slots.mT).mT
    scores = scores * call.scale
    if call.documents is not None:
        apart = call.documents[:, None, :, None] != call.documents[:, None, None, :]
        scores = scores.masked_fill(apart, float("-inf"))
    weights = torch.softmax(scores, -1)
    if call.dropout > 0:
        weights = weights * kept(call) / (1 - call.dropout)
    out = (weights @ v).transpose(1, 2)
    gradients = torch.autograd.grad(out, list(inputs.values()), upstream.double())
    return {"out": out.detach(), **dict(zip(inputs, gradients, strict=True))}


def kept(call: Call) -> torch.Tensor:
    """The weights that dropout keeps, ones and zeros, fp64 [B, H, S, S]."""
    batch, length, heads, _ = call.shape
    mask = KeepMask(length, call.dropout, torch.float64, call.qkv.device)
    seed = int(call.seed)
    every = [mask.make(seed, head).clone() for head in range(batch * heads)]
    return (torch.stack(every) != 0).double().view(batch, heads, length, length)
