"""What every tokenizer of this project has in common: the special tokens with their ids, and the names of its files.

`preprocess` writes tokenizers by these facts; masking, the model's configuration, checkpoints, exports and fine-tuning read them.
"""

SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
"""The first pieces of every vocabulary; a token's place here is its id."""
PAD, CLS, SEP, UNK, MASK = range(len(SPECIAL_TOKENS))

MODEL_FILE = "spm.model"
"""The sentencepiece model. The other tokenizer files are made from it."""
TOKENIZER_FILES = (MODEL_FILE, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
"""Files that AutoTokenizer reads; a checkpoint carries a copy of those that lie beside the shards."""
