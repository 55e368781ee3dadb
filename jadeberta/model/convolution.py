"""DeBERTa's convolution beside the first layer, as one matrix product over shifted inputs that stops at document boundaries."""

import torch
import torch.nn.functional as F
from transformers.activations import ACT2FN
from transformers.models.deberta_v2.modeling_deberta_v2 import ConvLayer


class TapConvolution(torch.nn.Conv1d):
    """Conv1d's parameters on rows in the model's layout, [B, S, hidden_size], that does not mix documents.

    A module, not a function of the weights, because ZeRO-3 gathers weights only while their module runs.
    """

    def forward(self, x: torch.Tensor, document_ids: torch.Tensor | None) -> torch.Tensor:  # type: ignore[override]
        """Convolves x [B, S, in] to [B, S, out], see `convolve_taps`."""
        return convolve_taps(self, x, document_ids)


def convolve_taps(conv: torch.nn.Conv1d, x: torch.Tensor, document_ids: torch.Tensor | None) -> torch.Tensor:
    """Convolves x [B, S, in] to [B, S, out]; taps beyond the row or in another document of `document_ids` [B, S] read zeros."""
    width, length = conv.kernel_size[0], x.shape[1]
    reach = (width - 1) // 2
    padded = F.pad(x, (0, 0, reach, reach))
    taps = [padded[:, tap : tap + length] for tap in range(width)]
    if document_ids is not None:
        ids = F.pad(document_ids, (reach, reach))
        taps = [t * (ids[:, tap : tap + length] == document_ids).unsqueeze(-1).to(x.dtype) for tap, t in enumerate(taps)]
    if conv.groups == 1:
        weight = conv.weight.permute(0, 2, 1).flatten(1)  # [out, width * in]
        return F.linear(torch.cat(taps, dim=-1), weight, conv.bias)
    grouped_taps = torch.stack(taps, dim=2).flatten(1, 2).transpose(1, 2)  # [B, in, S * width]
    return F.conv1d(grouped_taps, conv.weight, conv.bias, stride=width, groups=conv.groups).transpose(1, 2)


def convolve(layer: ConvLayer, embedded: torch.Tensor, residual: torch.Tensor, document_ids: torch.Tensor | None) -> torch.Tensor:
    """Runs Hugging Face's ConvLayer, whose `conv` is a TapConvolution; returns the output, [B, S, hidden_size].

    Args:
        layer: Hugging Face's, with its weights.
        embedded: the encoder's input, [B, S, hidden_size].
        residual: the first layer's output, [B, S, hidden_size].
        document_ids: integers [B, S], 0 = padding, whose output is zero; None: each row is one document without padding.
    """
    return add_convolved(layer, layer.conv(embedded, document_ids), residual, document_ids)


def add_convolved(layer: ConvLayer, out: torch.Tensor, residual: torch.Tensor, document_ids: torch.Tensor | None) -> torch.Tensor:
    """What follows the convolution in `convolve`, of whose result `out` [B, S, hidden_size]; the other arguments are its."""
    if document_ids is None:
        return layer.LayerNorm(residual + ACT2FN[layer.conv_act](layer.dropout(out)))
    present = (document_ids != 0).unsqueeze(-1)
    out = layer.LayerNorm(residual + ACT2FN[layer.conv_act](layer.dropout(out.masked_fill(~present, 0))))
    return out * present.to(out.dtype)
