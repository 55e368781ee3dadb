"""DeBERTa's convolution beside the first layer, as one matrix product over shifted inputs, and stopped at document boundaries."""

import torch
import torch.nn.functional as F
from transformers.activations import ACT2FN
from transformers.models.deberta_v2.modeling_deberta_v2 import ConvLayer


class TapConvolution(torch.nn.Conv1d):
    """Conv1d's parameters over rows that lie as everything else does, [B, S, hidden_size], and by document.

    A module of its own, not a function over its weights: ZeRO-3 brings weights together only while their module runs.
    """

    def forward(self, x: torch.Tensor, documents: torch.Tensor | None) -> torch.Tensor:  # type: ignore[override]
        """A tap that reaches beyond the row, or into another document of `documents` [B, S], sees zeros."""
        width, length = self.kernel_size[0], x.shape[1]
        reach = (width - 1) // 2
        padded = F.pad(x, (0, 0, reach, reach))
        taps = [padded[:, tap : tap + length] for tap in range(width)]
        if documents is not None:
            ids = F.pad(documents, (reach, reach))
            taps = [t * (ids[:, tap : tap + length] == documents).unsqueeze(-1).to(x.dtype) for tap, t in enumerate(taps)]
        if self.groups == 1:
            weight = self.weight.permute(0, 2, 1).flatten(1)  # [out, width * in]
            return F.linear(torch.cat(taps, dim=-1), weight, self.bias)
        side_by_side = torch.stack(taps, dim=2).flatten(1, 2).transpose(1, 2)  # [B, in, S * width]
        return F.conv1d(side_by_side, self.weight, self.bias, stride=width, groups=self.groups).transpose(1, 2)


def convolve(layer: ConvLayer, embedded: torch.Tensor, residual: torch.Tensor, documents: torch.Tensor | None) -> torch.Tensor:
    """Hugging Face's ConvLayer, whose `conv` is a TapConvolution.

    Args:
        layer: with its weights.
        embedded: the encoder's input, [B, S, hidden_size].
        residual: the first layer's output, [B, S, hidden_size].
        documents: integers [B, S], 0 = padding, whose output is zero; None: each row is one document without padding.

    Returns:
        [B, S, hidden_size].
    """
    out = layer.conv(embedded, documents)
    if documents is None:
        return layer.LayerNorm(residual + ACT2FN[layer.conv_act](layer.dropout(out)))
    present = (documents != 0).unsqueeze(-1)
    out = layer.LayerNorm(residual + ACT2FN[layer.conv_act](layer.dropout(out.masked_fill(~present, 0))))
    return out * present.to(out.dtype)
