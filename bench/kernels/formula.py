"""Disentangled attention as its paper writes it, in fp64 with every tensor in full: what the kernels are held against on a GPU."""

import torch

from jadeberta.model.attention.dropout import DropoutMask
from jadeberta.model.attention.triton.arguments import KernelArguments


def formula(args: KernelArguments, upstream: torch.Tensor) -> dict[str, torch.Tensor]:
    """Context [B, S, H, D] and the gradients of qkv and both tables for `upstream` [B, S, H, D]; dropout is DropoutMask's."""
    batch, length, heads, _ = args.shape
    inputs = {
        name: tensor.detach().double().requires_grad_()
        for name in ("qkv", "position_keys", "position_queries")
        if (tensor := getattr(args, name)) is not None
    }
    q, k, v = inputs["qkv"].permute(2, 0, 3, 1, 4)  # [B, H, S, D] each
    places = torch.arange(length, device=q.device)
    bucket_ids = args.bucket_ids[places[:, None] - places[None, :] + length - 1].expand(batch, heads, length, length)
    scores = q @ k.mT
    if "position_keys" in inputs:
        scores = scores + (q @ inputs["position_keys"].permute(1, 2, 0)).gather(-1, bucket_ids)
    if "position_queries" in inputs:
        scores = scores + (k @ inputs["position_queries"].permute(1, 2, 0)).gather(-1, bucket_ids.mT).mT
    scores = scores * args.scale
    if args.document_ids is not None:
        apart = args.document_ids[:, None, :, None] != args.document_ids[:, None, None, :]
        scores = scores.masked_fill(apart, float("-inf"))
    weights = torch.softmax(scores, -1)
    if args.dropout > 0:
        weights = weights * kept(args) / (1 - args.dropout)
    out = (weights @ v).transpose(1, 2)
    gradients = torch.autograd.grad(out, list(inputs.values()), upstream.double())
    return {"out": out.detach(), **dict(zip(inputs, gradients, strict=True))}


def kept(args: KernelArguments) -> torch.Tensor:
    """The weights that dropout keeps, ones and zeros, fp64 [B, H, S, S]."""
    batch, length, heads, _ = args.shape
    mask = DropoutMask(length, args.dropout, torch.float64, args.qkv.device)
    seed = int(args.seed)
    every = [mask.make(seed, head).clone() for head in range(batch * heads)]
    return (torch.stack(every) != 0).double().view(batch, heads, length, length)
