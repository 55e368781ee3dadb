"""Wikitext to plain text, one rule a line."""

import pytest

from preprocess.readers.markup import clean, is_disambiguation

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
    "math": ("面積は<math>\\pi r^2</math>である。", "面積はである。"),
    "gallery": ("前。\n<gallery>\nA.jpg|説明\n</gallery>\n後。", "前。\n後。"),
    "source code": ("前。\n<syntaxhighlight lang=c>int a;</syntaxhighlight>\n後。", "前。\n後。"),
    "nowiki": ("<nowiki>そのまま</nowiki>読む。", "そのまま読む。"),
    "font and small": ("<small>小さい</small><span style='x'>文字</span>。", "小さい文字。"),
    "ruby of HTML": ("<ruby>漢字<rp>(</rp><rt>かんじ</rt><rp>)</rp></ruby>を読む。", "漢字を読む。"),
    "line break": ("一行目<br />二行目", "一行目\n二行目"),
    "entity": ("A&amp;B&#8212;C&lt;D", "A&B—C<D"),
    "infobox": ("{{Infobox 都市|名称=[[東京]]|人口=1}}\n本文。", "本文。"),
    "nested templates": ("本文{{a|{{b|c}}}}。", "本文。"),
    "ruby template": ("{{ruby|漢字|かんじ}}を読む。", "漢字を読む。"),
    "ruby template written large": ("{{Ruby|漢字|かんじ}}を読む。", "漢字を読む。"),
    "reading": ("'''{{読み仮名|東京|とうきょう}}'''は首都。", "東京は首都。"),
    "reading without ruby": ("{{読み仮名_ruby不使用|東京|とうきょう}}は首都。", "東京は首都。"),
    "link to another Wikipedia": ("{{仮リンク|塔の本|en|Tower Book}}を読む。", "塔の本を読む。"),
    "link to another Wikipedia with label": ("{{仮リンク|塔 (本)|en|Tower|label=塔}}を読む。", "塔を読む。"),
    "words of another language": ("{{lang|en|Tokyo}}と{{lang-fr|Paris}}。", "TokyoとParis。"),
    "doubtful passage": ("{{要出典範囲|一番古い|date=2020年1月}}塔。", "一番古い塔。"),
    "brackets emptied by a dropped template": ("東京（{{IPA-ja|toːkʲoː}}、{{音声|a.ogg}}）は首都。", "東京は首都。"),
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
}


@pytest.mark.parametrize("wikitext, text", KEPT_AND_DROPPED.values(), ids=KEPT_AND_DROPPED.keys())
def test_running_text_is_kept_and_markup_dropped(wikitext: str, text: str) -> None:
    assert clean(wikitext) == text


@pytest.mark.parametrize("title", ["脚注", "出典", "参考文献", "関連項目", "外部リンク"])
def test_a_section_of_links_is_dropped_with_its_subsections_and_nothing_after_it(title: str) -> None:
    page = f"本文。\n== {title} ==\n* 項目\n=== 小見出し ===\n* 項目\n== 歴史 ==\n続き。"
    assert clean(page) == "本文。\n歴史\n続き。"


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
