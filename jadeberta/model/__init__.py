"""DeBERTa V2 with a choice of attention; loads and saves Hugging Face's format."""

from jadeberta.model.deberta import ATTENTION_BACKENDS, DebertaForMaskedLM
from jadeberta.model.load import build, load

__all__ = ["ATTENTION_BACKENDS", "DebertaForMaskedLM", "build", "load"]
