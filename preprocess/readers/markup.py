"""Wikitext to plain text: mwparserfromhell parses, the tables below say what of each page is kept.

Keeps the words a reader sees in running text; drops what is not sentences: tables, notes, media, navigation, lists of sources.
"""

import re
from collections.abc import Iterable

import mwparserfromhell
from mwparserfromhell.nodes import Argument, ExternalLink, Heading, HTMLEntity, Node, Tag, Template, Text, Wikilink

from preprocess.readers.language_codes import LANGUAGE_CODES


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# A page whose text calls one of these is a list of links. A link to 'X (曖昧さ回避)' is not a call.
_DISAMBIGUATION = re.compile(
    r"\{\{\s*(?:template:|テンプレート:)?\s*"
    r"(?:aimai|disambig(?:uation)?|disamb|dab|hndis|geodis|mathdab|曖昧さ回避|[^\s{}|\[\]]{1,12}の曖昧さ回避|人名曖昧さ回避)"
    r"\s*(?:<!--.*?-->\s*)*(?:\||\}\})",
    re.IGNORECASE | re.DOTALL,
)

# Sections that hold references and links, not sentences; dropped with their subsections.
DROPPED_SECTIONS = _words("""
    脚注 注釈 注 注記 出典 参照 参考文献 参考資料 関連文献 関連書籍 文献 関連項目 関連リンク 外部リンク
    脚注・出典 注釈・出典 出典・脚注 脚注・参考文献 出典・参考文献 References
""")

DROPPED_TAGS = _words("""
    ref references table math chem ce gallery timeline score imagemap syntaxhighlight source pre style script hiero
    templatestyles mapframe maplink graph inputbox categorytree indicator includeonly rt rp
""")
LINE_BREAK_TAGS = _words("br hr")
# Their text is a line of its own. Markers of list items are such tags too, with nothing inside.
BLOCK_TAGS = _words("li dt dd p div blockquote poem center")

# Which argument of a template is running text: the first of these that is given. Every other template is dropped.
TEMPLATE_ARGUMENT = {
    "仮リンク": ("label", "1"),
    "日本語版にない記事リンク": ("label", "1"),
    "illm": ("1",),
    "illm2": ("1",),
    "ill": ("1",),
    "ill2": ("1",),
    "ruby": ("1",),
    "rubi": ("1",),
    "ルビ": ("1",),
    "ふりがな": ("1",),
    "読み仮名": ("1",),
    "読み仮名 ruby不使用": ("1",),
    "lang": ("2",),
    "flag": ("1",),
    "nihongo": ("1",),
    "audio": ("2",),
    "color": ("2",),
    "font color": ("2",),
    "fontsize": ("2",),
    "要出典範囲": ("1",),
    "要検証範囲": ("1",),
    "要追加記述範囲": ("1",),
    "独自研究範囲": ("1",),
    **dict.fromkeys(
        _words("""
            small smaller big larger nowrap nobr sup sub underline smallcaps unicode ipa vanchor tooltip abbr
            quote quotation cquote
            傍点 下線 縦書き 拡張漢字 jis2004フォント jis90フォント 補助漢字フォント cp932フォント
        """),
        ("1",),
    ),
    "visible anchor": ("1",),
}
# {{lang-en|word}}, {{lang-en-short|word}}, {{link-en|記事|article}}
_FIRST_ARGUMENT_FAMILY = re.compile(r"(?:lang|link)-[a-z-]+")
# Templates that stand for one character.
TEMPLATE_CHARACTER = {"!": "|", "=": "=", "'": "'", "スペース": " ", "sp": " ", "nbsp": " "}

DROPPED_NAMESPACES = _words("ファイル 画像 file image メディア media カテゴリ category")
# Stands where something was dropped until the text is whole: only brackets that we emptied are removed, not those of 'main()'.
_GAP = "\x00"
_STRAY_TAGS = "ref|div|span|small|big|center|font|br|nowiki|sup|sub|table|tr|td|th|b|i|u|s|li|ul|ol|p|poem|gallery"
# What the parser leaves of broken or unparsed markup, in this order.
RESIDUE: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.MULTILINE), replacement)
    for pattern, replacement in (
        # （{{IPA|…}}、{{lang|…}}） of which nothing is left
        (r"[（(][\s、，,;；:：・/／]*\x00[\s、，,;；:：・/／\x00]*[）)]", ""),
        # （{{ラテン語}}、1900年 - ）
        (r"([（(])\s*\x00[\s\x00]*[、，,;；]\s*", r"\1"),
        (r"[、，,;；]\s*\x00[\s\x00]*([）)])", r"\1"),
        (r"\x00", ""),
        (r"__(?:[A-Z]{3,}|目次|目次強制|目次非表示|節編集非表示)__", ""),
        # bold and italics: never parsed, as one stray apostrophe would pair up half a page
        (r"'{2,}", ""),
        # rows of a table that was never closed
        (r"^\s*(?:\{\||\|).*$", ""),
        # tags without their partner
        (rf"</?(?:{_STRAY_TAGS})\b[^<>\n]*>", ""),
        (r"\[\[|\]\]|\{\{|\}\}", ""),
        # a heading with something behind it, markers of list items
        (r"^={2,6}[ \t]*(.+?)[ \t]*={2,6}[ \t]*$", r"\1"),
        (r"^[ \t]*[*#:;]+[ \t]*", ""),
        (r"[ \t]+$|^[ \t]+", ""),
        (r"\n{2,}", "\n"),
    )
)


# The parser's time grows with the square to the cube of the openings never closed: 4,000 of '{{a|' took 16 s, 500 take 0.1 s.
MAX_UNCLOSED = 500
_OPENINGS_AND_CLOSINGS = (
    re.compile(r"(\{\{)|\}\}"),
    re.compile(r"(\[\[)|\]\]"),
    re.compile(r"(\{\|)|\|\}"),
    re.compile(r"(<(?!br|hr|li|dd|dt|t[rdh]\b|p\b)[a-z])|</|/>", re.IGNORECASE),
)


def is_disambiguation(wikitext: str) -> bool:
    return _DISAMBIGUATION.search(wikitext) is not None


def clean(wikitext: str) -> str:
    """The running text of a page, one paragraph, heading or list item a line.

    Raises ValueError where more than 500 brackets or tags are left open, and what mwparserfromhell raises where it cannot parse.
    """
    if any(_unclosed(wikitext, marks) > MAX_UNCLOSED for marks in _OPENINGS_AND_CLOSINGS):
        raise ValueError(f"more than {MAX_UNCLOSED} brackets or tags are never closed")
    text = _render(mwparserfromhell.parse(wikitext.replace(_GAP, ""), skip_style_tags=True).nodes)
    for pattern, replacement in RESIDUE:
        text = pattern.sub(replacement, text)
    return text.strip()


def _unclosed(wikitext: str, marks: re.Pattern[str]) -> int:
    depth = 0
    for match in marks.finditer(wikitext):
        depth = depth + 1 if match.group(1) else max(0, depth - 1)
    return depth


def _render(nodes: Iterable[Node]) -> str:
    kept: list[str] = []
    dropped_level = 0
    for node in nodes:
        if isinstance(node, Heading):
            title = _render(node.title.nodes).strip()
            if not dropped_level or node.level <= dropped_level:
                dropped_level = node.level if title.replace(_GAP, "") in DROPPED_SECTIONS else 0
                kept.append("" if dropped_level else f"\n{title}\n")
        elif not dropped_level:
            kept.append(_render_node(node))
    return "".join(kept)


def _render_node(node: Node) -> str:
    if isinstance(node, Text):
        return str(node.value)
    if isinstance(node, Wikilink):
        return _link(node)
    if isinstance(node, Template):
        return _template(node)
    if isinstance(node, Tag):
        return _tag(node)
    if isinstance(node, HTMLEntity):
        return _entity(node)
    if isinstance(node, ExternalLink):
        shown = node.title if node.brackets else node.url
        return _render(shown.nodes) if shown is not None else _GAP
    if isinstance(node, Argument):
        return _render(node.default.nodes) if node.default is not None else _GAP
    return ""  # a comment


def _link(node: Wikilink) -> str:
    title = str(node.title).strip()
    namespace = title.partition(":")[0].strip().lower() if ":" in title else ""
    if namespace in DROPPED_NAMESPACES or namespace in LANGUAGE_CODES:
        return ""
    return _render(node.text.nodes) if node.text is not None else _render(node.title.nodes).removeprefix(":")


def _template(node: Template) -> str:
    name = re.sub(r"<!--.*?-->", "", str(node.name), flags=re.DOTALL).strip().replace("_", " ").lower()
    if name in TEMPLATE_CHARACTER:
        return TEMPLATE_CHARACTER[name]
    candidates = ("1",) if _FIRST_ARGUMENT_FAMILY.fullmatch(name) else TEMPLATE_ARGUMENT.get(name, ())
    for argument in candidates:
        if node.has(argument, ignore_empty=True):
            return _render(node.get(argument).value.nodes).strip()
    return _GAP


def _tag(node: Tag) -> str:
    name = str(node.tag).strip().lower()
    if name in DROPPED_TAGS:
        return _GAP
    if name in LINE_BREAK_TAGS:
        return "\n"
    text = _render(node.contents.nodes) if node.contents is not None else ""
    return f"\n{text}\n" if name in BLOCK_TAGS else text


def _entity(node: HTMLEntity) -> str:
    try:
        return str(node.normalize())
    except (ValueError, OverflowError, KeyError):
        return ""
