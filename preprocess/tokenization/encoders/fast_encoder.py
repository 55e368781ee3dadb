"""A Hugging Face fast tokenizer (`tokenizer.json`) as an encoder: any model and pre-tokenizer that the `tokenizers` library has."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import orjson

from jadeberta.errors import ConfigError
from preprocess.tokenization.encoders.encoder_base import Encoded, Encoder, Placed
from preprocess.tokenization.encoders.roles import TokenNames, find_roles, said_in

HIDDEN = "\ufdd0\ufdd1\ufdef"
"""Characters that Unicode leaves to programs; with a token's number behind them, the name of a special token while text is encoded."""


class FastEncoder(Encoder):
    """Encodes with the `tokenizers` library, in this thread alone: the ranks are the parallel work."""

    def __init__(self, content: bytes, documents: dict[str, dict[str, Any]], where: str) -> None:
        """Args:
        content: of `tokenizer.json`.
        documents: Hugging Face's other JSON files by name, as far as they are there.
        where: the tokenizer, for messages.

        Raises:
            ConfigError: the file is damaged, or lacks a role.
        """
        import tokenizers

        # The pools of several ranks on a host would share its cores badly.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        try:
            document = orjson.loads(content)
            vocabulary: dict[str, int] = tokenizers.Tokenizer.from_buffer(content).get_vocab(with_added_tokens=True)
            kind = document["model"].get("type") or ""
        except Exception as e:  # the library raises plain Exception
            raise ConfigError(
                f"{where}: no tokenizer.json of a Hugging Face fast tokenizer ({str(e).strip()[:120]}). Copy it again."
            ) from e
        if not vocabulary:
            raise ConfigError(f"{where}: its vocabulary is empty. Name another tokenizer.")
        names = token_names(document, vocabulary, documents)
        self.special, self.vocab_size = find_roles(names, where)
        self._names = {number: token for token, number in vocabulary.items()}
        self._tokenizer = tokenizers.Tokenizer.from_str(_hide(document, frozenset(self.special.ids)))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        # Special tokens that a text spells stay text.
        self._tokenizer.encode_special_tokens = True
        self.marked = _marked(document, vocabulary, self.vocab_size)
        """bool [vocab_size]: tokens that start a word; None where their text does not show it."""
        self._where = where
        self.description = f"Hugging Face {kind}, {max(vocabulary.values()) + 1:,} tokens"

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Turns the library's error about a text, such as one with an unknown character and no token for it, into a ConfigError."""
        try:
            yield
        except Exception as e:  # the library raises plain Exception
            raise ConfigError(
                f"{self._where}: cannot encode a text ({str(e).strip()[:120]}). Give its model an unknown token or byte fallback."
            ) from e

    def name_of(self, number: int) -> str | None:
        return self._names.get(number)

    def encode(self, texts: list[str]) -> Encoded:
        with self._explaining():
            found = [one.ids for one in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        return Encoded(np.fromiter(chain.from_iterable(found), np.int64, int(lengths.sum())), lengths)

    def encode_placed(self, texts: list[str]) -> Placed:
        with self._explaining():
            found = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        ids = np.fromiter(chain.from_iterable(one.ids for one in found), np.int64, int(lengths.sum()))
        spans = [span for one in found for span in one.offsets]
        return Placed(ids, lengths, np.array(spans, np.int64).reshape(-1, 2))

    def encode_words(self, texts: list[str]) -> tuple[Encoded, np.ndarray]:
        if self.marked is not None:
            found = self.encode(texts)
            starts = self.marked[found.ids]
        else:
            with self._explaining():
                encoded = self._tokenizer.encode_batch(texts, add_special_tokens=False)
            lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
            ids = np.fromiter(chain.from_iterable(one.ids for one in encoded), np.int64, int(lengths.sum()))
            found = Encoded(ids, lengths)
            # A token without a word (-1) starts one of its own: a token added to the vocabulary.
            numbers = [-1 if word is None else word for one in encoded for word in one.word_ids]
            words = np.array(numbers, np.int64)
            starts = np.ones(len(words), bool)
            starts[1:] = (words[1:] != words[:-1]) | (words[1:] < 0)
        starts[(np.cumsum(found.lengths) - found.lengths)[found.lengths > 0]] = True
        return found, starts


def token_names(document: dict[str, Any], vocabulary: dict[str, int], documents: dict[str, dict[str, Any]]) -> TokenNames:
    """Returns what a tokenizer.json and Hugging Face's other JSON files say about the special tokens."""
    special = frozenset(token["id"] for token in document.get("added_tokens") or [] if token.get("special"))
    said = said_in(documents.get("tokenizer_config.json", {}), documents.get("special_tokens_map.json", {}))
    return TokenNames(
        {token: number for token, number in vocabulary.items() if number in special or token in said.values()},
        said,
        _framing(document.get("post_processor")) | _unknown(document["model"], vocabulary),
        special,
        max(vocabulary.values()) + 1,
    )


def _framing(processor: dict[str, Any] | None) -> dict[str, int]:
    """Ids of the tokens that the post-processor puts before and after a text."""
    for one in (processor or {}).get("processors", [processor]) if processor else []:
        if one.get("type") in ("BertProcessing", "RobertaProcessing"):
            return {"cls": one["cls"][1], "sep": one["sep"][1]}
        if one.get("type") == "TemplateProcessing":
            ids = {name: token["ids"] for name, token in one.get("special_tokens", {}).items()}
            single = one.get("single") or []
            ends = {"cls": single[:1], "sep": single[-1:]}
            found = {role: entry[0]["SpecialToken"]["id"] for role, entry in ends.items() if entry and "SpecialToken" in entry[0]}
            return {role: ids[name][0] for role, name in found.items() if len(ids.get(name, ())) == 1}
    return {}


def _unknown(model: dict[str, Any], vocabulary: dict[str, int]) -> dict[str, int]:
    """Id of the unknown token of a model, by number (Unigram) or text."""
    if isinstance(model.get("unk_id"), int):
        return {"unk": model["unk_id"]}
    return {"unk": vocabulary[model["unk_token"]]} if model.get("unk_token") in vocabulary else {}


def _hide(document: dict[str, Any], special: frozenset[int]) -> str:
    """Returns the tokenizer without a way from text to its special tokens: they keep their ids under names that no text spells.

    The unknown token is not hidden, because the model gives it by its name; what a text spells is still not taken for it as a whole.
    """
    added = [dict(token) for token in document.get("added_tokens") or []]
    model = dict(document["model"])
    unknown = model.get("unk_token")
    for token in added:
        if token["id"] in special:
            token["special"] = True
    names = {token["content"]: token["id"] for token in added if token["special"] and token["content"] != unknown}

    def name(text: str) -> str:
        return f"{HIDDEN}{names[text]}" if text in names else text

    if isinstance(model.get("vocab"), dict):
        model["vocab"] = {name(text): number for text, number in model["vocab"].items()}
    elif isinstance(model.get("vocab"), list):
        unk = model.get("unk_id")
        model["vocab"] = [
            [text if n == unk else name(text), score, *rest] for n, (text, score, *rest) in enumerate(model["vocab"])
        ]
    for token in added:
        token["content"] = name(token["content"])
    if isinstance(model.get("merges"), list):
        joined = [pair.replace(" ", "", 1) if isinstance(pair, str) else "".join(pair) for pair in model["merges"]]
        model["merges"] = [pair for pair, text in zip(model["merges"], joined, strict=True) if text not in names]
    hidden = document | {"added_tokens": added, "model": model, "post_processor": None, "decoder": None}
    return orjson.dumps(hidden).decode()


def _marked(document: dict[str, Any], vocabulary: dict[str, int], size: int) -> np.ndarray | None:
    """Which tokens start a word, bool [size], where a token's text alone shows it; None elsewhere.

    WordPiece marks what continues a word. A Metaspace that splits begins every word with a ▁, and no other place has one.
    """
    model, splitter = document["model"], document.get("pre_tokenizer") or {}
    if model.get("type") == "WordPiece" and (prefix := model.get("continuing_subword_prefix", "##")):
        marked = np.ones(size, bool)
        marked[[number for text, number in vocabulary.items() if text.startswith(prefix) and text != prefix]] = False
        return marked
    if (
        splitter.get("type") == "Metaspace"
        and splitter.get("split", True)
        and splitter.get("prepend_scheme", "always") == "always"
    ):
        marked = np.zeros(size, bool)
        mark = splitter.get("replacement", "▁")
        marked[[number for text, number in vocabulary.items() if text.startswith(mark)]] = True
        return marked
    return None
