"""The demo's Wikipedia dump: multistream XML of schema 0.10, its index, and the markup that a cleaner has to remove.

The writer returns the counts that a right extraction finds: articles, and pages in the file, with redirects, disambiguation pages and
other namespaces.
"""

import bz2
import random
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar
from xml.sax.saxutils import escape

from jadeberta.utils.files import atomic_file
from preprocess.demo.sentences import Document
from preprocess.demo.vocabulary import TOWNS

NAME = "jawiki-demo-pages-articles-multistream"
PAGES_IN_STREAM = 50
Item = TypeVar("Item")
SITEINFO = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" version="0.10" xml:lang="ja">
  <siteinfo>
    <sitename>Wikipedia</sitename>
    <dbname>jawiki</dbname>
    <namespaces>
      <namespace key="0" case="first-letter" />
      <namespace key="1" case="first-letter">ノート</namespace>
      <namespace key="14" case="first-letter">Category</namespace>
    </namespaces>
  </siteinfo>
"""


def _batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    return iter(lambda: list(islice(rest, size)), [])


def _marked_up(document: Document) -> Iterator[str]:
    """The sentences; the first mention of each noun and town stands in one of the kinds of markup of real articles."""
    title, *others = document.nouns
    town, rng = document.town, document.rng
    marks = {title: f"'''{title}'''（英: Example）", town: f"{{{{ruby|{town}|{TOWNS[town]}}}}}"}
    for noun, draw in zip(others, rng.sample(range(3), 3), strict=True):
        link = f"{{{{仮リンク|{noun}|en|Example|label={noun}}}}}"
        marks[noun] = (f"[[{noun}]]", f"[[{noun} ({document.topic.name})|{noun}]]", link)[draw]
    for number, sentence in enumerate(document.sentences):
        # Only the first mention is marked up, as editors do.
        for word in [word for word in marks if word in sentence]:
            sentence = sentence.replace(word, marks.pop(word), 1)
        if rng.random() < 0.1:
            sentence += f'<ref name="r{number}">{{{{Cite web|url=https://example.jp/{number}|title=出典}}}}</ref>'
        yield sentence


def _article(document: Document, title: str) -> str:
    """Wikitext with an infobox, sections, now and then a picture, a table and a comment, and the usual end of a page."""
    rng, topic, town = document.rng, document.topic.name, document.town
    blocks = [f"{{{{Infobox {topic}\n|名称 = {title}\n|所在地 = [[{town}市]]\n|画像 = Sample.jpg\n}}}}"]
    if rng.random() < 0.3:
        blocks.append(f"[[ファイル:Sample.jpg|thumb|right|200px|{title}の例]]")
    lead, *sections = ("".join(part) for part in _batched(_marked_up(document), 5))
    blocks.append(lead)
    for number, section in enumerate(sections, 1):
        blocks += [f"== 概要{number} ==", section]
    if rng.random() < 0.25:
        rows = "\n".join(f"|-\n| {rng.randint(1950, 2019)} || {rng.randint(10, 99)}" for _ in range(3))
        blocks.append(f'{{| class="wikitable"\n! 年 !! 数\n{rows}\n|}}')
    if rng.random() < 0.1:
        blocks.append("<!-- 数値は例である -->")
    blocks += [f"== 関連項目 ==\n* [[{document.nouns[1]}]]", "== 脚注 ==\n{{Reflist}}", f"{{{{DEFAULTSORT:{title}}}}}"]
    return "\n\n".join([*blocks, f"[[Category:{topic}]]", "[[en:Example]]"])


def _page(page_id: int, title: str, text: str, namespace: int = 0, redirect: str = "") -> str:
    target = f'    <redirect title="{escape(redirect)}" />\n' if redirect else ""
    return f"""  <page>
    <title>{escape(title)}</title>
    <ns>{namespace}</ns>
    <id>{page_id}</id>
{target}    <revision>
      <id>{page_id * 10 + 9}</id>
      <timestamp>2022-10-20T00:00:00Z</timestamp>
      <model>wikitext</model>
      <format>text/x-wiki</format>
      <text bytes="{len(text.encode())}" xml:space="preserve">{escape(text)}</text>
    </revision>
  </page>
"""


def _pages(seed: int, articles: int) -> Iterator[tuple[int, str, str]]:
    """(page id, title, XML): the articles and, between them, pages that a reader must leave out."""
    titles: set[str] = set()
    for ordinal in range(articles):
        key = f"{seed}-wikipedia-{ordinal}"
        rng, document = random.Random(f"{key}-page"), Document(key, "written")
        noun = document.nouns[0]
        # Titles are unique in a dump.
        candidates = (noun, f"{document.town}の{noun}", *(f"{noun} (第{number}版)" for number in range(1, ordinal + 2)))
        title = next(name for name in candidates if name not in titles)
        titles.add(title)
        page_id = ordinal * 10 + 1
        yield page_id, title, _page(page_id, title, _article(document, title))
        page_id, draw = page_id + rng.randint(1, 9), rng.random()
        if draw < 0.08:
            name, text = f"{title}とは", f"#{rng.choice(('転送', 'REDIRECT'))} [[{title}]]"
            yield page_id, name, _page(page_id, name, text, redirect=title)
        elif draw < 0.11:
            name, marker = f"{title} (曖昧さ回避)", rng.choice(("{{aimai}}", "{{曖昧さ回避}}", "{{Aimai}}"))
            yield page_id, name, _page(page_id, name, f"'''{noun}'''\n\n* [[{title}]] - 用語\n\n{marker}")
        elif draw < 0.16:
            namespace, prefix = rng.choice(((1, "ノート"), (14, "Category")))
            name = f"{prefix}:{title}"
            yield page_id, name, _page(page_id, name, document.sentences[0], namespace)


def write_wikipedia(directory: Path, seed: int, articles: int) -> dict[str, int]:
    """A multistream dump: siteinfo, blocks of pages and the closing tag are bz2 streams of their own; the index holds their offsets."""
    index: list[str] = []
    with atomic_file(directory / f"{NAME}.xml.bz2") as f:
        offset = f.write(bz2.compress(SITEINFO.encode()))
        for block in _batched(_pages(seed, articles), PAGES_IN_STREAM):
            index += [f"{offset}:{page_id}:{escape(title)}\n" for page_id, title, _ in block]
            offset += f.write(bz2.compress("".join(xml for _, _, xml in block).encode()))
        f.write(bz2.compress(b"</mediawiki>\n"))
    with atomic_file(directory / f"{NAME}-index.txt.bz2") as f:
        f.write(bz2.compress("".join(index).encode()))
    return {"wikipedia_articles": articles, "wikipedia_pages_in_file": len(index)}
