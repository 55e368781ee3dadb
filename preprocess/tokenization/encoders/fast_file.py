"""Writes `tokenizer.json` for a sentencepiece model, so that AutoTokenizer gives the same ids.

Built here, rule by rule, because transformers 4 and 5 convert one and the same model differently.
"""

from typing import Any

import sentencepiece

from jadeberta.shards.tokenizer_format import SpecialTokens

UNKNOWN, USER_DEFINED, BYTE = 2, 4, 6
"""Types of pieces."""


def fast_tokenizer(model: bytes, special: SpecialTokens, names: dict[int, str]) -> bytes:
    """Returns the bytes of `tokenizer.json`.

    Args:
        model: content of a sentencepiece model, unigram or BPE.
        special: its special tokens.
        names: text of special tokens by id; those without text, such as a padding id behind the pieces, are left out.
    """
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

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
        core = models.Unigram([(p.piece, p.score) for p in proto.pieces], unk_id=unknown, byte_fallback=fallback)
    tokenizer = Tokenizer(core)
    spec = proto.normalizer_spec
    tokenizer.normalizer = normalizers.Sequence(_rules(spec, sentencepiece.SentencePieceProcessor(model_proto=model)))
    scheme = "first" if spec.add_dummy_prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
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
    defined = [p.piece for n, p in enumerate(proto.pieces) if p.type == USER_DEFINED and n not in special.ids]
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in defined])
    return str(tokenizer.to_str(pretty=True)).encode()


def _rules(spec: Any, processor: Any) -> list[Any]:
    """Normalisers that do what a model's `normalizer_spec` says.

    Spaces are named alone, because `Strip` takes all white space, and ends of the text by `\\A` and `\\z`, because `^` and `$` are those of
    lines. `Metaspace` puts its prefix neither before a ▁ nor before a text whose first character is gone: there the text gets it here.
    """
    from tokenizers import Regex, normalizers

    rules: list[Any] = []
    if spec.precompiled_charsmap:
        rules.append(normalizers.Precompiled(spec.precompiled_charsmap))
        if processor.normalize("か\u3099ｶﾞ").strip("▁") == "がガ":
            # `Precompiled` looks up no sequence of six bytes, such as ｶﾞ, and drops the end of a shorter one that is only known in part.
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
