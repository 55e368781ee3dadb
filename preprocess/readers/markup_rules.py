"""Rules for what is text on a Wikipedia page, by name, in one table for each kind of markup. `markup.py` applies them.

Kept are the words that a reader sees in running text; dropped is what is no sentence: tables, notes, media, navigation, lists of
sources. A rule is added here together with a case in tests/preprocess/readers/test_markup.py, which fails where a name has none.
"""

import re


def words(text: str) -> frozenset[str]:
    """Returns the words of a text as a set."""
    return frozenset(text.split())


FILE_NAMESPACES = words("ファイル 画像 file image")
"""Links into these show a picture; [[メディア:A.ogg|label]] is a link like any other."""
CATEGORY_NAMESPACES = words("カテゴリ category")
"""Links into these put the page into a category."""
PLACED_FILE = words(
    "thumb thumbnail サムネイル frame フレーム framed right left center none 右 左 中央 なし frameless フレームなし"
)
"""Options of a picture that stands beside the text and not in a sentence."""
DROPPED_SECTIONS = words("""
    脚注 脚註 注釈 註釈 注 註 注記 注釈一覧 出典 出典一覧 出典元 引用元 典拠 参照 参照元 参照文献 参照資料 引用文献 参考 参考文献
    参考図書 参考書
    参考書籍 参考資料 参考サイト 参考リンク 参考論文 主な参考文献 主要参考文献 関連文献 関連書籍 関連書 関連資料
    文献 文献情報 主要文献
    書誌 書誌情報 関連項目 関連リンク 関連サイト 関連ページ 外部リンク 外部サイト 外部ページ リンク集 公式サイト
    脚注リスト 脚注一覧 原注 訳注 補注 references notes note sources bibliography footnotes
""") | {"see also", "external links", "further reading", "notes and references"}
"""Sections of references and links, dropped with their subsections; also where a heading joins several (脚注・出典, 注釈と出典) or
stands in brackets (【参考文献】, 脚注（注釈）)."""
SECTION_JOINT = re.compile(r"\s*(?:[・･、，,/／:：&＆+＋\-–—]|および|及び|ならびに|並びに|または|又は|や|と|\sand\s)\s*")
SECTION_BRACKETS = re.compile(r"[（）()【】〔〕\[\]［］〈〉《》「」『』<>＜＞]")
SECTION_SIGNS = " \t　■□◆◇●○※*★☆▼▽・.。:：0123456789０１２３４５６７８９"
"""What may stand around the name of a section."""

DROPPED_EXTENSIONS = words("""
    ref references gallery timeline imagemap templatestyles mapframe graph inputbox categorytree indicator includeonly templatedata
    dynamicpagelist languages charinsert
""")
"""Tags whose content is no running text and no wikitext that could pair with what is outside; no word of a sentence is lost with
them."""
BLOCK_EXTENSIONS = words("pre syntaxhighlight source score")
"""Tags whose content is no running text and stands in a block of its own, unless they have the attribute inline."""
FORMULA_EXTENSIONS = words("math chem ce hiero maplink")
"""Tags that show something in the middle of a sentence."""
DROPPED_ELEMENTS = words("table style script")
"""Tags of HTML that are dropped with what stands between them."""
READING_TAGS = words("rt rp rtc")
"""Parts of <ruby> that end where the next one begins, as HTML lets editors leave out the closing tag."""
LINE_BREAK_TAGS = words("br hr")
BLOCK_TAGS = words("li dt dd dl ul ol p div blockquote poem center h1 h2 h3 h4 h5 h6 tr")
"""Their text is a line of its own."""
PLAIN_TAGS = words("""
    abbr b bdi bdo big caption cite code data del dfn em font i ins kbd mark noinclude nowiki onlyinclude q rb ruby s samp section
    small span strike strong sub sup td th time tt u var wbr phonos translate tvar
""")
"""Tags that are taken away from around their text. What is in none of these lists is no tag but text, as on the page."""

SCHEMES = (
    r"(?:(?:https?|ftps?|sftp|ircs?|gopher|nntp|telnet|git|svn|ssh|mms|redis|worldwind|wikipedia):)?//"
    r"|(?:mailto|tel|sms|sips?|news|urn|geo|magnet|bitcoin|matrix|xmpp):"
)
"""How the address of an external link begins."""

SWITCHES = r"[A-Z]{3,40}|目次|目次強制|目次非表示|節編集非表示|全ツリー"
"""__NOTOC__ and the like."""
