"""Rules for what is text on a Wikipedia page, by name, in one table for each kind of markup. `markup.py` applies them.

Kept are the words that a reader sees in running text; dropped is what is no sentence: tables, notes, media, navigation, lists of
sources. A rule is added here together with a case in tests/preprocess/readers/test_markup.py, which fails where a name has none.
"""

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


TEMPLATE_ARGUMENT: dict[str, tuple[str, ...]] = {
    # links to other Wikipedias
    "仮リンク": ("label", "1"),
    "日本語版にない記事リンク": ("label", "1"),
    "illm": ("1",),
    "illm2": ("1",),
    "ill": ("1",),
    "ill2": ("1",),
    # readings: the base text
    "ruby": ("1",),
    "rubi": ("1",),
    "ルビ": ("1",),
    "ふりがな": ("1",),
    "読み仮名": ("1",),
    "読み仮名 ruby不使用": ("1",),
    # other languages
    "lang": ("2",),
    "nihongo": ("1",),
    "audio": ("2",),
    "flag": ("1",),
    "flagcountry": ("1",),
    # looks
    "color": ("2",),
    "font color": ("2",),
    "fontcolor": ("2",),
    "colors": ("3",),
    "背景色": ("2",),
    "fontsize": ("2",),
    **dict.fromkeys(
        _words("""
            small smaller big larger nowrap nobr sup sub underline smallcaps unicode ipa vanchor tooltip abbr em strong val
            傍点 圏点 強調 下線 縦書き 拡張漢字 jis2004フォント jis90フォント 補助漢字フォント cp932フォント
        """),
        ("1",),
    ),
    "visible anchor": ("1",),
    # passages
    **dict.fromkeys(_words("quote quotation cquote blockquote center indent"), ("1",)),
}
"""Arguments of a template that are running text: the first of these that is given. Every other template is dropped."""

FIRST_ARGUMENT_FAMILY = re.compile(r"(?:lang|link)-[a-z-]+|ruby-[a-z-]+|[^\s{}|]{1,12}範囲")
"""{{lang-en|word}}, {{link-en|記事|article}}, {{ruby-ja|漢字|かんじ}}, {{要出典範囲|doubted passage}}: the first argument is text."""

TEMPLATE_CHARACTER = {"!": "|", "=": "=", "'": "'", "スペース": " ", "sp": " ", "nbsp": " ", "small space": " "}
"""Templates that stand for one character."""

DISAMBIGUATION = (
    r"aimai|disambig(?:uation)?|disamb|dab|hndis|geodis|mathdab|曖昧さ回避|[^\s{}|\[\]]{1,12}の曖昧さ回避|人名曖昧さ回避"
)
"""A page that calls one of these templates is a list of links."""

DROPPED_NAMESPACES = _words("ファイル 画像 file image メディア media カテゴリ category")
"""Links into these show media or put the page into a category."""

DROPPED_SECTIONS = _words("""
    脚注 脚註 注釈 註釈 注 註 注記 出典 典拠 参照 参照文献 引用文献 参考文献 参考図書 参考資料 関連文献 関連書籍 文献 関連項目
    関連リンク 関連サイト 外部リンク 外部サイト references
""")
"""Sections of references and links, dropped with their subsections; also where a heading joins several (脚注・出典, 注釈と出典)."""
SECTION_JOINT = re.compile(r"\s*(?:[・、,/／]|および|及び|と)\s*")

DROPPED_EXTENSIONS = _words("""
    ref references math chem ce gallery timeline score imagemap syntaxhighlight source pre hiero templatestyles mapframe maplink
    graph inputbox categorytree indicator includeonly
""")
"""Tags whose content is no running text and no wikitext that could pair with what is outside."""
DROPPED_ELEMENTS = _words("table style script")
"""Tags of HTML that are dropped with what stands between them."""
READING_TAGS = _words("rt rp rtc")
"""Parts of <ruby> that end where the next one begins, as HTML lets editors leave out the closing tag."""
LINE_BREAK_TAGS = _words("br hr")
BLOCK_TAGS = _words("li dt dd dl ul ol p div blockquote poem center h1 h2 h3 h4 h5 h6 tr")
"""Their text is a line of its own."""
PLAIN_TAGS = _words("""
    abbr b bdi bdo big caption cite code data del dfn em font i ins kbd mark noinclude nowiki onlyinclude q rb ruby s samp section
    small span strike strong sub sup td th time tt u var wbr
""")
"""Tags that are taken away from around their text. What is in none of these lists is no tag but text, as on the page."""

SWITCHES = r"[A-Z]{3,40}|目次|目次強制|目次非表示|節編集非表示|全ツリー"
"""__NOTOC__ and the like."""
