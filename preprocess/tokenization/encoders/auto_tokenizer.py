"""Compares what AutoTokenizer makes of a tokenizer's directory with the ids that the shards get."""

import logging
from collections.abc import Sequence
from pathlib import Path

from jadeberta.errors import JadebertaError
from preprocess.tokenization.encoders.encoder_base import Encoder

log = logging.getLogger(__name__)

SENTENCES = (
    "京都 大学 で 自然 言語 処理 を 研究 する 。",
    "東京都は、日本の首都である。",
    "2024年に1,234人がNew Yorkを訪れた。",
    "コンピューター と カタカナ の ヴァイオリン",
    "未知の字 𠮷野 と 鱧鱸 ☃",
    "ＡＢＣ　ｶﾀｶﾅ ㌔",
    "a b c ab abc",
    " 先頭と\n行の 端 \n",
    "\u3000ｶﾞﾊﾟ か\u3099 ",
)
"""Texts on which both must agree: known and unknown characters, spaces inside and at the ends, digits, widths, Latin letters."""


def refuse_other_ids(
    directory: Path, encoder: Encoder, remedy: str, error: type[JadebertaError], further: Sequence[str] = ()
) -> None:
    """Loads a directory with AutoTokenizer and compares ids; other tokens around a text than in the shards are a warning.

    Args:
        directory: with the tokenizer's files and a `config.json`.
        encoder: of the same tokenizer.
        remedy: what the reader is to do.
        error: class of the error.
        further: texts to compare beside the usual ones.

    Raises:
        JadebertaError: AutoTokenizer does not load the directory, or gives other ids; of the class `error`.
    """
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(directory), trust_remote_code=False)
    except Exception as e:  # any class, by the tokenizer's own code
        raise error(f"{directory}: AutoTokenizer does not load it ({str(e).strip()[:200]}). {remedy}") from e
    sentences = [*SENTENCES, *further]
    found = encoder.encode(sentences)
    start = 0
    for sentence, length in zip(sentences, found.lengths.tolist(), strict=True):
        ours = found.ids[start : start + length].tolist()
        start += length
        try:
            theirs = tokenizer(sentence, add_special_tokens=False)["input_ids"]
        except Exception as e:  # the library raises plain Exception
            raise error(f"{directory}: AutoTokenizer cannot encode '{sentence}' ({str(e).strip()[:200]}). {remedy}") from e
        if ours != theirs:
            raise error(
                f"{directory}: AutoTokenizer gives '{sentence}' the ids {theirs}, and the tokenizer itself {ours}. {remedy}"
            )
    if tokenizer.mask_token_id != encoder.special.mask:
        raise error(
            f"{directory}: AutoTokenizer's mask token is {tokenizer.mask_token_id}, and the shards have {encoder.special.mask}. {remedy}"
        )
    framed = tokenizer("")["input_ids"]
    if framed != [encoder.special.cls, encoder.special.sep]:
        log.warning(
            "tokenizer: AutoTokenizer puts the tokens %s around a text, and rows have %s; whoever loads the release must add those",
            framed,
            [encoder.special.cls, encoder.special.sep],
        )
