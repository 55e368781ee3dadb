"""Packed rows: document numbers, integers [B, S], of which 0 is padding; tokens of equal numbers see each other."""

import torch
import torch.nn.functional as F


def positions_in_documents(document_ids: torch.Tensor) -> torch.Tensor:
    """Position of each token from the start of its document, int64 [B, S]; a document is a run of equal numbers, integers [B, S]."""
    places = torch.arange(document_ids.shape[1], device=document_ids.device)
    is_same = F.pad(document_ids[:, 1:] == document_ids[:, :-1], (1, 0), value=False)
    return places - torch.where(is_same, 0, places).cummax(dim=1).values


def mask_padding(attention_mask: torch.Tensor | None, document_ids: torch.Tensor | None) -> torch.Tensor | None:
    """Document numbers with 0 at padding, integers [B, S]; None if every row is one text without padding.

    Padding attends to padding, so no row of scores is empty; no token reads the result.
    """
    if document_ids is None:
        return None if attention_mask is None else (attention_mask != 0).long()
    return document_ids if attention_mask is None else document_ids * (attention_mask != 0).to(document_ids.dtype)
