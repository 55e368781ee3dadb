"""Writes `tokenizer.json` for a sentencepiece model, so that AutoTokenizer gives the same ids.

Built here, rule by rule, because transformers 4 and 5 convert one and the same model differently.
"""

import re
from typing import Any

import sentencepiece

from jadeberta.shards.tokenizer_format import SpecialTokens

NORMAL, UNKNOWN, USER_DEFINED, BYTE = 1, 2, 4, 6
"""Types of pieces."""
EXTENDING = r"[\p{M}\x{200c}\x{200d}\x{0e33}\x{0eb3}\x{ff9e}\x{ff9f}\x{1f3fb}-\x{1f3ff}]"
"""Characters that form a cluster with the one before."""
FILLING = "\u0363\u036f\u0363\u036f"
"""Marks that make a cluster longer than five bytes, in an order in which no text has them; no normalisation changes them."""


def fast_tokenizer(model: bytes, special: SpecialTokens, names: dict[int, str]) -> bytes:
    """Returns the bytes of `tokenizer.json`.

    Args:
        model: content of a sentencepiece model, unigram or BPE.
        special: its special tokens.
        names: text of special tokens by id; those without text, such as a padding id behind the pieces, are left out.
    """
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]
    unknown = next((n for n, piece in enumerate(proto.pieces) if piece.type == UNKNOWN), None)
    fallback = any(piece.type == BYTE for piece in proto.pieces)
    core: Any
    if proto.trainer_spec.model_type == 2:
        vocabulary = {piece.piece: n for n, piece in enumerate(proto.pieces)}
        core = models.BPE(
            vocabulary,
            _merges(proto.pieces, vocabulary),
            unk_token=None if unknown is None else proto.pieces[unknown].piece,
            fuse_unk=True,
            byte_fallback=fallback,
        )
    else:
        core = models.Unigram(_scored(proto.pieces, special), unk_id=unknown, byte_fallback=fallback)
    tokenizer = Tokenizer(core)
    spec = proto.normalizer_spec
    tokenizer.normalizer = normalizers.Sequence(_rules(spec, sentencepiece.SentencePieceProcessor(model_proto=model)))
    scheme = "first" if spec.add_dummy_prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
    if fallback and proto.trainer_spec.model_type != 2:
        # A text that spells the name of a byte piece is none: it is cut where no other piece of the model goes across.
        cut = pre_tokenizers.Split(Regex(_inside_byte_names(proto.pieces)), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([tokenizer.pre_tokenizer, cut])
    tokenizer.decoder = decoders.Sequence(
        [
            *([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()] if fallback else []),
            *([] if fallback else [decoders.Metaspace(replacement="▁", prepend_scheme=scheme)]),
            *([decoders.Strip(" ", 1, 0)] if fallback and spec.add_dummy_prefix else []),
        ]
    )
    if special.cls in names and special.sep in names:
        cls, sep = names[special.cls], names[special.sep]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{cls}:0 $A:0 {sep}:0",
            pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
            special_tokens=list({(cls, special.cls), (sep, special.sep)}),
        )
    added = [names[n] for n in special.ids if n in names]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in added])
    if proto.trainer_spec.model_type == 2:
        defined = [p.piece for n, p in enumerate(proto.pieces) if p.type == USER_DEFINED and n not in special.ids]
        tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in defined])
    return str(tokenizer.to_str(pretty=True)).encode()


def _scored(pieces: Any, special: SpecialTokens) -> list[tuple[str, float]]:
    """Pieces of a unigram model with their scores; those that are user-defined get one with which they are always taken, as sentencepiece
    gives it. As added tokens they would be cut out before the text gets its word mark.
    """
    highest = max((piece.score for piece in pieces if piece.type == NORMAL), default=0.0)
    return [
        (p.piece, len(p.piece.encode()) * highest - 0.1 if p.type == USER_DEFINED and n not in special.ids else p.score)
        for n, p in enumerate(pieces)
    ]


def _inside_byte_names(pieces: Any) -> str:
    """Pattern of the place inside the name of a byte piece, <0x41>, at which texts that spell it are cut."""
    texts = "\n".join(piece.piece for piece in pieces if piece.type != BYTE)
    for left, right in (("<", "0"), ("[0-9A-F]", ">"), ("0", "x"), ("x", "[0-9A-F]")):
        if not re.search(left + right, texts):
            break
    else:
        left, right = "<", "0"
    before, behind = {"<": ("<", "0x[0-9A-F]{2}>"), "0": ("<0", "x[0-9A-F]{2}>"), "x": ("<0x", "[0-9A-F]{2}>")}.get(
        left, ("<0x[0-9A-F]{2}", ">")
    )
    return f"(?<={before})(?={behind})"


def _rules(spec: Any, processor: Any) -> list[Any]:
    """Normalisers that do what a model's `normalizer_spec` says.

    Spaces are named alone, because `Strip` takes all white space, and ends of the text by `\\A` and `\\z`, because `^` and `$` are those of
    lines. `Metaspace` puts its prefix neither before a ▁ nor before a text whose first character is gone: there the text gets it here.
    """
    from tokenizers import Regex, normalizers

    rules: list[Any] = []
    if spec.precompiled_charsmap:
        # `Precompiled` takes a cluster of less than six bytes for one entry of its table, and drops what stands behind the entry.
        rules.append(normalizers.Replace(Regex(f"(?<=[\\s\\S])(?={EXTENDING})"), FILLING))
        rules.append(normalizers.Precompiled(spec.precompiled_charsmap))
        rules.append(normalizers.Replace(FILLING, ""))
        if processor.normalize("か\u3099ｶﾞ").strip("▁") == "がガ":
            # Sequences such as ｶﾞ are looked up by sentencepiece alone.
            rules = [normalizers.NFC(), *rules, normalizers.NFC()]
        if processor.normalize("a\r\nb") == processor.normalize("a\n\nb"):
            rules.insert(0, normalizers.Replace("\r\n", "\n\n"))  # one sequence too
    if spec.remove_extra_whitespaces:
        rules += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Replace(Regex("[ ▁]+\\z"), "")]
        rules += [] if spec.add_dummy_prefix else [normalizers.Replace(Regex("\\A +"), "")]
    elif spec.add_dummy_prefix:
        rules.append(normalizers.Replace(Regex("\\A "), "  "))
    return [*rules, normalizers.Replace(Regex("\\A▁"), "▁▁")] if spec.add_dummy_prefix else rules


def _merges(pieces: Any, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Merges of a BPE model, the first ones first; sentencepiece keeps the result of each merge with its rank as score."""
    found: list[tuple[float, int, int, str, str]] = []
    for piece in pieces:
        if piece.type != 1:
            continue
        text = piece.piece
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in vocabulary and right in vocabulary:
                found.append((-piece.score, vocabulary[left], vocabulary[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]
