"""Wikitext to plain text, one rule a line."""

import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.readers import markup_rules as rules
from preprocess.readers.language_codes import LANGUAGE_CODES
from preprocess.readers.markup import clean, is_disambiguation

ARTICLE = Path(__file__).with_name("article.wiki")

KEPT_AND_DROPPED = {
    "plain text": ("東京は首都。", "東京は首都。"),
    "bold and italics": ("'''東京'''は''首都''。", "東京は首都。"),
    "link": ("[[東京]]へ行く。", "東京へ行く。"),
    "link with label": ("[[東京 (曖昧さ回避)|東京]]へ。", "東京へ。"),
    "link whose label holds markup": ("[[東京|'''東'''{{ruby|京|きょう}}]]へ。", "東京へ。"),
    "visible category link": ("[[:Category:都市|都市の分類]]を見る。", "都市の分類を見る。"),
    "article named like a namespace": ("[[Re:ゼロから始める異世界生活]]を見る。", "Re:ゼロから始める異世界生活を見る。"),
    "category": ("本文。\n[[Category:都市]]\n[[カテゴリ:首都|とう]]", "本文。"),
    "file with a caption that holds a link": ("[[ファイル:A.jpg|thumb|right|200px|[[塔]]の写真]]本文。", "本文。"),
    "file, English and in small letters": ("[[image:A.png|thumb|説明]]本文。[[File:B.svg]]", "本文。"),
    "interlanguage link": ("本文。\n[[en:Tokyo]]\n[[zh-min-nan:Tang-kiaⁿ]]", "本文。"),
    "external link with label": ("[http://example.jp 公式サイト]を見る。", "公式サイトを見る。"),
    "external link without label": ("本文[http://example.jp]。", "本文。"),
    "reference": ('本文<ref name="a">{{Cite web|url=http://a.jp|title=題}}</ref>。', "本文。"),
    "empty reference": ('本文<ref name="a" />。', "本文。"),
    "comment": ("本<!-- 注意 -->文。", "本文。"),
    "table": ('前。\n{| class="wikitable"\n! 年 !! 数\n|-\n| 1990 || 12\n|}\n後。', "前。\n後。"),
    "table in a table": ("前。\n{|\n|\n{|\n| 内\n|}\n|}\n後。", "前。\n後。"),
    "table never closed": ("前。\n{|\n| 1990\n後。", "前。\n後。"),
    "math": ("面積は<math>\\pi r^2</math>である。", "面積はπr^2である。"),
    "math that no line can hold": ("行列は<math>\\begin{matrix}1\\end{matrix}</math>である。次。", "次。"),
    "math on a line of its own": ("前。\n:<math>E=mc^2</math>\n後。", "前。\n後。"),
    "gallery": ("前。\n<gallery>\nA.jpg|説明\n</gallery>\n後。", "前。\n後。"),
    "source code": ("前。\n<syntaxhighlight lang=c>int a;</syntaxhighlight>\n後。", "前。\n後。"),
    "nowiki": ("<nowiki>そのまま</nowiki>読む。", "そのまま読む。"),
    "font and small": ("<small>小さい</small><span style='x'>文字</span>。", "小さい文字。"),
    "ruby of HTML": ("<ruby>漢字<rp>(</rp><rt>かんじ</rt><rp>)</rp></ruby>を読む。", "漢字を読む。"),
    "line break": ("一行目<br />二行目", "一行目\n二行目"),
    "entity": ("A&amp;B&#8212;C&lt;D", "A&B—C<D"),
    "infobox": ("{{Infobox 都市|名称=[[東京]]|人口=1}}\n本文。", "本文。"),
    "nested templates": ("前の文。本文{{a|{{b|c}}}}。", "前の文。"),
    "templates between sentences": ("本文。{{a|{{b|c}}}}", "本文。"),
    "ruby template": ("{{ruby|漢字|かんじ}}を読む。", "漢字を読む。"),
    "ruby template written large": ("{{Ruby|漢字|かんじ}}を読む。", "漢字を読む。"),
    "reading": ("'''{{読み仮名|東京|とうきょう}}'''は首都。", "東京は首都。"),
    "reading without ruby": ("{{読み仮名_ruby不使用|東京|とうきょう}}は首都。", "東京は首都。"),
    "link to another Wikipedia": ("{{仮リンク|塔の本|en|Tower Book}}を読む。", "塔の本を読む。"),
    "link to another Wikipedia with label": ("{{仮リンク|塔 (本)|en|Tower|label=塔}}を読む。", "塔を読む。"),
    "words of another language": ("{{lang|en|Tokyo}}と{{lang-fr|Paris}}。", "TokyoとParis。"),
    "doubtful passage": ("{{要出典範囲|一番古い|date=2020年1月}}塔。", "一番古い塔。"),
    "brackets emptied by a dropped template": ("東京（{{a|toːkʲoː}}、{{音声|a.ogg}}）は首都。", "東京は首都。"),
    "brackets that begin with a dropped template": ("東京（{{音声|a.ogg}}、1868年改称）は首都。", "東京（1868年改称）は首都。"),
    "brackets that end with a dropped template": ("東京（1868年改称、{{音声|a.ogg}}）は首都。", "東京（1868年改称）は首都。"),
    "empty brackets of the author": ("main()を呼ぶ。", "main()を呼ぶ。"),
    "parameter with a default": ("{{{1|既定}}}の値。", "既定の値。"),
    "list": ("* 一\n** 二\n# 三\n: 四\n; 五 : 六", "一\n二\n三\n四\n五\n六"),
    "heading": ("前。\n== 歴史 ==\n後。", "前。\n歴史\n後。"),
    "heading followed by a comment": ("前。\n== 歴史 == <!-- 要加筆 -->\n後。", "前。\n歴史\n後。"),
    "magic word": ("__NOTOC__\n本文。\n__目次__", "本文。"),
    "brackets never closed": ("本文[[東京へ。{{行く", "本文東京へ。行く"),
    "tag never opened": ("本文</div>。</ref>", "本文。"),
    "null byte": ("本\x00文。", "本文。"),
    "arguments given by number": ("{{ruby|2=かんじ|1=漢字}}と{{lang|1=en|2=Tokyo}}。", "漢字とTokyo。"),
    "argument that is empty": ("{{仮リンク|塔|en|Tower|label=}}と{{small|}}。", "塔と。"),
    "argument that is empty where another is not": ("前の文。{{ruby||かんじ}}と塔。", "前の文。"),
    "bars and equals signs of a link inside an argument": ("{{仮リンク|[[塔 (本)|塔=本]]|en|Tower}}。", "塔=本。"),
    "template in the name of a template": ("{{{{ruby|small|x}}|小}}さい。", "小さい。"),
    "template named over lines with a comment": ("{{ruby<!-- 注 -->\n|漢字\n|かんじ\n}}。", "漢字。"),
    "template that ends over a link left open": ("前{{Infobox|名=[[東京|人口=1}}後[[京都]]。", "前後京都。"),
    "link that crosses a template left open": ("[[東京]]と{{ruby|[[京都]]。", "東京とruby|京都。"),
    "link to a name that begins like a list item": ("[[*NSYNC]]と'''*1'''。\n'''#1'''は曲。", "*NSYNCと*1。\n#1は曲。"),
    "link whose target is empty": ("[[|東京]]。", "東京。"),
    "link that keeps its label empty": ("[[東京|]]。", "東京。"),
    "link in three brackets": ("[[[東京]]]へ。", "[東京]へ。"),
    "section link": ("[[#歴史]]を見る。", "#歴史を見る。"),
    "link out of a gallery never closed": ("<gallery>\n本文[[東京]]。", "本文東京。"),
    "namespace with spaces": ("本文。[[ Category : 都市 ]][[ファイル :A.jpg]]", "本文。"),
    "external link without a scheme": ("[//example.jp 案内]を見る。", "案内を見る。"),
    "external link whose label holds brackets": ("[http://example.jp 一覧 [PDF] 版]を見る。", "一覧 [PDF] 版を見る。"),
    "external link over two lines": ("[http://example.jp\n一覧]", "[http://example.jp\n一覧]"),
    "reference with a template over lines": ("本文<ref>{{Cite web\n|title=題\n}}</ref>。", "本文。"),
    "reference in a template that is kept": ("{{small|小<ref>a|b}}</ref>さい}}。", "小さい。"),
    "references with a list": ("本文。<references><ref name=a>注</ref></references>", "本文。"),
    "comment never closed": ("本文。<!-- 注意", "本文。"),
    "comment that holds markup": ("前<!-- {{a [[b <ref> -->後。", "前後。"),
    "comment that holds nowiki": ("前<!-- <nowiki> -->''後''</nowiki>。", "前後。"),
    "table indented": ("前。\n:{|\n| 1990\n:|}\n後。", "前。\n後。"),
    "text behind a table": ("前。\n{|\n| 1\n|}後。", "前。\n後。"),
    "text between rows of a table never closed": ("前。\n{|\n|-\n| 1990\n後。", "前。\n後。"),
    "table whose cells hold templates": ("前。\n{| {{style}}\n| {{ruby|a|b}} || {{!}}\n{{!}}-\n|}\n後。", "前。\n後。"),
    "table of HTML": ("前。<table><tr><td><table><tr><td>内</td></tr></table></td></tr></table>後。", "前。後。"),
    "table of HTML never closed": ("前。<table>後。", "前。後。"),
    "nowiki around markup": ("<nowiki>[[東京]]と''{{a}}''と&lt;</nowiki>。", "[[東京]]と''{{a}}''と<。"),
    "nowiki that is empty": ("''<nowiki />'本文'。", "'本文'。"),
    "ruby of HTML whose readings are never closed": ("<ruby>漢<rt>かん<rt>字<rtc>x</ruby>を読む。\n次。", "漢を読む。\n次。"),
    "reading in HTML outside ruby": ("漢字<rt>かんじ\n次の段落。", "漢字\n次の段落。"),
    "blocks": ("前<div>中</div>後<p>次<p>尾", "前\n中\n後\n次\n尾"),
    "what only looks like a tag": ("a<b>c</b> 1<2 <int> <a> <b-c> <3", "ac 1<2 <int> <a> <b-c> <3"),
    "entities of markup": ("&#91;&#x5B;東京&#93;&#93;は&lt;b&gt;と&amp;lt;。", "[[東京]]は<b>と&lt;。"),
    "entity of no character": ("A&#0;B&#x110000;C&#xD800;D&nonsense;E&", "ABCD&nonsense;E&"),
    "spaces as entities": ("A&nbsp;B&ensp;C", "A\u00a0B\u2002C"),
    "definition behind two colons": ("; 語 :: 定義\n;語:: 定義\n;語::定義", "語\n定義\n語\n定義\n語\n定義"),
    "definition with a colon inside": ("; 比率 1:2 : 説明\n;時刻 12:30", "比率 1:2\n説明\n時刻 12:30"),
    "rule": ("前。\n----\n後。", "前。\n後。"),
    "heading of each level": ("= 一 =\n== 二==\n======六======\n=======七=======", "一\n二\n六\n=七="),
    "heading without a partner": ("== 歴史\n=\n==", "== 歴史\n=\n=="),
    "brackets left empty between two dropped templates": ("東京（{{a}}／{{b}}）は。", "東京は。"),
    "switches": ("__NOINDEX__本文__ア__。__FOO", "本文__ア__。__FOO"),
}


def _around(names: str, text: str, attributes: str = "") -> dict[str, str]:
    return {f"前<{name}{attributes}>中</{name}>後": text for name in names.split()}


TAGS = {
    **_around("ref references gallery timeline imagemap", "前後", ' a="b"'),
    **_around("templatestyles mapframe graph inputbox categorytree indicator includeonly table style script", "前後"),
    **_around("templatedata dynamicpagelist languages charinsert maplink", "前後"),
    **_around("pre syntaxhighlight source score", "前\n後", ' a="b"'),
    **_around("pre syntaxhighlight source", "前中後", ' lang="c" inline'),
    **_around("math chem ce", "前中後", ' a="b"'),
    **_around("hiero", ""),
    **_around("br hr", "前\n中\n後"),
    **_around("li dt dd dl ul ol p div blockquote poem center h1 h2 h3 h4 h5 h6 tr", "前\n中\n後"),
    **_around(
        "abbr b bdi bdo big caption cite code data del dfn em font i ins kbd mark noinclude onlyinclude q rb", "前中後", " a=b"
    ),
    **_around(
        "ruby s samp section small span strike strong sub sup td th time tt u var wbr nowiki phonos translate tvar", "前中後"
    ),
    **{f"<ruby>前<{name}>中</{name}></ruby>後": "前後" for name in ("rt", "rp", "rtc")},
}


@pytest.mark.parametrize("wikitext, text", KEPT_AND_DROPPED.values(), ids=KEPT_AND_DROPPED.keys())
def test_running_text_is_kept_and_markup_dropped(wikitext: str, text: str) -> None:
    assert clean(wikitext) == text


@pytest.mark.parametrize("wikitext, text", TAGS.items(), ids=TAGS.keys())
def test_a_tag_has_its_rule(wikitext: str, text: str) -> None:
    assert clean(wikitext) == text


def test_every_rule_about_a_tag_link_or_section_has_a_case() -> None:
    cases = "\n".join(TAGS)
    tags = (
        rules.DROPPED_EXTENSIONS | rules.BLOCK_EXTENSIONS | rules.FORMULA_EXTENSIONS | rules.DROPPED_ELEMENTS | rules.READING_TAGS
    )
    tags |= rules.LINE_BREAK_TAGS | rules.BLOCK_TAGS | rules.PLAIN_TAGS
    assert [name for name in tags if f"<{name}>" not in cases and f"<{name} " not in cases] == []
    namespaces = rules.FILE_NAMESPACES | rules.CATEGORY_NAMESPACES
    assert [name for name in namespaces if clean(f"前[[{name}:甲]]後") != "前後"] == []
    assert [name for name in rules.PLACED_FILE if clean(f"[[File:甲|{name}]]は後") != "は後"] == []
    assert [name for name in rules.DROPPED_SECTIONS if clean(f"前\n== {name} ==\n中") != "前"] == []
    joints = ["・", "、", ",", "/", "／", "および", "及び", "と"]
    assert [joint for joint in joints if clean(f"前\n== 脚注{joint}出典 ==\n中") != "前"] == []
    lists = ["aimai", "disambig", "disambiguation", "disamb", "dab", "hndis", "geodis", "mathdab"]
    lists += ["曖昧さ回避", "地名の曖昧さ回避", "人名曖昧さ回避"]
    assert [name for name in lists if not is_disambiguation(f"{{{{{name}|甲}}}}")] == []
    switches = ["NOTOC", "FORCETOC", "目次", "目次強制", "目次非表示", "節編集非表示", "全ツリー"]
    assert [name for name in switches if clean(f"前__{name}__後") != "前後"] == []
    codes = [clean(f"前[[{code}:甲]]後") for code in LANGUAGE_CODES]
    assert len(codes) > 300 and set(codes) == {"前後"}


def test_an_article_with_all_of_it_becomes_the_text_that_a_reader_sees() -> None:
    assert clean(ARTICLE.read_text(encoding="utf-8")) == ARTICLE.with_suffix(".txt").read_text(encoding="utf-8").rstrip("\n")


MARKS = [
    "{{", "}}", "{{{", "}}}", "[[", "]]", "[", "]", "{|", "|}", "|", "=", "==", "''", "<!--", "-->", "<ref>", "</ref>", "<ref/>",
    "<nowiki>", "</nowiki>", "<table>", "</table>", "<rt>", "<ruby>", "</ruby>", "<div>", "</div>", "[http://a ", "&#91;", "&lt;", "&", "{",
    "}", ":", ";", "*", "#", "__", "（", "、", "）", "ruby", "small", "仮リンク", "label=", "File:", "en:", "__NOTOC__", "甲", "乙。",
    "\n", " ", "\n== ", " ==\n", "\n{|", "\n|}", "\x00", "\u3000", "\x01", "\x02", "{{foo}}", "{{foo\n}}", "{{sfn}}", "{{JPN}}",
    "{{formatnum:", "<math>", "</math>", "<sup>", "</sup>", "1", "「", "」", "{{coord|1|N|2|E}}", "{{#if:", "{{br}}", "&#1;", "は", "人",
]  # fmt: skip


@given(st.lists(st.sampled_from(MARKS), max_size=40).map("".join))
def test_any_page_of_markup_becomes_lines_without_spaces_around_them(wikitext: str) -> None:
    text = clean(wikitext)
    assert text == "" or all(
        line and line == line.strip() and not re.search("[\x00-\x02\U000f0000-\U0010ffff]", line) for line in text.split("\n")
    )


@given(st.lists(st.sampled_from(MARKS), max_size=20).map("".join))
def test_text_around_a_page_of_markup_in_a_table_cell_stays(wikitext: str) -> None:
    inside = wikitext.replace("\n", " ")
    for closer in ("-->", "</ref>", "</nowiki>", "}}}", "}}", "]]", "|}", "</table>"):
        inside = inside.replace(closer, "")
    assert clean(f"前の段落。\n\n<ref>{inside}</ref>\n\n後の段落。") == "前の段落。\n後の段落。"


UNITS = [
    *(
        "{{a|",
        "}}{{a|{{a|",
        "[[a|",
        "[[a]] {{",
        "{{{",
        "\n{|\n|",
        "<div>",
        "<ref>",
        "<ref",
        "<ref ",
        "<table>",
        "<rt>",
        "<!--",
        "<nowiki>",
    ),
    *(
        "<math ",
        "<math>x",
        "<nowiki/>",
        "<source ",
        "<phonos ",
        "<br",
        "<sup>",
        "a<sup>2",
        "1'",
        "1¹",
        "<!-- --> ",
        "<math>x</math>",
    ),
    *(
        "[http://a ",
        "[http://a [",
        "[http://[",
        "[mailto:",
        "[",
        "]]",
        "}}",
        "\n|}",
        "-->",
        "</ref>",
        "</div>",
        "<math>^{</math>",
    ),
    *("（", "（{{a}}", "、{{a}}", "{{a}}", "（{{a}}）", "（{{sfn}}、", "「{{sfn}}", "{{sfn}} ", "。{{a}}", "・{{a}}", "{{a\n}} "),
    *(
        "__A",
        "==",
        "\n== a",
        "== a =",
        " ",
        "\n",
        "\u3000 ",
        "'",
        "'''a",
        "&#",
        "&amp",
        "\n;a:",
        ";:",
        "\n! a !! b",
        "（）{{sfn}}",
    ),
    *("{{aimai<!--", "{{aimai<!---->", "{{ ", "{{template: ", "{{formatnum:1", "{{#expr:(", "{{#switch:a|a", "{{convert|1|-|"),
    *("{{small|", "{{small|a}}", "<maplink text="),
]


def seconds(page: str) -> float:
    """Least processor time of two runs."""

    def once() -> float:
        began = time.process_time()
        is_disambiguation(page)
        try:
            clean(page)
        except ValueError as e:
            assert "brackets are open at once" in str(e)
        return time.process_time() - began

    return min(once(), once())


ENDS = [
    *(
        ("（a:", "{{sfn}}", "x）"),
        ("（", "{{sfn}}", "x）"),
        ("（", "{{a}}、", "）"),
        ("「", "{{sfn}}", "x」"),
        ("", "{{sfn}}", "x"),
        ("", "（", ""),
    ),
    *(
        ("", "{{sfn}} ", "。"),
        ("（" * 2**9, "、{{a}}", "）" * 2**9),
        ("== ", "{{a}} ", "x"),
        ("== ", "= ", "=="),
        ("[http://[", "a", " b]"),
    ),
    *(
        ("<ref", " a", ">"),
        ("1<sup>", "2", "<"),
        ("<math>", "{", "</math>"),
        ("{{#expr:", "(", "}}"),
        (";", "1:", "2"),
        ("[[a|", "|", "]]"),
    ),
]


@pytest.mark.parametrize("begin, unit, end", [*(("本文。", unit, ">。") for unit in UNITS), *ENDS])
def test_the_time_for_a_page_grows_no_faster_than_the_page(begin: str, unit: str, end: str) -> None:
    # 16 times the page may take 4 times as long as it should; work that begins again at every place takes 256 times as long.
    short, long = (begin + unit * (size // len(unit)) + end for size in (2**12, 2**16))
    assert seconds(long) < 0.05 + 16 * 4 * seconds(short)


@pytest.mark.parametrize("unit", ["<ref ", "{{a|", "[[a", "<!--", "<nowiki ", "\n{|"])
def test_a_page_of_two_megabytes_of_one_opening_takes_seconds_at_most(unit: str) -> None:
    # A page of 400,000 tags whose only > is at the end once took 24 s.
    assert seconds(unit * (2 * 10**6 // len(unit)) + ">") < 10


def test_a_template_named_by_a_whole_page_takes_no_time() -> None:
    # Once only: the second time may be that of a cache.
    began = time.process_time()
    assert clean("前。{{" + "画像" * 2**15 + "\n終}}後。次。") == "前。次。"
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "title", ["脚注", "脚注・出典", "注釈と出典", "参考文献", "関連項目", "外部リンク", "References", "'''出典'''{{a}}"]
)
def test_a_section_of_links_is_dropped_with_its_subsections_and_nothing_after_it(title: str) -> None:
    page = f"本文。\n== {title} ==\n* 項目\n=== 小見出し ===\n* 項目\n== 歴史 ==\n続き。"
    assert clean(page) == "本文。\n歴史\n続き。"


@pytest.mark.parametrize("title", ["や", "と", "1-2", "2005–06", "2010-2015", "2001-", "1と2", "「」", "&"])
def test_a_section_whose_heading_is_all_numbers_and_joints_is_kept(title: str) -> None:
    assert clean(f"本文。\n== {title} ==\n続き。") == f"本文。\n{title}\n続き。"


def test_paragraphs_stay_apart_and_blank_lines_go() -> None:
    assert clean("一段落目。\n\n\n二段落目。\n") == "一段落目。\n二段落目。"


@pytest.mark.parametrize(
    "page",
    [
        "{{aimai}}",
        "{{Aimai}}",
        "{{曖昧さ回避}}",
        "{{ 曖昧さ回避 |種類=人名}}",
        "{{人名の曖昧さ回避}}",
        "{{Template:Disambig}}",
        "{{地名の曖昧さ回避\n}}",
    ],
)
def test_a_page_that_calls_a_disambiguation_template_is_a_disambiguation_page(page: str) -> None:
    assert is_disambiguation(f"'''北'''\n* [[北 (小説)]]\n{page}\n")


@pytest.mark.parametrize(
    "page",
    ["[[北 (曖昧さ回避)|北]]へ。", "{{Otheruses|方角|その他|北 (曖昧さ回避)}}", "曖昧さ回避とは。", "{{曖昧さ回避リンク|北}}"],
)
def test_a_page_that_names_a_disambiguation_page_is_none(page: str) -> None:
    assert not is_disambiguation(page)
