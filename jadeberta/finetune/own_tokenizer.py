"""The tokenizer that a model from elsewhere brings along, and the special tokens that it puts around one text and between two.

Ids and places come from the same encoders as those of the shards; Hugging Face's AutoTokenizer says the rest.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from jadeberta.errors import CheckpointError
from jadeberta.shards.tokenizer_format import FAST_FILE
from preprocess.tokenization.encoders import TokenizerFiles

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

JAPANESE_BERT = "BertJapaneseTokenizer"
LONGEST_WORD = 100
"""Characters of the longest word that BERT's WordPiece cuts; a longer one is unknown."""


@dataclass(frozen=True)
class Frame:
    """Special tokens around texts: `before` first `after`, or `before` first `between` second `after`."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    second_type: int = 0
    """Token type of the second text and of what follows it; the rest has 0."""

    @property
    def length(self) -> int:
        """Special tokens of a pair."""
        return len(self.before) + len(self.between) + len(self.after)


@dataclass(frozen=True)
class OwnTokenizer:
    """A tokenizer with its frame."""

    files: TokenizerFiles
    frame: Frame


def read_own_tokenizer(directory: Path, config: "PretrainedConfig") -> OwnTokenizer:
    """Reads the tokenizer beside a model.

    Raises:
        CheckpointError: there is none, or none that says which characters a token stands for.
    """
    try:
        if _tokenizer_class(directory) == JAPANESE_BERT:
            tokenizer: Any = _word_piece(directory)
        else:
            from transformers import AutoTokenizer  # `jadeberta.Tokenizer` does without it

            # By default transformers asks on a terminal whether to run code that lies in the directory.
            tokenizer = AutoTokenizer.from_pretrained(str(directory), trust_remote_code=False, local_files_only=True)
    except CheckpointError:
        raise
    except Exception as e:  # of any class, by the tokenizer's own code
        raise CheckpointError(
            f"{directory}: its tokenizer cannot be loaded ({type(e).__name__}: {str(e).strip()[:160]}). Download all files of the "
            "model again."
        ) from e
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"{directory}: {type(tokenizer).__name__} does not say which characters a token stands for. Put the {FAST_FILE} of a fast "
            "tokenizer there."
        )
    path = directory / FAST_FILE
    content = path.read_bytes() if path.is_file() else tokenizer.backend_tokenizer.to_str().encode()
    named = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    files = TokenizerFiles({FAST_FILE: content, "special_tokens_map.json": orjson.dumps(named)}, FAST_FILE, str(directory))
    return OwnTokenizer(files, _frame_of(tokenizer, config, directory))


def _tokenizer_class(directory: Path) -> str:
    path = directory / "tokenizer_config.json"
    document = orjson.loads(path.read_bytes()) if path.is_file() else {}
    return str(document.get("tokenizer_class")) if not (directory / FAST_FILE).is_file() else ""


def _word_piece(directory: Path) -> "PreTrainedTokenizerFast":
    """Japanese BERT's second step: words, which the segmenter has cut, become pieces of vocab.txt."""
    said = orjson.loads((directory / "tokenizer_config.json").read_bytes())
    if (kind := said.get("subword_tokenizer_type", "wordpiece")) != "wordpiece":
        raise CheckpointError(
            f"{directory}: {JAPANESE_BERT} of the kind {kind!r} is not read. Put the {FAST_FILE} of a fast tokenizer there."
        )
    # Not splitlines, which also ends a line at U+0085 or U+2028: pieces of some vocabularies.
    with open(directory / "vocab.txt", encoding="utf-8") as lines:
        vocabulary = {line.rstrip("\n"): number for number, line in enumerate(lines)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=LONGEST_WORD))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    from transformers import PreTrainedTokenizerFast

    roles = {f"{role}_token": f"[{role.upper()}]" for role in ("unk", "sep", "pad", "cls", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def _frame_of(tokenizer: Any, config: "PretrainedConfig", directory: Path) -> Frame:
    """What the tokenizer itself puts around two texts."""
    found = tokenizer("本", "本", return_token_type_ids=True)
    ids, sides = found["input_ids"], found.sequence_ids(0)
    firsts, seconds = ([n for n, side in enumerate(sides) if side == which] for which in (0, 1))
    if not firsts or not seconds or firsts[-1] > seconds[0]:
        raise CheckpointError(f"{directory}: its tokenizer does not join two texts. Name a model that reads pairs.")
    types = getattr(config, "type_vocab_size", 0) or 0
    second_type = int(found["token_type_ids"][seconds[0]])
    return Frame(
        tuple(ids[: firsts[0]]),
        tuple(ids[firsts[-1] + 1 : seconds[0]]),
        tuple(ids[seconds[-1] + 1 :]),
        # A model without so many types was not trained with them.
        second_type if second_type < types else 0,
    )
