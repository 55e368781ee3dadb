"""Tokenizers of every kind behind one interface (`encoder_base.Encoder`): sentencepiece models and Hugging Face's fast tokenizers."""

from preprocess.tokenization.encoders.encoder_base import Encoded, Encoder, Placed
from preprocess.tokenization.encoders.tokenizer_files import (
    TokenizerFiles,
    find_tokenizer,
    open_encoder,
    read_tokenizer,
)

__all__ = [
    "Encoded",
    "Encoder",
    "Placed",
    "TokenizerFiles",
    "find_tokenizer",
    "open_encoder",
    "read_tokenizer",
]
