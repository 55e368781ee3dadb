"""Makes a release's tokenizer take text as people type it: the normalisation of the pre-training text goes into `tokenizer.json`.

Shards and checkpoints hold the tokenizer as it was trained, for text that is normalised already. Changes the copies in a release alone,
and no piece of them: normalised text gets the ids that it had. `spm.model` stays as it is, because its hash names the tokenizer.
"""

import json
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from jadeberta.errors import CheckpointError
from jadeberta.shards.tokenizer_format import FAST_FILE, MODEL_FILE
from preprocess.text import NORMALISER, normalise

FAST_CLASS = "PreTrainedTokenizerFast"
"""The class that takes `tokenizer.json` as it is in transformers 4 and 5. Version 5 builds a DebertaV2Tokenizer from the pieces alone."""
SPACES = r"[\s\x{00}-\x{1f}\x{7f}-\x{9f}\x{180e}\x{200b}\x{2581}\x{feff}]+"
"""What `preprocess.text.normalise` makes one space, in the syntax of the library `tokenizers` (Oniguruma)."""
TYPED = (
    "Ｗｅｂ ページ",
    "１２３　４５６！",
    "ｶﾞｷﾞ ﾊﾟﾝ",
    "京都\u00a0大学\u3000で",
    "か\u3099き ハ\u309aン",
    " 先頭 と\t行 の\u200b端\r\n",
    "▁㌔ ㋿ ﷺ ½ \u2581",
    "",
)
"""Texts that are not normalised: widths, half-width kana, spaces of all kinds, marks typed apart, letters of several characters."""


def take_typed_text(directory: Path) -> None:
    """Changes `tokenizer.json` and `tokenizer_config.json` of a release so that raw text gets the ids of its normalised form.

    Args:
        directory: with the tokenizer's files; its training text was normalised by this version's normaliser.

    Raises:
        CheckpointError: a file is no JSON object.
    """
    _change(
        directory / FAST_FILE,
        lambda content: {
            "normalizer": {"type": "Sequence", "normalizers": _rules(content["pre_tokenizer"].get("prepend_scheme") == "first")}
        },
    )
    # Version 4 would take spaces away when it decodes, and add token types, which version 5 does not.
    alike = {"clean_up_tokenization_spaces": False, "model_input_names": ["input_ids", "attention_mask"]}
    _change(directory / "tokenizer_config.json", lambda content: {"tokenizer_class": FAST_CLASS, **alike})


def refuse_other_forms(directory: Path) -> None:
    """Compares the ids of texts that are not normalised with those that sentencepiece gives their normalised forms.

    Raises:
        CheckpointError: AutoTokenizer gives other ids.
    """
    import sentencepiece
    import transformers

    processor = sentencepiece.SentencePieceProcessor(model_file=str(directory / MODEL_FILE))
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    for text in TYPED:
        found, right = tokenizer(text, add_special_tokens=False)["input_ids"], processor.encode(normalise(text))
        if found != right:
            raise CheckpointError(
                f"{directory}: AutoTokenizer gives '{text}' the numbers {found}, and {right} are those of its normalised form; nothing was "
                "exported. Report it with the versions of transformers and tokenizers."
            )


def is_normalised_here(data: dict[str, Any]) -> bool:
    """Whether the pre-training text, by the section `data` of a checkpoint's state, was normalised by this version's rules."""
    return bool(data["normaliser"] == NORMALISER)


def _change(path: Path, changes: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    try:
        content = json.loads(path.read_bytes())
        text = json.dumps(content | changes(content), ensure_ascii=False, indent=2) + "\n"
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise CheckpointError(f"{path}: not a tokenizer's file ({e}). Export a checkpoint that holds the right one.") from e
    path.write_text(text, encoding="utf-8")


def _rules(is_of_characters: bool) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": character}, "content": form} for character, form in newer_forms()
    ]
    rules += [{"type": "NFKC"}, {"type": "Replace", "pattern": {"Regex": SPACES}, "content": " "}]
    rules += [{"type": "Strip", "strip_left": not is_of_characters, "strip_right": True}]
    # Where only a text's beginning gets a word mark, the library would give none to a beginning that has been taken away.
    return [*rules, {"type": "Replace", "pattern": {"Regex": r"\A "}, "content": "▁"}] if is_of_characters else rules


@cache
def newer_forms() -> list[tuple[str, str]]:
    """Characters, such as ㋿, that Python's tables of Unicode know and those of `tokenizers` do not, each with its form in NFKC (令和)."""
    from tokenizers.normalizers import NFKC

    # A newline joins with nothing, so all characters are normalised at once.
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000 and code != ord("\n")]
    text = "\n".join(characters)
    theirs, ours = NFKC().normalize_str(text).split("\n"), unicodedata.normalize("NFKC", text).split("\n")
    return [(character, form) for character, form, other in zip(characters, ours, theirs, strict=True) if form != other]
