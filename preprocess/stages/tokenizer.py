"""Stage 3: words of the whole segmented corpus -> word list and seed list -> sentencepiece -> Hugging Face files.

Promises that no piece crosses a word boundary, and that raw sentencepiece and AutoTokenizer give the same ids: the model normalises nothing
(`identity`), because our own normaliser has run before. The same words give the same bytes of `spm.model` on any number of ranks.
"""

import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import sentencepiece

from jadeberta.shards import ConfigError, file_sha256
from jadeberta.shards.tokenizer_format import ALL_TOKENIZER_FILES, CLS, MODEL_FILE, SEP, SPECIAL_TOKENS, TOKENIZER_FILES, UNK
from jadeberta.utils.files import atomic_file
from preprocess.config import PreprocessConfig
from preprocess.document_files import write_json
from preprocess.executors.executor import Executor
from preprocess.executors.system_errors import system_errno
from preprocess.stages.given_tokenizer import take_tokenizer, tokenizer_config, write_model_type
from preprocess.text import cut_sentences, split_sentences, text_rules
from preprocess.tokenization.coverage import measure
from preprocess.tokenization.encoders.fast_file import fast_tokenizer
from preprocess.tokenization.encoders.sentencepiece_encoder import SentencepieceEncoder
from preprocess.tokenization.sentence_sample import WeightedDocuments, read_sentences, sample_sentences
from preprocess.tokenization.sentencepiece_training import (
    ModelOptions,
    read_counts,
    seed_pieces,
    train_on_text,
    train_sentencepiece,
    write_counts,
)
from preprocess.tokenization.word_counts import RankedWords, rank_words
from preprocess.workdir import (
    TRAINING_NAME,
    counts_dir,
    duplicates_settings,
    list_parts,
    list_words,
    read_markers,
    read_training,
    require_complete,
)
from preprocess.written_files import TOKENIZER_NAMES, claim

log = logging.getLogger(__name__)

MAX_WORDS = 2_000_000
"""Number of the most frequent words, on which the tokenizer is trained."""
SCORE_STEPS = 256
"""Scores (natural logarithms) are rounded to multiples of 1/SCORE_STEPS; see `_round_scores`."""

TOKENIZER_CONFIG = {
    "tokenizer_class": "DebertaV2Tokenizer",
    "do_lower_case": False,
    "split_by_punct": False,
    "keep_accents": True,
    "bos_token": "[CLS]",
    "cls_token": "[CLS]",
    "eos_token": "[SEP]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "mask_token": "[MASK]",
    "model_max_length": 512,
}


def train_tokenizer(config: PreprocessConfig, out: Path, executor: Executor) -> dict[str, Any]:
    """Writes `out/tokenizer/` from the segmented parts; a finished tokenizer of the same words and settings is kept.

    Returns:
        {"sha256", "pieces", "words", "distinct_words", "coverage"}; a tokenizer made by an older version has no coverage.

    Raises:
        ConfigError: the text has too few distinct pieces for `preprocess.vocab_size`, or too many characters.
    """
    if not config.trains:
        return take_tokenizer(config, out, executor)
    directory = out / "tokenizer"
    if not config.reads_words and config.pieces == "subwords":
        return _train_on_text(config, out, directory, executor)
    parts, settings, found = executor.run_on_root(lambda: _plan(config, out, directory))
    folder = counts_dir(out)
    if found is not None:
        log.info("tokenizer: done already, %d pieces", found["pieces"])
        # An earlier run may have been killed between the tokenizer's end and the removal below.
        executor.run_on_root(lambda: shutil.rmtree(folder, ignore_errors=True))
        return found
    ranked = rank_words(parts, MAX_WORDS, folder, executor)
    result = executor.run_on_root(lambda: _finished(directory, settings) or _train(config, directory, ranked, settings, folder))
    executor.run_on_root(lambda: shutil.rmtree(folder, ignore_errors=True))
    return result


def _plan(
    config: PreprocessConfig, out: Path, directory: Path
) -> tuple[list[tuple[Path, int]], dict[str, Any], dict[str, Any] | None]:
    """Returns the parts of words with their weights, all that the tokenizer depends on, and the finished tokenizer of those settings."""
    parts = {name: list_words(out, name) for name in config.corpora}
    settings = {
        "vocab_size": config.vocab_size,
        "character_coverage": config.character_coverage,
        "repeats": {name: corpus.repeats for name, corpus in config.corpora.items()},
        "words": [[name, part.name, part.stat().st_size] for name in parts for part in parts[name]],
    }
    settings |= _chosen(config)
    weighted = [(part, config.corpora[name].repeats) for name in parts for part in parts[name]]
    found = _finished(directory, settings)
    if found is None:
        claim(out, TOKENIZER_NAMES)
    return weighted, settings, found


def _chosen(config: PreprocessConfig) -> dict[str, Any]:
    """Settings of the tokenizer that are not the published recipe's; those of earlier versions lack the keys."""
    default = PreprocessConfig()
    keys = ("pieces", "model_type", "byte_fallback", "split_digits", "normalization_rule_name")
    return {key: getattr(config, key) for key in keys if getattr(config, key) != getattr(default, key)}


def _train_on_text(config: PreprocessConfig, out: Path, directory: Path, executor: Executor) -> dict[str, Any]:
    """Trains on a sample of the documents' sentences, and writes the files of the tokenizer."""
    folder = counts_dir(out)
    cut_text = cut_sentences if config.keeps_text else split_sentences

    def plan() -> tuple[list[WeightedDocuments], dict[str, Any], dict[str, Any] | None]:
        parts = []
        for name, corpus in config.corpora.items():
            require_complete(out, name)
            of_parts = {part["file"]: part["bytes"] for marker in read_markers(out, name) for part in marker["parts"]}
            parts += [(part, corpus.repeats, of_parts[part.name]) for part in list_parts(out, name)]
        settings = {
            "vocab_size": config.vocab_size,
            "character_coverage": config.character_coverage,
            "documents": [
                [part.parent.name, part.name, part.stat().st_size, n, duplicates_settings(part)] for part, n, _ in parts
            ],
            "text": text_rules(config.keeps_text),
        } | _chosen(config)
        settings = orjson.loads(orjson.dumps(settings))
        found = _finished(directory, settings)
        if found is None:
            claim(out, TOKENIZER_NAMES)
            # What a killed run drew from other documents is no sample of these.
            shutil.rmtree(folder, ignore_errors=True)
        return parts, settings, found

    parts, settings, found = executor.run_on_root(plan)
    if found is None:
        files = sample_sentences(parts, cut_text, folder, executor)
        found = executor.run_on_root(lambda: _finished(directory, settings) or _train_sample(config, directory, files, settings))
    else:
        log.info("tokenizer: done already, %d pieces", found["pieces"])
    executor.run_on_root(lambda: shutil.rmtree(folder, ignore_errors=True))
    assert found is not None
    return found


def _train_sample(config: PreprocessConfig, directory: Path, files: list[Path], settings: dict[str, Any]) -> dict[str, Any]:
    sentences = sum(1 for _ in read_sentences(files))
    if not sentences:
        raise ConfigError(f"{directory}: no text to train a tokenizer on. Run the extract stage on a corpus that is not empty.")
    _clear(directory)
    log.info("tokenizer: training %d pieces on %d sentences", config.vocab_size, sentences)
    with _explaining(config.vocab_size, sentences, "sentences"):
        model = train_on_text(read_sentences(files), _options(config))
    _require_pieces(config, model)
    _write_files(config, directory, model)
    return _conclude(config, directory, settings, {"sentences": sentences})


def _clear(directory: Path) -> None:
    """Removes an earlier tokenizer, its marker first."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in (TRAINING_NAME, *ALL_TOKENIZER_FILES, "words.tsv", "seed.tsv"):
        (directory / name).unlink(missing_ok=True)


def _write_files(config: PreprocessConfig, directory: Path, model: bytes) -> None:
    """Writes the model, and the Hugging Face files of one that is not the published recipe's."""
    # Merges of BPE have ranks for scores, which are whole numbers.
    model = _round_scores(model)
    with atomic_file(directory / MODEL_FILE) as f:
        f.write(model)
    encoder = SentencepieceEncoder(model, {}, str(directory / MODEL_FILE))
    names = dict(enumerate(SPECIAL_TOKENS))
    with atomic_file(directory / "tokenizer.json") as f:
        f.write(fast_tokenizer(model, encoder.special, names))
    with atomic_file(directory / "tokenizer_config.json") as f:
        f.write(tokenizer_config(encoder, max(config.sequence_lengths)))
    write_json(directory / "special_tokens_map.json", {k: v for k, v in TOKENIZER_CONFIG.items() if k.endswith("_token")})
    write_model_type(directory, config.vocab_size)


def _require_pieces(config: PreprocessConfig, model: bytes) -> None:
    if (pieces := len(sentencepiece.SentencePieceProcessor(model_proto=model))) < config.vocab_size:
        raise ConfigError(
            f"preprocess.vocab_size {config.vocab_size} is too large: the characters of the text, to preprocess.character_coverage, "
            f"and the special tokens are {pieces}. Set preprocess.vocab_size and model.vocab_size to {pieces} or less, or add text."
        )


def _conclude(config: PreprocessConfig, directory: Path, settings: dict[str, Any], counts: dict[str, Any]) -> dict[str, Any]:
    """Writes the marker of a finished tokenizer and returns it."""
    result = {
        "sha256": file_sha256(directory / MODEL_FILE),
        "files": {name: file_sha256(directory / name) for name in TOKENIZER_FILES if name != MODEL_FILE},
        "pieces": config.vocab_size,
        **counts,
        "settings": settings,
    }
    write_json(directory / TRAINING_NAME, result)
    return result


def _finished(directory: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the marker of a finished tokenizer of these settings; None: there is none."""
    found = read_training(directory)
    return found if found is not None and found["settings"] == settings else None


def _train(
    config: PreprocessConfig, directory: Path, ranked: RankedWords, settings: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """Trains on the ranked words and writes the files of the tokenizer; `folder` is for scratch files."""
    if not ranked.distinct:
        raise ConfigError(f"{directory}: no words to train a tokenizer on. Run the segment stage on a corpus that is not empty.")
    words, seeds = directory / "words.tsv", directory / "seed.tsv"
    _clear(directory)
    write_counts(words, islice(ranked, MAX_WORDS))
    characters = config.pieces == "characters"
    if not characters and config.model_type == "unigram":
        with TemporaryDirectory(dir=folder, prefix="seeds-") as scratch:
            write_counts(seeds, seed_pieces(read_counts(words), Path(scratch)))
    log.info("tokenizer: %d words, %d of them distinct; training %d pieces", ranked.words, ranked.distinct, config.vocab_size)
    with _explaining(config.vocab_size, ranked.distinct, "distinct words"):
        if characters:
            model = train_sentencepiece(words, None, ModelOptions(config.vocab_size, config.character_coverage, "char"))
        else:
            model = train_sentencepiece(words, seeds if config.model_type == "unigram" else None, _options(config))
    _require_pieces(config, model)
    if _chosen(config).keys() - {"pieces"}:
        _write_files(config, directory, model)
    else:
        with atomic_file(directory / MODEL_FILE) as f:
            f.write(_round_scores(model))
        write_hugging_face_files(directory, characters)
    trained = sentencepiece.SentencePieceProcessor(model_file=str(directory / MODEL_FILE))
    coverage = asdict(measure(trained, read_counts(words)))
    return _conclude(
        config, directory, settings, {"words": ranked.words, "distinct_words": ranked.distinct, "coverage": coverage}
    )


def _round_scores(model: bytes) -> bytes:
    """Rounds the scores of a trained model so that sums of them are exact, and removes the path of the seed list from it.

    Two orders of the same pieces ('II', 'I' and 'I', 'II') have the same score except for rounding, which is in single precision in
    sentencepiece and in double precision in Hugging Face's library: 4 of 235,708 sentences came out differently. Multiples of 1/256 sum
    without rounding in both up to 65,536, some 5,000 pieces; both libraries then choose the same of two equal sequences.
    """
    from sentencepiece import sentencepiece_model_pb2

    parsed = sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]
    parsed.trainer_spec.ClearField("seed_sentencepieces_file")
    for piece in parsed.pieces:
        piece.score = round(piece.score * SCORE_STEPS) / SCORE_STEPS
    return bytes(parsed.SerializeToString(deterministic=True))


def _options(config: PreprocessConfig) -> ModelOptions:
    return ModelOptions(**{option.name: getattr(config, option.name) for option in fields(ModelOptions)})


@contextmanager
def _explaining(vocab_size: int, number: int, unit: str) -> Iterator[None]:
    """Turns sentencepiece's error about a text of so many words or sentences into a ConfigError with a remedy."""
    try:
        yield
    except RuntimeError as e:
        if system_errno(e):
            raise  # not the text's fault: a full disk, no descriptor left
        raise ConfigError(_explain(str(e), vocab_size, number, unit)) from e


def _explain(message: str, vocab_size: int, number: int, unit: str) -> str:
    """Returns sentencepiece's message about the number of pieces as one sentence with a remedy."""
    if most := re.search(r"Vocabulary size too high .* value <= (\d+)", message):
        problem = f"is too large for a text of {number:,} {unit}, which gives at most {int(most[1]):,} pieces"
        remedy = f"Set preprocess.vocab_size and model.vocab_size to {most[1]} or less, or add text."
    elif least := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        problem = f"is too small: the characters of the text and the special tokens alone are {int(least[1]):,} pieces"
        remedy = "Set preprocess.vocab_size and model.vocab_size to more, or a smaller preprocess.character_coverage."
    else:
        reason = message.rpartition("] ")[2].strip().rstrip(".")
        problem = f"cannot be trained on a text of {number:,} {unit} ({reason})"
        remedy = "Change preprocess.vocab_size and model.vocab_size, or the text."
    return f"preprocess.vocab_size {vocab_size} {problem}. {remedy}"


def write_hugging_face_files(directory: Path, characters: bool = False) -> None:
    """Writes tokenizer.json, tokenizer_config.json, special_tokens_map.json and config.json beside `spm.model`.

    `tokenizer.json` is built here, piece by piece, and not by a Hugging Face class, because transformers 4 and 5 build different
    ones from the same spm.model. Version 4 loads this file as it is; version 5 takes the pieces from it and adds rules of its own, which
    give the same ids for normalised text. But those rules put a ▁ behind each special token, where a text of characters has none: for
    these the configuration names a class that takes the file as it is in version 5 too.

    Args:
        directory: the tokenizer's folder.
        characters: whether the pieces are characters.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import Unigram

    processor = sentencepiece.SentencePieceProcessor(model_file=str(directory / MODEL_FILE))
    vocabulary = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(len(processor))]
    tokenizer = Tokenizer(Unigram(vocabulary, unk_id=UNK, byte_fallback=False))
    # The text is normalised already; what is left is what sentencepiece does by itself: one space for a run, none at the ends.
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()])
    scheme = "first" if characters else "always"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)
    ids = [(SPECIAL_TOKENS[number], number) for number in (CLS, SEP)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=ids
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS])
    # Not `save`: its errors are no OSError, and name no file.
    with atomic_file(directory / "tokenizer.json") as f:
        f.write(tokenizer.to_str(pretty=True).encode())
    write_json(
        directory / "tokenizer_config.json",
        TOKENIZER_CONFIG | ({"tokenizer_class": "PreTrainedTokenizerFast"} if characters else {}),
    )
    tokens = {k: v for k, v in TOKENIZER_CONFIG.items() if k.endswith("_token")}
    write_json(directory / "special_tokens_map.json", tokens)
    # AutoTokenizer chooses its class by the model type.
    with atomic_file(directory / "config.json") as f:
        f.write(orjson.dumps({"model_type": "deberta-v2", "vocab_size": len(processor)}))
