"""The `preprocess` section of a recipe as dataclasses, one docstring a key. `load_config` reads and checks it."""

from dataclasses import dataclass, field
from typing import Any, Literal

from jadeberta.shards import Packing

Engine = Literal["jumanpp", "juman", "mecab", "none"]
TokenizerInput = Literal["auto", "words", "text"]
Normaliser = Literal["auto", "nfkc-space-2", "none"]
WordSource = Literal["auto", "segmenter", "tokenizer", "pieces", "tokens"]
ModelType = Literal["unigram", "bpe"]
NormalizationRule = Literal["identity", "nfkc", "nfkc_cf", "nmt_nfkc", "nmt_nfkc_cf"]
Duplicates = Literal["none", "exact", "near"]
Pieces = Literal["subwords", "characters"]
BadInput = Literal["stop", "exclude"]
CorpusFormat = Literal["wikipedia", "cc100", "oscar", "jsonl", "wikiextractor", "text", "parquet", "warc", "enterprise_html"]
Documents = Literal["", "file", "paragraph"]


@dataclass
class CorpusConfig:
    """One corpus. Its key in `preprocess.corpora` is its name and the prefix of its document ids."""

    format: CorpusFormat
    """wikipedia (multistream XML), cc100 (text), oscar (22.01 or 23.01), jsonl ({"text": ...} a line), wikiextractor (<doc ...>),
    text (plain .txt), parquet, warc (WARC and WET), enterprise_html (Wikimedia's HTML dumps)."""
    path: str
    """Glob of the corpus's files; a Wikipedia index file beside a dump is found by its name."""
    repeats: int = 1
    """Number of times that training sees the corpus in an epoch; written into index.json, applied by the sample order."""
    text_key: str = ""
    """Field or column that holds the text; dots lead into nested ones (meta.body); empty: text, or else content."""
    id_key: str = ""
    """Field or column that holds the id of a document; dots lead into nested ones; empty: id where there is one."""
    where: str = ""
    """Filter on fields, e.g. score >= 3 and language == "ja"; other records are dropped and counted; empty: all stay."""
    documents: Documents = ""
    """What a document is in plain text (format: text): file or paragraph; empty: file; other formats say it themselves."""


@dataclass
class SegmenterConfig:
    """The word segmenter. A run never falls back from one engine to another."""

    engine: Engine = "jumanpp"
    """jumanpp (the published recipe's), juman, mecab (fugashi with JumanDIC, installed by pip), or none: no word segmentation."""
    command: str = ""
    """Program and its own options for jumanpp and juman, e.g. "jumanpp --model=/opt/j.jppmdl"; empty: the engine on PATH."""
    batch_sentences: int = 5000
    """Number of sentences given to one jumanpp process, or at once to mecab."""
    timeout_seconds: float = 60.0
    """Wall time limit of one batch, in seconds; one line may take a quarter of it."""
    memory_mib: int = 3000
    """Limit on the address space of the engine's process (RLIMIT_AS), in MiB; Juman++'s grows cubically with repeated characters."""


@dataclass
class DuplicatesConfig:
    """Removal of documents that are the same as an earlier one of any corpus; corpora are in the recipe's order."""

    remove: Duplicates = "none"
    """none, exact (the same normalised text), or near (also those of similar text; needs the extra `quality`)."""
    similarity: float = 0.8
    """Similarity (Jaccard, of strings of five characters) at which every second pair of near duplicates is found."""


@dataclass
class EvaluationSetConfig:
    """One evaluation set. Its key in `preprocess.decontamination.sets` is the name under which documents are counted."""

    path: str
    """Glob of its files: JSON Lines, or JSON as SQuAD has it; JGLUE's as published, also compressed."""
    fields: list[str] = field(default_factory=list)
    """Fields whose texts are looked for; empty: question, sentence, sentence1 and sentence2, those of them that are there."""


@dataclass
class DecontaminationConfig:
    """Removal of documents that hold a text of an evaluation set; letters and digits alone are compared."""

    sets: dict[str, EvaluationSetConfig] = field(default_factory=dict)
    """The evaluation sets by name; none: no document is looked through."""
    characters: int = 25
    """Length in letters of the strings of a text that are looked for; a document that holds one is dropped."""
    shortest: int = 10
    """Smallest length in letters of a text that is looked for as a whole, where it is shorter than `characters`."""


@dataclass
class PreprocessConfig:
    """Settings of the four stages."""

    corpora: dict[str, CorpusConfig] = field(default_factory=dict)
    """The corpora by name."""
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    """The word segmenter."""
    pieces: Pieces = "subwords"
    """Kind of tokens: subwords, which do not cross word boundaries; characters, with the words kept for whole-word masking."""
    normaliser: Normaliser = "auto"
    """How text is normalised before all else: nfkc-space-2 (NFKC, split into sentences), or none: documents as they are, uncut; auto: none
    with segmenter.engine none, else nfkc-space-2."""
    tokenizer: str = "train"
    """train: a sentencepiece model of this text; or the path of a tokenizer: a sentencepiece model, or a directory with tokenizer.json
    (Hugging Face) or a sentencepiece model."""
    tokenizer_input: TokenizerInput = "auto"
    """What the tokenizer reads: words (the segmenter's, a space between two), or text without them; auto: words where there are any."""
    word_starts: WordSource = "auto"
    """What says where words start, for whole-word masks: segmenter, tokenizer (its pre-tokenizer), pieces (their ▁), tokens (each is a
    word); auto: the segmenter where there is one, else the tokenizer or, for sentencepiece, the pieces."""
    model_type: ModelType = "unigram"
    """Kind of the sentencepiece model that is trained: unigram or bpe."""
    byte_fallback: bool = False
    """Whether the trained model writes unknown characters as their bytes, so that no text becomes [UNK]."""
    split_digits: bool = False
    """Whether each digit is a piece of its own in the trained model."""
    normalization_rule_name: NormalizationRule = "identity"
    """Normalisation inside the trained model, by sentencepiece's name; identity: none, as `normaliser` comes before."""
    vocab_size: int = 32000
    """Number of pieces in the sentencepiece model, special tokens included; a given tokenizer has its own."""
    character_coverage: float = 0.9999
    """Share of the running characters that must be in the vocabulary; the rest becomes [UNK]."""
    heldout_documents: int = 5000
    """Number of documents of each corpus kept out of training, chosen by a hash of the id; at most a tenth of the corpus."""
    bad_input: BadInput = "stop"
    """A line or page that cannot be read: stop ends the stage and names it; exclude leaves it out, counts it and names it in the report."""
    bad_input_limit: float | Literal["auto"] = "auto"
    """Largest share of a corpus that bad_input: exclude may leave out, of its lines or pages; auto: 0.01, and always up to 10."""
    part_bytes: int = 32 * 2**20
    """UTF-8 bytes of text in one part of extracted documents; a part is a task of the segment stage."""
    shard_bytes: int = 256 * 2**20
    """UTF-8 bytes of segmented text in one shard; a shard is a task of the pack stage."""
    quality: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    """HojiChar's filters by name with their options, in the order in which they judge a document; needs the extra `quality`."""
    language: str | list[str] = ""
    """Code of the language whose documents are kept (ja), or a list of codes; empty: all. py3langid finds it (extra `quality`)."""
    language_probability: float = 0.5
    """Smallest probability of the language found at which a document is kept, from 0 to 1."""
    language_among: list[str] = field(default_factory=list)
    """Codes of the languages that can be found, e.g. [ja, zh, ko, en]; empty: all that py3langid knows."""
    decontamination: DecontaminationConfig = field(default_factory=DecontaminationConfig)
    """Removal of documents that hold a text of an evaluation set."""
    duplicates: DuplicatesConfig = field(default_factory=DuplicatesConfig)
    """Removal of duplicate documents."""
    sequence_length: int | list[int] = 512
    """Tokens in a row, 128 to 8192; of several, as in [512, 8192], each gets its own shards. Shards of the first have no length in their
    names, and training reads them where nothing else is said."""
    packing: Packing = "concat"
    """How documents become rows: concat, one after the other without padding; best_fit, none across two rows, up to 1% padding."""

    @property
    def sequence_lengths(self) -> tuple[int, ...]:
        """The row lengths in the recipe's order."""
        return (self.sequence_length,) if isinstance(self.sequence_length, int) else tuple(self.sequence_length)

    @property
    def segments(self) -> bool:
        """Whether a word segmenter works."""
        return self.segmenter.engine != "none"

    @property
    def keeps_text(self) -> bool:
        """Whether documents stay as they are: neither normalised nor split into sentences."""
        return self.normaliser == "none" or (self.normaliser == "auto" and not self.segments)

    @property
    def trains(self) -> bool:
        """Whether the tokenizer is trained here."""
        return self.tokenizer == "train"

    @property
    def reads_words(self) -> bool:
        """Whether the tokenizer reads the segmenter's words with spaces between them; characters never do."""
        return self.segments and self.pieces == "subwords" and self.tokenizer_input != "text"


def wanted_languages(config: PreprocessConfig) -> list[str]:
    """Returns the codes of the languages whose documents are kept; none: those of all."""
    if isinstance(config.language, str):
        return [config.language] if config.language else []
    return config.language
