"""Small heads of transformers, each beside a copy that `jadeberta.fast` changed."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from transformers import DebertaV2Config

import jadeberta

HEADS = (
    "Model",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
)
SIZES = {
    "vocab_size": 99, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "pooler_dropout": 0.0, "max_position_embeddings": 64,
    "type_vocab_size": 0, "relative_attention": True, "max_relative_positions": -1, "position_buckets": 8, "norm_rel_ebd": "layer_norm",
    "share_att_key": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "conv_kernel_size": 3, "conv_act": "gelu",
    "pad_token_id": 0, "pooler_hidden_size": 24,
}  # fmt: skip


def make_slow(head: str, dtype: torch.dtype = torch.float64, **changes: Any) -> Any:
    """A model of transformers with random weights, not only the initial ones, where biases are zero."""
    config = DebertaV2Config(**{**SIZES, **changes})
    config.num_labels = 2 if head in ("ForQuestionAnswering", "ForMultipleChoice") else 4
    torch.manual_seed(0)
    model = getattr(transformers, f"DebertaV2{head}")(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def make_pair(head: str, dtype: torch.dtype = torch.float64, **changes: Any) -> tuple[Any, Any]:
    """transformers' model, and a copy that is fast."""
    slow = make_slow(head, dtype, **changes)
    return slow, jadeberta.fast(copy.deepcopy(slow))


def make_batch(head: str, length: int, left: int = 0, right: int = 0) -> dict[str, torch.Tensor]:
    """Three rows (of two choices each) with labels; the second has padding on its left, the third on its right."""
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(1, 99, (6 if head == "ForMultipleChoice" else 3, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, :left] = 0
    mask[2, length - right :] = 0
    batch = {"input_ids": ids * mask, "attention_mask": mask}
    if head == "ForMultipleChoice":
        batch = {name: tensor.view(3, 2, length) for name, tensor in batch.items()} | {"labels": torch.tensor([0, 1, 1])}
    elif head in ("ForMaskedLM", "ForTokenClassification"):
        batch["labels"] = torch.where(mask == 1, ids % (99 if head == "ForMaskedLM" else 4), -100)
    elif head == "ForSequenceClassification":
        batch["labels"] = torch.tensor([0, 3, 2])
    elif head == "ForQuestionAnswering":
        batch |= {"start_positions": torch.tensor([0, length - 1, 0]), "end_positions": torch.tensor([length - 1, length - 1, 0])}
    return batch


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other over tiny matrices take many times longer than the matrices."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def masked_lm() -> tuple[Any, Any]:
    """fp64, with everything on; not to be changed."""
    return make_pair("ForMaskedLM")
