"""The tokenizer stage: word counts of the whole segmented corpus -> seed list and word list -> sentencepiece -> Hugging Face files.

Promises a vocabulary whose word-initial pieces start a word and no piece that crosses a word boundary, and raw sentencepiece and
AutoTokenizer in agreement: the model normalises nothing (`identity`), because our own normaliser has done it before.
"""

import io
import logging
from collections import Counter
from pathlib import Path

import orjson
import sentencepiece

from jadeberta.shards import ConfigError, file_sha256
from preprocess.comm import Comm
from preprocess.config import PreprocessConfig
from preprocess.files import atomic_file, atomic_path, read_json, write_json
from preprocess.segment import list_words, read_words

log = logging.getLogger(__name__)

SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
"""Their ids are their places here."""
MAX_PIECE_LENGTH = 16
MAX_WORDS = 2_000_000
MAX_SEEDS = 1_000_000
MIN_SEED_COUNT = 3
TRAINER_THREADS = 4
"""Part of the recipe: the trainer adds up floats per thread, so another number of threads could give another model."""

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


def train_tokenizer(config: PreprocessConfig, out: Path, comm: Comm) -> dict:
    """Writes `out/tokenizer/` from the segmented parts; done already for the same words and settings, it is kept.

    Returns:
        {"sha256", "pieces", "words", "distinct_words"} of the tokenizer.

    Raises:
        ConfigError: the text has too few distinct pieces for `preprocess.vocab_size`.
    """
    directory = out / "tokenizer"
    parts = [(corpus, part) for corpus in config.corpora for part in list_words(out, corpus)]
    settings = {
        "vocab_size": config.vocab_size,
        "character_coverage": config.character_coverage,
        "repeats": {name: corpus.repeats for name, corpus in config.corpora.items()},
        "words": [[corpus, part.name, part.stat().st_size] for corpus, part in parts],
    }
    marker = directory / "training.json"
    if marker.exists():
        found = read_json(marker)
        if found["settings"] == settings and file_sha256(directory / "spm.model") == found["sha256"]:
            log.info("tokenizer: done already, %d pieces", found["pieces"])
            return found
    counts: Counter[str] = Counter()
    for part_counts in comm.map(parts, lambda p: count_words(p[1], config.corpora[p[0]].repeats)):
        counts.update(part_counts)
    return comm.run_on_root(lambda: _train(config, directory, counts, settings, marker))


def count_words(part: Path, weight: int) -> Counter[str]:
    """Words of one segmented part, each counted `weight` times."""
    counts: Counter[str] = Counter()
    for row in read_words(part):
        for sentence in row["sentences"]:
            counts.update(sentence.split(" "))
    return Counter({word: count * weight for word, count in counts.items()})


def seed_pieces(counts: Counter[str]) -> list[tuple[str, int]]:
    """Every substring inside a word with its count in running text, the most useful first.

    sentencepiece's own seeds are right-maximal substrings of the text, which leaves out most whole words of segmented Japanese:
    a word is always followed by the next one's word mark, so the maximal substring ends in that mark and is refused.
    """
    substrings: Counter[str] = Counter()
    for word, count in counts.items():
        piece = "▁" + word
        for start in range(len(piece)):
            for end in range(start + 2, min(len(piece), start + MAX_PIECE_LENGTH) + 1):
                substrings[piece[start:end]] += count
    frequent = ((piece, count) for piece, count in substrings.items() if count >= MIN_SEED_COUNT)
    return sorted(frequent, key=lambda item: (-item[1] * len(item[0]), item[0]))[:MAX_SEEDS]


def _train(config: PreprocessConfig, directory: Path, counts: Counter[str], settings: dict, marker: Path) -> dict:
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_WORDS]
    if not ranked:
        raise ConfigError(f"{directory}: no words to train a tokenizer on. Run the segment stage on a corpus that is not empty.")
    kept = Counter(dict(ranked))
    marker.unlink(missing_ok=True)
    words, seeds, model = directory / "words.tsv", directory / "seed.tsv", io.BytesIO()
    with atomic_file(words) as f:
        f.writelines(f"{word}\t{count}\n".encode() for word, count in ranked)
    with atomic_file(seeds) as f:
        f.writelines(f"{piece}\t{count}\n".encode() for piece, count in seed_pieces(kept))
    log.info("tokenizer: %d words, %d of them distinct; training %d pieces", sum(counts.values()), len(counts), config.vocab_size)
    try:
        sentencepiece.SentencePieceTrainer.train(
            input=str(words),
            input_format="tsv",
            seed_sentencepieces_file=str(seeds),
            model_writer=model,
            model_type="unigram",
            vocab_size=config.vocab_size,
            character_coverage=config.character_coverage,
            max_sentencepiece_length=MAX_PIECE_LENGTH,
            normalization_rule_name="identity",
            add_dummy_prefix=True,
            pad_id=0,
            pad_piece=SPECIAL_TOKENS[0],
            bos_id=1,
            bos_piece=SPECIAL_TOKENS[1],
            eos_id=2,
            eos_piece=SPECIAL_TOKENS[2],
            unk_id=3,
            unk_piece=SPECIAL_TOKENS[3],
            control_symbols=SPECIAL_TOKENS[4],
            num_threads=TRAINER_THREADS,
            minloglevel=1,
        )
    except RuntimeError as e:
        raise ConfigError(
            f"preprocess.vocab_size {config.vocab_size} does not fit a text of {len(counts)} distinct words: {_reason(e)} "
            "Set a smaller preprocess.vocab_size (and model.vocab_size), or add text."
        ) from e
    with atomic_file(directory / "spm.model") as f:
        f.write(model.getvalue())
    write_hugging_face_files(directory)
    result = {
        "sha256": file_sha256(directory / "spm.model"),
        "pieces": config.vocab_size,
        "words": sum(counts.values()),
        "distinct_words": len(counts),
        "settings": settings,
    }
    write_json(marker, result)
    return result


def _reason(error: RuntimeError) -> str:
    """The last sentence of sentencepiece's message, without its source position."""
    text = str(error).rpartition("] ")[2].strip() or str(error)
    return text.rstrip(".") + "."


def write_hugging_face_files(directory: Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json beside `spm.model`.

    `tokenizer.json` is built here, piece by piece, and not by a Hugging Face class, because transformers 4 and 5 build different
    ones from the same spm.model; both load this file as it is.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import Unigram

    processor = sentencepiece.SentencePieceProcessor(model_file=str(directory / "spm.model"))
    vocabulary = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(len(processor))]
    tokenizer = Tokenizer(Unigram(vocabulary, unk_id=SPECIAL_TOKENS.index("[UNK]"), byte_fallback=False))
    # The text is normalised before; what is left to do is what sentencepiece does by itself: runs of space are one, none at the ends.
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    ids = [(token, SPECIAL_TOKENS.index(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=ids
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS])
    with atomic_path(directory / "tokenizer.json") as path:
        tokenizer.save(str(path))
    write_json(directory / "tokenizer_config.json", TOKENIZER_CONFIG)
    tokens = {k: v for k, v in TOKENIZER_CONFIG.items() if k.endswith("_token")}
    write_json(directory / "special_tokens_map.json", tokens)
    # AutoTokenizer picks the class by the model type.
    with atomic_file(directory / "config.json") as f:
        f.write(orjson.dumps({"model_type": "deberta-v2", "vocab_size": len(processor)}))
