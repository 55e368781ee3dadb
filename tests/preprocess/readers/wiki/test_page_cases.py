"""Short pages on which words were lost or markup was left, and their kin: what a careful reader expects of each."""

import pytest

from preprocess.readers.markup import clean, is_redirect
from preprocess.readers.wiki.incomplete_sentences import Losses

PAGES = {
    "number": ("市の人口は{{formatnum:1234567}}人である。", "市の人口は1,234,567人である。"),
    "number with spaces": ("標高は{{Formatnum: 3776 }}メートル。", "標高は3,776メートル。"),
    "year of a sport": ("{{by|2005年}}、[[山田球団]]に入団した。", "2005年、山田球団に入団した。"),
    "year of a sport in mid-sentence": (
        "2年目の{{By|1998年}}は一軍で10試合に登板した。",
        "2年目の1998年は一軍で10試合に登板した。",
    ),
    "code of a language": ("作品の原題は{{en|The Blue Tower}}という。", "作品の原題はThe Blue Towerという。"),
    "Chinese": ("中国語では「{{Zh|塔楼}}」と書く。", "中国語では「塔楼」と書く。"),
    "simplified Chinese": ("漢字では「{{簡体字|塔楼}}」と書く。", "漢字では「塔楼」と書く。"),
    "code of a country": ("この条約は1951年に{{JPN}}が批准した。", "この条約は1951年に日本が批准した。"),
    "quantity": ("山の高さは{{convert|300|m|ft}}である。", "山の高さは300メートルである。"),
    "quantity with its unit": ("幅{{unit|3|m}}の道。", "幅3 mの道。"),
    "link to a file": (
        "計画は「{{PDFlink|[http://example.jp/a.pdf 地域生活圏]}}」と呼ばれる。",
        "計画は「地域生活圏」と呼ばれる。",
    ),
    "quotation in a sentence": ("{{行内引用|塔は高い}}と評された。", "塔は高いと評された。"),
    "transliteration": ("正式名称（ラテン翻字: {{transl|ar|Al-Burj}}）は長い。", "正式名称（ラテン翻字: Al-Burj）は長い。"),
    "namespace before the name": ("{{Template:ruby|漢字|かんじ}}を読む。", "漢字を読む。"),
    "size": ("{{resize|150%|大きな文字}}で書く。", "大きな文字で書く。"),
    "small": ("{{small2|小さい文字}}で書く。", "小さい文字で書く。"),
    "another name of ruby": ("{{読み|漢字|かんじ}}を読む。", "漢字を読む。"),
    "chemical formula": ("水（{{chem|H|2|O}}）は透明。", "水（H2O）は透明。"),
    "book number in brackets": ("新版（山田/1999年/塔文庫/{{ISBN2|4-00-000000-0}}）。", "新版（山田/1999年/塔文庫）。"),
    "unknown template in quotes": ("通称「{{foo|x}}」という。次の文。", "次の文。"),
    "unknown template behind a label": ("塔（英語: {{foo}}）は建物。", "塔は建物。"),
    "line break in a link": ("[http://example.jp 塔の<br />案内]を見る。", "塔の\n案内を見る。"),
    "mail": ("[mailto:a@example.jp 連絡先]へ。", "連絡先へ。"),
    "telephone": ("[tel:0312345678 電話]へ。", "電話へ。"),
    "host of IPv6": ("[http://[2001:db8::1]/a 頁]を見る。", "頁を見る。"),
    "sound behind a link": ("[[メディア:A.ogg|音]]を聞く。", "音を聞く。"),
    "sound behind a link in English": ("[[Media:A.ogg|音]]を聞く。[[:ファイル:A.jpg|写真]]を見る。", "音を聞く。写真を見る。"),
    "apostrophe by template": ("L'''amour'''とd''{{'}}art''。", "Lamourとd'art。"),
    "apostrophe before bold": ("''L'''amour'''''と''''塔'''。", "Lamourと'塔。"),
    "apostrophe before italics": ("L'''amour''と塔。", "L'amourと塔。"),
    "sections of sources": (
        "本文。\n== 参考書籍 ==\n* 山田『塔』\n== 外部リンク・関連サイト ==\n*a\n== 参考 ==\n* 鈴木『橋』",
        "本文。",
    ),
    "sections of sources in brackets": (
        "本文。\n== 脚注（注釈） ==\n# a\n== 【参考文献】 ==\n* b\n== 《出典》 ==\n* c",
        "本文。",
    ),
    "sections that only look so": (
        "本文。\n== 文献学 ==\n続き。\n== 参考にした塔 ==\n尾。",
        "本文。\n文献学\n続き。\n参考にした塔\n尾。",
    ),
    "definitions": (
        ";塔\n:高い建物\n;橋:川の上\n;[[Re:塔]]:作品\n;比は1:2\n;http://example.jp",
        "塔\n高い建物\n橋\n川の上\nRe:塔\n作品\n比は1:2\nhttp://example.jp",
    ),
    "table that a template ends": (
        '前。\n{| class="wikitable"\n! 年 !! 作品\n|-\n| 1990 || 塔\n{{Table end}}\n後。',
        "前。\n後。",
    ),
    "table that nothing ends": ("前。\n{|\n! 年\n! 作品\n|-\n| 1990 || 塔\n後。", "前。\n後。"),
    "rows without a table": ("前。\n! 年 !! 作品\n| 1990 || 塔\n!!!は楽団。", "前。\n!!!は楽団。"),
    "sound with a label": ('発音は<phonos ipa="toː" lang="ja">聞く</phonos>である。', "発音は聞くである。"),
    "translated page": ("<translate>塔</translate>は<tvar name=1>高い</tvar>。<languages />", "塔は高い。"),
    "translated page of old": ("<translate><!--T:1-->塔</translate>は<tvar|a>高い</>。", "塔は高い。"),
    "sound without a label": ('発音は<phonos ipa="toː" />である。<phonos file="a.ogg" />は音。次。', "発音は[toː]である。次。"),
    "digits below the line": (
        "10<sub>2</sub>とlog<sub>2</sub>8とC<sub>2</sub>H<sub>5</sub>OHと<sub>92</sub>U。",
        "10_2とlog2 8とC2H5OHと92U。",
    ),
    "redirect": ("#REDIRECT [[塔]]\n{{転送}}", ""),
    "redirect in Japanese": ("<!-- 注 -->\n#転送　[[塔]]\n本文。", ""),
    "list that begins like a redirect": ("# redirectは転送。\n#[[塔]]", "redirectは転送。\n塔"),
    "powers": (
        "10<sup>3</sup>と10<sup>−12</sup>と''x''<sup>2</sup>と2<sup>n+1</sup>と10³と10⁻⁵。",
        "10^3と10^−12とx^2と2^(n+1)と10^3と10^-5。",
    ),
    "no powers": (
        "5 km<sup>2</sup>と3 m<sup>3</sup>と19<sup>th</sup>と1<sup>er</sup>とCa<sup>2+</sup>と<sup>14</sup>C。",
        "5 km2と3 m3と19thと1erとCa2+と14C。",
    ),
    "fractions": ("3½と{{frac|3|1|2}}。", "3 ½と3 1/2。"),
    "math between words": ("円の面積は<math>\\pi r^2</math>で、比は<math>\\frac{1}{2}</math>。", "円の面積はπr^2で、比は1/2。"),
    "chemistry between words": ("<chem>SO4^2-</chem>と<ce>H2O</ce>。", "SO4^2-とH2O。"),
    "picture in place of a word": ("前の文。[[ファイル:A.svg|16px]]は国旗。", "前の文。"),
    "picture beside the text": ("[[ファイル:A.svg|thumb|塔]]は行の頭。", "は行の頭。"),
    "link without words in place of a word": ("[http://example.jp]を見る。次の文。", "次の文。"),
    "link without words before a counter": ("人口は[http://example.jp]人。面積は[http://example.jp]である。次の文。", "次の文。"),
    "note between two particles": (
        "研究者は{{誰}}と述べ、日本に{{要出典}}は、人は{{いつ}}人間だ。",
        "研究者はと述べ、日本には、人は人間だ。",
    ),
    "quotation of whole sentences": (
        "{{Quote|塔は高い。}}と述べた。次。\n{{Quote|塔は高い。}}\n次。",
        "塔は高い。\n次。\n塔は高い。\n次。",
    ),
    "note in place of an author": ("{{Sfn|山|1990}}によれば、塔は高い。{{R|a}}として知られる。次。", "次。"),
    "brackets in brackets": ("塔（東京（{{foo}}）、1958年）は高い。", "塔（東京、1958年）は高い。"),
    "brackets that lose a word": ("塔（1958年に{{foo}}が建設）は高い。", "塔は高い。"),
    "brackets with an unknown item": ("塔（1958年、{{foo}}、東京）は高い。", "塔（1958年、東京）は高い。"),
    "unknown template at the start": ("塔。{{foo}}は高い。橋。", "塔。橋。"),
    "number that is missing": ("人口は{{foo}}人。面積は広い。", "面積は広い。"),
    "heading with an unknown template": ("== {{foo}}の歴史 ==\n塔。", "塔。"),
    "item with an unknown template": ("* {{foo}} - 塔\n* {{foo}}\n* 橋", "橋"),
    "sentences in a quotation": ("彼は「高い。{{foo}}だ。」と言う。次。", "次。"),
    "unknown template in a known one": ("{{small|塔は{{foo}}である}}。次。", "次。"),
    "unknown template in a note": ("塔<ref>{{foo}}は</ref>は{{efn|{{foo}}を見よ。}}高い。", "塔は高い。"),
    "transclusion of a page": ("塔は{{:塔の高さ}}である。次。", "次。"),
    "br that closes": ("一行目</br>二行目", "一行目\n二行目"),
    "every scheme": (
        "[ftp://a 甲][ircs://a 乙][news:a 丙][urn:isbn:1 丁][xmpp:a@b 戊][//a 己][geo:1,2 庚][magnet:?x 辛][sip:a 壬]。",
        "甲乙丙丁戊己庚辛壬。",
    ),
    "what only looks like a link": ("[注: 塔]と[//]と[tel: 1]。", "[注: 塔]と[//]と[tel: 1]。"),
}


@pytest.mark.parametrize("wikitext, text", PAGES.values(), ids=PAGES.keys())
def test_a_page_becomes_what_a_careful_reader_expects(wikitext: str, text: str) -> None:
    assert clean(wikitext) == text


def test_what_is_left_out_is_counted_by_the_template_that_prints_it() -> None:
    losses = Losses()
    clean(
        "塔は{{foo|x}}で{{Foo bar}}と{{foo}}。橋（{{foo}}）は{{sfn|a}}高い。{{baz}}\n{{qux}}\n<math>\\begin{matrix}</math>と。",
        "",
        losses,
    )
    assert (losses.sentences, losses.brackets) == (2, 1)
    assert losses.templates == {"foo": 2, "foo bar": 1, "<math>": 1}


def test_counts_of_templates_are_bounded_and_keep_their_sum() -> None:
    losses = Losses()
    for number in range(9):
        clean(f"塔は{{{{t{number}}}}}。" * (number + 1), "", losses)
    counts = losses.counts(3)
    assert counts == {
        "sentences": 45,
        "brackets": 0,
        "templates": {"t8": 9, "t7": 8, "t6": 7, "(all others)": 21},
        "dropped": losses.counts(3)["templates"],
    }
    merged = Losses.of_counts(counts)
    merged.add(losses)
    assert (
        merged.counts(2)["templates"] == {"(all others)": 21 + 54, "t8": 18} or sum(merged.counts(2)["templates"].values()) == 90
    )


def test_a_redirect_is_known_by_its_first_line() -> None:
    assert all(
        map(
            is_redirect,
            ["#REDIRECT [[塔]]", "#redirect[[塔]]", " # 転送 [[塔]]", "#リダイレクト: [[塔]]", "<!-- a -->#転送 [[塔]]"],
        )
    )
    assert not any(map(is_redirect, ["REDIRECT [[塔]]", "#[[塔]]", "塔\n#REDIRECT [[塔]]", "#redirect 塔"]))
