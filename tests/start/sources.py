"""A small model as others publish theirs."""

from pathlib import Path

import torch
from transformers import DebertaV2Config, DebertaV2ForMaskedLM

from tests.helpers import TINY_MODEL

SOURCE = TINY_MODEL | {
    "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True, "norm_rel_ebd": "layer_norm",
    "position_biased_input": False, "conv_kernel_size": 3, "conv_act": "gelu", "max_position_embeddings": 128,
}  # fmt: skip


def publish(directory: Path, **changes: object) -> Path:
    """Writes a model with random weights, biases too, so that a lost one would show."""
    torch.manual_seed(3)
    model = DebertaV2ForMaskedLM(DebertaV2Config(**SOURCE | changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(directory)
    return directory
