"""The demo corpus: same bytes for the same seed, files in the formats of the sources, and text that a model can learn from."""

import bz2
import gzip
import io
import json
import lzma
import math
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import fugashi
import jumandic
import pytest
import zstandard

from preprocess.demo.__main__ import main
from preprocess.demo.corpus import write_corpus
from preprocess.demo.sentences import STYLES, Document
from preprocess.demo.vocabulary import SURNAMES, TOPICS, TOWNS

DUMP = "jawiki-demo-pages-articles-multistream.xml.bz2"
INDEX = "jawiki-demo-pages-articles-multistream-index.txt.bz2"
REMOVED_TAGS = {"header", "footer", "noisy"}
XML = "{http://www.mediawiki.org/xml/export-0.10/}"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("demo")
    write_corpus(directory, documents=400, seed=3, oscar_2301=True)
    return directory


@pytest.fixture(scope="module")
def expected(corpus: Path) -> dict[str, int]:
    return json.loads((corpus / "expected.json").read_bytes())


@pytest.fixture(scope="module")
def tagger() -> fugashi.GenericTagger:
    return fugashi.GenericTagger(jumandic.MECAB_ARGS)


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def cc100_of(directory: Path) -> list[str]:
    return lzma.decompress((directory / "cc100-ja.txt.xz").read_bytes()).decode().rstrip("\n").split("\n\n")


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_corpus(corpus: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "again", documents=400, seed=3, oscar_2301=True)
    write_corpus(tmp_path / "other", documents=400, seed=4, oscar_2301=True)
    assert files_of(tmp_path / "again") == files_of(corpus)
    assert all(files_of(tmp_path / "other")[name] != data for name, data in files_of(corpus).items())


def test_a_larger_corpus_begins_with_the_smaller_one(corpus: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path, documents=50, seed=3)
    assert cc100_of(corpus)[:20] == cc100_of(tmp_path)


def test_the_documents_asked_for_are_those_that_extraction_keeps(expected: dict[str, int]) -> None:
    assert (expected["wikipedia_articles"], expected["cc100_documents"], expected["oscar2201_kept"]) == (120, 160, 120)
    assert expected["oscar2301_kept"] == 60


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


def test_every_noun_is_one_word_to_the_segmenter_and_so_are_the_forms_of_a_verb(tagger: fugashi.GenericTagger) -> None:
    nouns = {noun for topic in TOPICS for noun in topic.nouns}
    frames = [(n, frame.format(n)) for n in nouns for frame in ("、{}を見た", "の{}が", "「{}は")]
    frames += [(name, f"、{name}さんは") for name in SURNAMES] + [(town, f"、{town}市の") for town in TOWNS]
    assert [word for word, text in frames if word not in [node.surface for node in tagger(text)]] == []
    assert len(nouns) > 200
    for verb in {verb for topic in TOPICS for verb in topic.verbs}:
        lemmas = [
            [node.feature[4] for node in tagger(f"人{form}。") if node.feature[0] in ("動詞", "名詞")][1:]
            for form in (verb.polite, verb.plain, verb.te)
        ]
        assert lemmas[0] and lemmas[0] == lemmas[1] == lemmas[2], (verb, lemmas)


def test_forms_follow_the_style_of_the_document() -> None:
    plain, polite, written = ("".join(Document("1", style).sentences) for style in STYLES)
    assert "でした。" not in plain + written and "ました。" in polite
    assert "た。" in plain and "である" in written and "である" not in plain + polite
    assert all(sentence.endswith("。") for style in STYLES for sentence in Document("2", style).sentences)


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


def test_context_predicts_the_words_of_a_document(tagger: fugashi.GenericTagger) -> None:
    documents = [Document(f"{ordinal}", STYLES[ordinal % 3]) for ordinal in range(1000)]
    segmented = [[node.surface for sentence in d.sentences for node in tagger(sentence)] for d in documents]
    plain, given_previous = entropies(segmented)
    assert plain > 7 and plain - given_previous > 3
    # Most nouns of a document come back in it, so that a masked one can be read off the rest.
    nouns = {noun for topic in TOPICS for noun in topic.nouns}
    recurring = [Counter(tokens)[token] > 1 for tokens in segmented for token in tokens if token in nouns]
    assert sum(recurring) / len(recurring) > 0.8


def test_the_command_writes_it_and_prints_the_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["demo", str(tmp_path), "--documents", "20", "--seed", "3"])
    main()
    written = json.loads((tmp_path / "expected.json").read_bytes())
    first, *counts = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{tmp_path}: 20 documents in ") and counts == [
        f"  {name}: {count}" for name, count in written.items()
    ]


def test_a_corpus_that_is_too_small_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["demo", str(tmp_path / "demo"), "--documents", "9"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "--documents 9: too few for three corpora" in capsys.readouterr().err and not (tmp_path / "demo").exists()
