"""What every tokenizer of this project has in common: special tokens known by their roles, and the names of its files.

`preprocess` writes tokenizers by these facts; masking, the model's configuration, checkpoints, exports and fine-tuning read them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
"""The first pieces of every vocabulary that `preprocess` trains by default; a token's place here is its id."""
PAD, CLS, SEP, UNK, MASK = range(len(SPECIAL_TOKENS))

MODEL_FILE = "spm.model"
"""The sentencepiece model. The other tokenizer files are made from it."""
TOKENIZER_FILES = (MODEL_FILE, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
"""Files that AutoTokenizer reads; a checkpoint carries a copy of those that lie beside the shards."""
FAST_FILE = "tokenizer.json"
MODEL_FILES = (MODEL_FILE, "spiece.model", "sentencepiece.model", "sentencepiece.bpe.model", "tokenizer.model")
"""Names that published tokenizers give a sentencepiece model."""
COMPANION_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
"""Further files of published tokenizers."""
ALL_TOKENIZER_FILES = (FAST_FILE, *MODEL_FILES, *COMPANION_FILES)
"""Every file that a checkpoint and an export may hold of a tokenizer."""


def main_file(sha256: str, files: Mapping[str, str]) -> str:
    """Name of the file that gives the ids: of a given tokenizer's files the one with this hash, else the model trained here.

    Args:
        sha256: `tokenizer_sha256` of the index.
        files: `tokenizer_files` of the index, hash by name.
    """
    return next((name for name, found in files.items() if found == sha256), MODEL_FILE)


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of a tokenizer's special tokens by role; the defaults are those of the published recipe.

    Raises:
        ValueError: one id has two roles. Only `cls` and `sep` may be the same: some tokenizers have one token for both borders.
    """

    pad: int = PAD
    """Fills rows up."""
    cls: int = CLS
    """Begins a document; bos in some tokenizers."""
    sep: int = SEP
    """Ends a document; eos in some tokenizers."""
    unk: int | None = UNK
    """Stands for text that has no piece; None where every text has pieces (byte fallback)."""
    mask: int = MASK
    """Stands for a token to predict."""
    others: tuple[int, ...] = ()
    """Further ids that never stand for text, ascending."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "others", tuple(sorted(self.others)))
        roles: dict[int, str] = {}
        named = [("pad", self.pad), ("cls", self.cls), ("sep", self.sep), ("unk", self.unk), ("mask", self.mask)]
        for role, number in [*named, *(("others", number) for number in self.others)]:
            if number is None:
                continue
            if number in roles and (roles[number], role) != ("cls", "sep"):
                raise ValueError(f"{roles[number]} and {role} are both the token {number}")
            roles.setdefault(number, role)

    @cached_property
    def ids(self) -> tuple[int, ...]:
        """Every special id once, ascending. None is ever drawn as a random token, and of them only `unk` is masked."""
        roles = (self.pad, self.cls, self.sep, self.unk, self.mask)
        return tuple(sorted({number for number in (*roles, *self.others) if number is not None}))

    def document(self) -> dict[str, Any]:
        """Returns the roles as plain values, as `index.json` has them."""
        roles = {"pad": self.pad, "cls": self.cls, "sep": self.sep, "unk": self.unk, "mask": self.mask}
        return {**roles, "others": list(self.others)}


DEFAULT_SPECIAL_TOKENS = SpecialTokens()
"""Those of the published recipe, ids 0 to 4."""
