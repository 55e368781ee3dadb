"""Tiny encoders of several kinds with a WordPiece tokenizer of their own, as AutoModelForMaskedLM loads them."""

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PIECES = ("犬", "猫", "が", "いる", "。", "##いる", "abc", "##d", "公", "##園", "に", "は", "広", "##い", "a", "b", "##b", "##c")
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def write_tokenizer(directory: Path) -> None:
    """A WordPiece tokenizer that makes letters small and sets Japanese characters apart."""
    vocabulary = {piece: number for number, piece in enumerate((*SPECIAL, *PIECES))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    fast.save_pretrained(directory)


def write_model(directory: Path, kind: str, positions: int = 64) -> Path:
    """A model with random weights; `kind` is a model type of transformers."""
    torch.manual_seed(1)
    size = len(SPECIAL) + len(PIECES)
    common = SIZES | {"vocab_size": size, "pad_token_id": 0, "max_position_embeddings": positions}
    config = transformers.AutoConfig.for_model(kind, **common)
    transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(directory)
    write_tokenizer(directory)
    return directory
