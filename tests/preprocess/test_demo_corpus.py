"""The demo corpus: same bytes for the same seed, files in the formats of the sources, and text that a model can learn from."""

import bz2
import gzip
import io
import json
import lzma
import math
import random
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import fugashi
import jumandic
import pytest
import zstandard

from preprocess.demo.__main__ import DOCUMENTS, write_corpus
from preprocess.demo.documents import Document, Lexicon
from preprocess.demo.grammar import KINDS, TOPICS, adjective, verb
from preprocess.demo.sentences import write
from preprocess.demo.vocabulary import Word, load_words

DUMP = "jawiki-demo-pages-articles-multistream.xml.bz2"
INDEX = "jawiki-demo-pages-articles-multistream-index.txt.bz2"
REMOVED_TAGS = {"header", "footer", "noisy"}
XML = "{http://www.mediawiki.org/xml/export-0.10/}"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("demo")
    write_corpus(directory, documents=500, seed=3, oscar_2301=True)
    return directory


@pytest.fixture(scope="module")
def expected(corpus: Path) -> dict[str, int]:
    return json.loads((corpus / "expected.json").read_bytes())


@pytest.fixture(scope="module")
def words() -> list[Word]:
    return load_words()


@pytest.fixture(scope="module")
def tagger() -> fugashi.GenericTagger:
    return fugashi.GenericTagger(jumandic.MECAB_ARGS)


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def cc100_of(directory: Path) -> list[str]:
    return lzma.decompress((directory / "cc100-ja.txt.xz").read_bytes()).decode().rstrip("\n").split("\n\n")


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_corpus(corpus: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "again", documents=500, seed=3, oscar_2301=True)
    write_corpus(tmp_path / "other", documents=500, seed=4, oscar_2301=True)
    assert files_of(tmp_path / "again") == files_of(corpus)
    assert all(files_of(tmp_path / "other")[name] != data for name, data in files_of(corpus).items())


def test_a_larger_corpus_begins_with_the_smaller_one(corpus: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path, documents=100, seed=3)
    assert cc100_of(corpus)[:40] == cc100_of(tmp_path)


def test_the_documents_asked_for_are_those_that_extraction_keeps(expected: dict[str, int]) -> None:
    assert (expected["wikipedia_articles"], expected["cc100_documents"], expected["oscar2201_kept"]) == (150, 200, 150)
    assert expected["oscar2301_kept"] == 75


def test_the_dump_holds_the_expected_articles_among_pages_to_leave_out(corpus: Path, expected: dict[str, int]) -> None:
    reasons: Counter[str] = Counter()
    titles: list[str] = []
    with bz2.open(corpus / DUMP) as f:
        for page in ET.parse(f).getroot().iter(f"{XML}page"):
            text = page.findtext(f"{XML}revision/{XML}text") or ""
            titles.append(page.findtext(f"{XML}title") or "")
            if page.findtext(f"{XML}ns") != "0":
                reasons["namespace"] += 1
            elif page.find(f"{XML}redirect") is not None:
                reasons["redirect"] += 1
                assert text.startswith("#")
            elif "{{aimai}}" in text.lower() or "{{曖昧さ回避}}" in text:
                reasons["disambiguation"] += 1
            else:
                reasons["article"] += 1
                assert "'''" in text and "== 脚注 ==" in text
    assert reasons["article"] == expected["wikipedia_articles"]
    assert sum(reasons.values()) == expected["wikipedia_pages_in_file"]
    assert min(reasons[name] for name in ("namespace", "redirect", "disambiguation")) > 0
    assert len(set(titles)) == len(titles)


def test_the_articles_have_the_markup_of_real_ones(corpus: Path) -> None:
    text = bz2.decompress((corpus / DUMP).read_bytes()).decode()
    for markup in (
        "{{Infobox",
        "[[ファイル:",
        "{{ruby|",
        "{{仮リンク|",
        "&lt;ref",
        "{| class=",
        "[[Category:",
        "[[en:",
        "&lt;!--",
        "|thumb|",
    ):
        assert markup in text, markup


def test_every_offset_of_the_index_is_a_bz2_stream_with_that_page(corpus: Path, expected: dict[str, int]) -> None:
    data = (corpus / DUMP).read_bytes()
    lines = bz2.decompress((corpus / INDEX).read_bytes()).decode().splitlines()
    assert len(lines) == expected["wikipedia_pages_in_file"]
    streams: dict[int, str] = {}
    for line in lines:
        offset, page_id, title = line.split(":", 2)
        if int(offset) not in streams:
            streams[int(offset)] = bz2.BZ2Decompressor().decompress(data[int(offset) :]).decode()
        assert f"<title>{title}</title>" in streams[int(offset)]
        assert f"<id>{page_id}</id>" in streams[int(offset)]
    assert max(stream.count("<page>") for stream in streams.values()) == 50


def test_cc100_has_a_blank_line_between_documents(corpus: Path, expected: dict[str, int]) -> None:
    documents = cc100_of(corpus)
    assert len(documents) == expected["cc100_documents"]
    assert all(line.strip() for document in documents for line in document.split("\n"))


@pytest.mark.parametrize(("schema", "tags"), [("2201", "annotation"), ("2301", "quality_warnings")])
def test_oscar_counts_agree_and_each_line_has_its_language(
    corpus: Path, expected: dict[str, int], schema: str, tags: str
) -> None:
    if schema == "2201":
        raw = gzip.decompress((corpus / "oscar2201_ja_meta_part_1.jsonl.gz").read_bytes())
    else:
        stream = zstandard.ZstdDecompressor().stream_reader(io.BytesIO((corpus / "oscar2301_ja_part_1.jsonl.zst").read_bytes()))
        raw = stream.read()
    rows = [json.loads(line) for line in raw.splitlines()]
    kept = [row for row in rows if not REMOVED_TAGS & set(row["metadata"][tags] or ())]
    assert len(rows) == expected[f"oscar{schema}_documents"]
    assert len(kept) == expected[f"oscar{schema}_kept"]
    assert {tag for row in rows for tag in row["metadata"][tags] or ()} >= REMOVED_TAGS
    for row in rows:
        assert len(row["metadata"]["sentence_identifications"]) == row["content"].count("\n") + 1
        assert int(row["warc_headers"]["content-length"]) == len(row["content"].encode())


def test_verbs_inflect_as_a_grammar_book_has_them() -> None:
    table = {
        "食べる1": ("食べない", "食べます", "食べれば", "食べて", "食べた"),
        "行く": ("行かない", "行きます", "行けば", "行って", "行った"),
        "書く": ("書かない", "書きます", "書けば", "書いて", "書いた"),
        "泳ぐ": ("泳がない", "泳ぎます", "泳げば", "泳いで", "泳いだ"),
        "飼う": ("飼わない", "飼います", "飼えば", "飼って", "飼った"),
        "待つ": ("待たない", "待ちます", "待てば", "待って", "待った"),
        "運ぶ": ("運ばない", "運びます", "運べば", "運んで", "運んだ"),
        "出す": ("出さない", "出します", "出せば", "出して", "出した"),
        "観察する": ("観察しない", "観察します", "観察すれば", "観察して", "観察した"),
    }
    for text, forms in table.items():
        v = verb(text)
        assert (v.negative + "ない", v.stem + "ます", v.conditional + "ば", v.te, v.ta) == forms


def test_predicates_agree_with_tense_politeness_and_polarity() -> None:
    v, cheap, useful = verb("買う"), adjective("安い"), adjective("便利な")
    assert [v.predicate(tense, True) for tense in ("past", "future", "now")] == ["買いました", "買います", "買っています"]
    assert [v.predicate("past", polite, negated=True) for polite in (False, True)] == ["買わなかった", "買いませんでした"]
    assert [cheap.predicate(True, style) for style in ("plain", "polite")] == ["安かった", "安かったです"]
    assert [useful.predicate(False, style) for style in ("plain", "polite", "written")] == ["便利だ", "便利です", "便利である"]
    assert useful.predicate(True, "polite", negated=True) == "便利ではありませんでした"


# Written alike with another verb, which the segmenter takes out of context: 降ります is of 降りる and of 降る.
HOMOGRAPHS = {"降る", "下る", "通う", "行う", "つく"}


def test_the_segmenter_knows_every_inflected_form_as_a_form_of_its_verb(tagger: fugashi.GenericTagger) -> None:
    verbs = [v for kind in KINDS.values() for v in (*kind.done, *kind.does)]
    verbs += [v for _, phrases in TOPICS.values() for v in phrases]
    for v in verbs:
        for form in (v.te, v.ta, v.stem + "ます", v.negative + "ない", v.conditional + "ば"):
            lemmas = [node.feature[4] for node in tagger(f"人{form}。") if node.feature[0] in ("動詞", "接尾辞")]
            assert any(v.dictionary.endswith(lemma) or lemma in HOMOGRAPHS for lemma in lemmas), (v.dictionary, form, lemmas)


def entropies(documents: Iterable[list[str]]) -> tuple[float, float]:
    """H(word) and H(word | previous word) in bits."""
    single: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    for tokens in documents:
        single.update(tokens)
        pairs.update(zip(["", *tokens], tokens, strict=False))
    before: Counter[str] = Counter()
    for (previous, _), count in pairs.items():
        before[previous] += count
    total = single.total()
    plain = -sum(count / total * math.log2(count / total) for count in single.values())
    return plain, -sum(count / total * math.log2(count / before[pair[0]]) for pair, count in pairs.items())


def documents_of_default_size(lexicon: Lexicon) -> list[Document]:
    rng = random.Random(0)
    styles = {"written": 0.3, "polite": 0.44, "plain": 0.26}
    return [
        write(lexicon, f"{ordinal}", rng.choices(list(styles), list(styles.values()))[0], rng.randint(5, 25))
        for ordinal in range(DOCUMENTS)
    ]


def test_the_text_has_thousands_of_whole_dictionary_words_that_context_predicts(
    words: list[Word], tagger: fugashi.GenericTagger
) -> None:
    documents = documents_of_default_size(Lexicon(words))
    segmented = [[node.surface for sentence in d.sentences for node in tagger(sentence)] for d in documents]
    size = sum(len(sentence.encode()) for d in documents for sentence in d.sentences)
    assert 6e6 < size < 8e6
    assert 1.2e6 < sum(map(len, segmented)) < 1.6e6
    # A word of the grammar is kept whole where a document that has its letters also has it as a word.
    whole: list[bool] = []
    for document, tokens in zip(documents, segmented, strict=True):
        text, words_of_text = "".join(document.sentences), set(tokens)
        whole += [noun.surface in words_of_text for noun in document.nouns if noun.surface in text]
    assert sum(whole) / len(whole) > 0.95
    vocabulary = {word.surface for word in words}
    assert len(vocabulary & {token for tokens in segmented for token in tokens}) > 3000
    plain, given_previous = entropies(segmented)
    assert plain - given_previous > 3
    # Most nouns of a document come back in it, so that a masked one can be read off the rest.
    recurring = [Counter(tokens)[token] > 1 for tokens in segmented for token in tokens if token in vocabulary]
    assert sum(recurring) / len(recurring) > 0.6
