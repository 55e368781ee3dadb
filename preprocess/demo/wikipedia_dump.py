"""The demo's Wikipedia dump: multistream XML of schema 0.10, its index, and the markup that a cleaner has to remove.

Promises the counts it returns: articles, and pages in the file with redirects, disambiguations and other namespaces.
"""

import bz2
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.sax.saxutils import escape

from jadeberta.utils.files import atomic_file
from preprocess.demo.documents import Document, Lexicon
from preprocess.demo.sentences import write

NAME = "jawiki-demo-pages-articles-multistream"
PAGES_IN_STREAM = 50
SITEINFO = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" version="0.10" xml:lang="ja">
  <siteinfo>
    <sitename>Wikipedia</sitename>
    <dbname>jawiki</dbname>
    <generator>jadeberta demo corpus</generator>
    <case>first-letter</case>
    <namespaces>
      <namespace key="0" case="first-letter" />
      <namespace key="1" case="first-letter">ノート</namespace>
      <namespace key="4" case="first-letter">Wikipedia</namespace>
      <namespace key="10" case="first-letter">Template</namespace>
      <namespace key="14" case="first-letter">Category</namespace>
    </namespaces>
  </siteinfo>
"""
OTHER_NAMESPACES = ((1, "ノート"), (4, "Wikipedia"), (10, "Template"), (14, "Category"))
HEADINGS = ("概要", "特徴", "歴史", "利用", "評価", "種類")


def _link(document: Document, sentences: Iterable[str]) -> Iterator[str]:
    """The sentences with the first mention of each noun marked up in one of the ways of real articles."""
    readings = {word.surface: word.reading for word in document.nouns}
    title = document.things[0].surface
    unseen = {surface for surface in readings if surface != title}
    nouns = re.compile("|".join(sorted(map(re.escape, readings), key=lambda surface: (-len(surface), surface))))

    def mark(match: re.Match[str]) -> str:
        surface = match[0]
        if surface not in unseen:
            return surface
        unseen.discard(surface)
        draw = document.rng.random()
        if draw < 0.08:
            return f"{{{{ruby|{surface}|{readings[surface]}}}}}"
        if draw < 0.16:
            return f"{{{{仮リンク|{surface}|en|Example|label={surface}}}}}"
        return f"[[{surface} ({document.topic})|{surface}]]" if draw < 0.4 else f"[[{surface}]]"

    for number, sentence in enumerate(sentences):
        text = nouns.sub(mark, sentence)
        if number == 0:
            text = text.replace(title, f"'''{title}'''（{document.things[0].reading}）", 1)
        if document.chance(0.1):
            text += (
                f'<ref name="r{number}">{{{{Cite web|url=https://example.jp/{number}|title=出典|accessdate=2022-10-20}}}}</ref>'
            )
        yield text


def _article(document: Document, title: str) -> str:
    """Wikitext with an infobox, sections, now and then a picture, a table and a comment, and the usual end of a page."""
    sentences = list(_link(document, document.sentences))
    blocks = [f"{{{{Infobox {document.topic}\n|名称 = {title}\n|所在地 = [[{document.town.area}]]\n|画像 = Sample.jpg\n}}}}"]
    if document.chance(0.3):
        blocks.append(f"[[ファイル:Sample.jpg|thumb|right|200px|{title}の例]]")
    lead = min(len(sentences), document.rng.randint(2, 4))
    blocks.append("".join(sentences[:lead]))
    headings = iter(document.rng.sample(HEADINGS, len(HEADINGS)))
    while lead < len(sentences):
        size = document.rng.randint(4, 7)
        blocks += [f"== {next(headings)} ==", "".join(sentences[lead : lead + size])]
        lead += size
    if document.chance(0.25):
        rows = "\n".join(f"|-\n| {document.rng.randint(1950, 2019)} || {document.rng.randint(10, 99)}" for _ in range(3))
        blocks.append(f'{{| class="wikitable"\n! 年 !! 数\n{rows}\n|}}')
    if document.chance(0.1):
        blocks.append("<!-- 数値は例である -->")
    related = "\n".join(f"* [[{word.surface}]]" for word in document.things[1:3])
    blocks += [f"== 関連項目 ==\n{related}", "== 脚注 ==\n{{Reflist}}", f"{{{{DEFAULTSORT:{document.things[0].reading}}}}}"]
    blocks += [f"[[Category:{document.topic}]]\n[[Category:{document.town.area}]]", "[[en:Example]]"]
    return "\n\n".join(blocks)


def _page(page_id: int, namespace: int, title: str, text: str, redirect: str = "") -> str:
    target = f'    <redirect title="{escape(redirect, {chr(34): "&quot;"})}" />\n' if redirect else ""
    return f"""  <page>
    <title>{escape(title)}</title>
    <ns>{namespace}</ns>
    <id>{page_id}</id>
{target}    <revision>
      <id>{page_id * 10 + 9}</id>
      <timestamp>2022-10-20T00:00:00Z</timestamp>
      <contributor>
        <username>Demo</username>
        <id>1</id>
      </contributor>
      <model>wikitext</model>
      <format>text/x-wiki</format>
      <text bytes="{len(text.encode())}" xml:space="preserve">{escape(text)}</text>
    </revision>
  </page>
"""


def _pages(lexicon: Lexicon, seed: int, articles: int, counts: dict[str, int]) -> Iterator[tuple[int, str, str]]:
    """(page id, title, XML): the articles and, between them, pages that a reader must leave out."""
    titles: set[str] = set()
    page_id = 0

    def page(namespace: int, title: str, text: str, redirect: str = "") -> tuple[int, str, str]:
        nonlocal page_id
        page_id += rng.randint(1, 9)
        counts["wikipedia_pages_in_file"] += 1
        return page_id, title, _page(page_id, namespace, title, text, redirect)

    def unused(*names: str) -> str | None:
        name = next((name for name in names if name not in titles), None)
        if name is not None:
            titles.add(name)
        return name

    ordinal = 0
    while counts["wikipedia_articles"] < articles:
        ordinal += 1
        key = f"{seed}-wikipedia-{ordinal}"
        rng = random.Random(key + "-page")
        document = write(lexicon, key, "written", rng.randint(5, 25))
        word, place = document.things[0], document.town.surface
        title = unused(word.surface, f"{word.surface} ({document.topic})", f"{place}の{word.surface}")
        if title is None:
            continue
        counts["wikipedia_articles"] += 1
        yield page(0, title, _article(document, title))
        draw = rng.random()
        if draw < 0.08:
            if name := unused(word.reading, f"{word.surface}とは"):
                yield page(0, name, f"#{rng.choice(('転送', 'REDIRECT'))} [[{title}]]", redirect=title)
        elif draw < 0.11:
            if name := unused(f"{word.surface} (曖昧さ回避)"):
                others = "\n".join(f"* [[{word.surface} ({topic})]] - {topic}の用語" for topic in rng.sample(lexicon.topics, 2))
                marker = rng.choice(("{{aimai}}", "{{曖昧さ回避}}", "{{Aimai}}"))
                yield page(0, name, f"'''{word.surface}'''\n\n{others}\n\n{marker}")
        elif draw < 0.16:
            namespace, prefix = rng.choice(OTHER_NAMESPACES)
            if name := unused(f"{prefix}:{word.surface}"):
                yield page(namespace, name, "".join(document.sentences[:2]))


def write_wikipedia(directory: Path, lexicon: Lexicon, seed: int, articles: int) -> dict[str, int]:
    """A multistream dump: siteinfo, blocks of pages and the closing tag are bz2 streams of their own; the index says where."""
    counts = {"wikipedia_articles": 0, "wikipedia_pages_in_file": 0}
    index: list[str] = []
    with atomic_file(directory / f"{NAME}.xml.bz2") as f:
        offset = f.write(bz2.compress(SITEINFO.encode()))
        block: list[str] = []

        def flush() -> int:
            written = f.write(bz2.compress("".join(block).encode())) if block else 0
            block.clear()
            return offset + written

        for page_id, title, xml in _pages(lexicon, seed, articles, counts):
            if len(block) == PAGES_IN_STREAM:
                offset = flush()
            block.append(xml)
            index.append(f"{offset}:{page_id}:{escape(title)}\n")
        flush()
        f.write(bz2.compress(b"</mediawiki>\n"))
    with atomic_file(directory / f"{NAME}-index.txt.bz2") as f:
        f.write(bz2.compress("".join(index).encode()))
    return counts
