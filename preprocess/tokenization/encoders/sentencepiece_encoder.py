"""A sentencepiece model as an encoder: unigram or BPE, with or without byte fallback, trained here or elsewhere."""

from itertools import chain
from typing import Any

import numpy as np
import sentencepiece

from jadeberta.errors import ConfigError
from preprocess.tokenization.encoders.encoder_base import Encoded, Encoder, Placed
from preprocess.tokenization.encoders.roles import TokenNames, find_roles, said_in

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of pieces in a model, as sentencepiece numbers them."""
TRIED_PIECES = 20
"""Number of user-defined pieces for which Hugging Face's ids are compared."""
SHIFTED_CLASSES = ("XLMRoberta", "Camembert", "Barthez", "MBart", "XLMProphetNet", "NllbTokenizer")
"""Beginnings of Hugging Face's classes whose ids are not those of their sentencepiece model."""


class SentencepieceEncoder(Encoder):
    """Encodes with sentencepiece itself."""

    def __init__(self, model: bytes, documents: dict[str, dict[str, Any]], where: str) -> None:
        """Args:
        model: content of the model's file.
        documents: Hugging Face's JSON files beside it by name, as far as they are there.
        where: the tokenizer, for messages.

        Raises:
            ConfigError: the model is damaged, lacks a role, or is used with other ids than its own.
        """
        from sentencepiece import sentencepiece_model_pb2

        try:
            proto = sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]
            sentencepiece.SentencePieceProcessor(model_proto=model)
        except Exception as e:  # protobuf and sentencepiece raise classes of their own
            raise ConfigError(f"{where}: no sentencepiece model ({str(e).strip().splitlines()[0]}). Copy it again.") from e
        types = np.array([piece.type for piece in proto.pieces])
        spec = proto.trainer_spec
        names = token_names(proto, documents, where)
        self.special, self.vocab_size = find_roles(names, where)
        self._names = {number: piece for piece, number in names.ids.items()}
        changed = False
        for number in self.special.ids:
            if number < len(types) and types[number] not in (UNKNOWN, CONTROL, UNUSED):
                # A piece of this type is found in the text; a web page that spells [MASK] must not be masked by it.
                proto.pieces[number].type = CONTROL
                changed = True
        self._processor = sentencepiece.SentencePieceProcessor(
            model_proto=proto.SerializeToString(deterministic=True) if changed else model
        )
        defined = [
            p.piece.replace("▁", " ") for n, p in enumerate(proto.pieces) if p.type == USER_DEFINED and n not in self.special.ids
        ]
        # As a text's beginning, and inside of it; the name of a byte is text.
        self.hard_texts = ["京<0x41>都", *(text for piece in defined[:TRIED_PIECES] for text in (f"{piece}の", f"京{piece}都"))]
        self._is_suffix = bool(spec.treat_whitespace_as_suffix)
        marks = [p.piece.endswith("▁") if self._is_suffix else p.piece.startswith("▁") for p in proto.pieces]
        self.marked = np.array(marks + [False] * (self.vocab_size - len(marks)))
        """bool [vocab_size]: pieces with a word mark."""
        kind = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}.get(spec.model_type, "")
        fallback = ", byte fallback" if (types == BYTE).any() else ""
        self.description = f"sentencepiece {kind}{fallback}, {len(types):,} pieces"

    def name_of(self, number: int) -> str | None:
        return self._names.get(number)

    def encode(self, texts: list[str]) -> Encoded:
        # Without sentencepiece's threads, which takes 0.6 of the time; the ids of a text do not depend on the others.
        found = self._processor.encode(texts, num_threads=1)
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        return Encoded(np.fromiter(chain.from_iterable(found), np.int64, int(lengths.sum())), lengths)

    def encode_placed(self, texts: list[str]) -> Placed:
        found = [self._processor.encode(text, return_type="offset_mapping") for text in texts]
        lengths = np.fromiter((len(one["ids"]) for one in found), np.int64, len(found))
        ids = np.fromiter(chain.from_iterable(one["ids"] for one in found), np.int64, int(lengths.sum()))
        spans = [span for one in found for span in one["offsets"]]
        return Placed(ids, lengths, np.array(spans, np.int64).reshape(-1, 2))

    def encode_words(self, texts: list[str]) -> tuple[Encoded, np.ndarray]:
        found = self.encode(texts)
        starts = self.marked[found.ids]
        if self._is_suffix:
            starts = np.concatenate([[False], starts])[: len(starts)]
        starts[(np.cumsum(found.lengths) - found.lengths)[found.lengths > 0]] = True
        return found, starts


def token_names(proto: Any, documents: dict[str, dict[str, Any]], where: str) -> TokenNames:
    """Returns what a sentencepiece model and Hugging Face's JSON files say about the special tokens.

    Raises:
        ConfigError: the model is used with other ids than its own.
    """
    pieces = {piece.piece: number for number, piece in enumerate(proto.pieces)}
    added = _added_tokens(documents, pieces, where)
    types = np.array([piece.type for piece in proto.pieces])
    controls = frozenset(np.flatnonzero(np.isin(types, (UNKNOWN, CONTROL, UNUSED))).tolist())
    spec = proto.trainer_spec
    # `bos_id` and the others are -1 where the model was trained without them.
    known = {"cls": spec.bos_id, "sep": spec.eos_id, "pad": spec.pad_id, "unk": spec.unk_id}
    defaults = {role: n for role, n in known.items() if 0 <= n < len(types) and n in controls}
    named = [n for n in np.flatnonzero(types == USER_DEFINED).tolist() if _looks_special(proto.pieces[n].piece)]
    return TokenNames(
        pieces | added,
        said_in(documents.get("tokenizer_config.json", {}), documents.get("special_tokens_map.json", {})),
        defaults,
        controls | frozenset(added.values()) | frozenset(named),
        max([len(types), *(number + 1 for number in added.values())]),
    )


def _looks_special(piece: str) -> bool:
    return len(piece) > 2 and (piece[0], piece[-1]) in (("<", ">"), ("[", "]"))


def _added_tokens(documents: dict[str, dict[str, Any]], pieces: dict[str, int], where: str) -> dict[str, int]:
    """Ids of tokens that Hugging Face adds behind the model's pieces.

    Raises:
        ConfigError: the files give a piece another id than the model: then its ids are not those that the published model was trained on.
    """
    config = documents.get("tokenizer_config.json", {})
    added = {token: n for token, n in documents.get("added_tokens.json", {}).items() if isinstance(n, int)}
    decoder = config.get("added_tokens_decoder") or {}
    for number, token in decoder.items() if isinstance(decoder, dict) else ():
        if isinstance(token, dict) and isinstance(token.get("content"), str) and str(number).isdigit():
            added[token["content"]] = int(number)
    wrong = next(
        (token for token, n in added.items() if pieces.get(token, n) != n or (token not in pieces and n < len(pieces))), None
    )
    if wrong is not None or str(config.get("tokenizer_class", "")).startswith(SHIFTED_CLASSES):
        raise ConfigError(
            f"{where}: its ids are not those of its sentencepiece model ({wrong or config['tokenizer_class']}), and there is no "
            "tokenizer.json. Write one with AutoTokenizer.from_pretrained(...).save_pretrained(...) and name that directory."
        )
    return {token: n for token, n in added.items() if token not in pieces}
