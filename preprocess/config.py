"""The `preprocess` section of a recipe as dataclasses, one docstring a key. `load_config` reads and checks it."""

from dataclasses import dataclass, field
from typing import Any, Literal

from jadeberta.shards import Packing

Engine = Literal["jumanpp", "juman", "mecab"]
Duplicates = Literal["none", "exact", "near"]
Pieces = Literal["subwords", "characters"]
CorpusFormat = Literal["wikipedia", "cc100", "oscar", "jsonl"]


@dataclass
class CorpusConfig:
    """One source of text; its key in `preprocess.corpora` is the corpus's name and the prefix of its document ids."""

    format: CorpusFormat
    """wikipedia (multistream XML, .bz2), cc100 (.xz), oscar (22.01 .gz or 23.01 .zst), jsonl ({"text": ...} a line)."""
    path: str
    """Glob of the corpus's files; a Wikipedia index file beside a dump is found by its name."""
    repeats: int = 1
    """How often training sees the corpus in an epoch; written into index.json, applied by the sample order."""


@dataclass
class SegmenterConfig:
    """Which word segmenter cuts the sentences; a run never falls back from one engine to another."""

    engine: Engine = "jumanpp"
    """jumanpp (the published recipe's), juman, or mecab (fugashi with JumanDIC, installed by pip)."""
    command: str = ""
    """Program and its own options for jumanpp and juman, e.g. "jumanpp --model=/opt/j.jppmdl"; empty: the engine on PATH."""
    batch_sentences: int = 5000
    """Sentences given to one jumanpp process."""
    timeout_seconds: float = 60.0
    """Wall time that one batch may take."""
    memory_mib: int = 3000
    """Address space that one jumanpp process may use (RLIMIT_AS), MiB; repeated characters make it grow cubically."""


@dataclass
class DuplicatesConfig:
    """Which documents are left out because an earlier one, of any corpus, is the same; the corpora come in the recipe's order."""

    remove: Duplicates = "none"
    """none, exact (the same normalised text), or near (also those of similar text; needs the extra `quality`)."""
    similarity: float = 0.8
    """Of near duplicates: the share of common strings of five characters (Jaccard) at which every second pair is found."""


@dataclass
class PreprocessConfig:
    """Everything that the four stages need to know."""

    corpora: dict[str, CorpusConfig] = field(default_factory=dict)
    """The corpora by name."""
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    pieces: Pieces = "subwords"
    """What the tokens are: subwords, none across a word's border; characters, with the words kept for whole-word masking."""
    vocab_size: int = 32000
    """Pieces in the sentencepiece model, special tokens included."""
    character_coverage: float = 0.9999
    """Share of the running characters that must be in the vocabulary; the rest becomes [UNK]."""
    heldout_documents: int = 5000
    """Documents of each corpus kept out of training, chosen by a hash of the id; never more than a tenth of the corpus."""
    part_bytes: int = 32 * 2**20
    """UTF-8 bytes of text in one part of extracted documents: the unit that segmentation shares out and repeats after a kill."""
    shard_bytes: int = 256 * 2**20
    """UTF-8 bytes of segmented text that become one shard: the unit of packing."""
    quality: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    """HojiChar's filters by name with their options, in the order in which they judge a document; needs the extra `quality`."""
    duplicates: DuplicatesConfig = field(default_factory=DuplicatesConfig)
    """Which documents are left out as duplicates of others."""
    packing: Packing = "concat"
    """How documents become rows of 512: concat, one after the other and no padding; best_fit, none across two rows, up to 1% padding."""
