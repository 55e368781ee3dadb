"""What a template prints, one rule a line: the words of names that real pages call, in the forms in which they call them."""

import pytest

from preprocess.readers.language_codes import LANGUAGE_CODES
from preprocess.readers.markup import clean
from preprocess.readers.wiki import template_rules as rules
from preprocess.readers.wiki import templates
from preprocess.readers.wiki.country_codes import COUNTRY_NAMES

PRINTED = {
    "{{Illm|塔|Tower}}": "塔", "{{illm2|塔|Tower}}": "塔", "{{Ill|塔|en|Tower}}": "塔", "{{ill2|塔|en|Tower|label=札}}": "札",
    "{{日本語版にない記事リンク|塔|en|Tower}}": "塔", "{{仮リンク|塔|en|Tower}}": "塔", "{{link-en|塔|Tower}}": "塔",
    "{{ruby|漢字|かんじ}}": "漢字", "{{Rubi|漢字|かんじ}}": "漢字", "{{ルビ|漢字|かんじ}}": "漢字", "{{Ruby-ja|漢字|かんじ}}": "漢字",
    "{{ふりがな|漢字|かんじ}}": "漢字", "{{読み仮名|漢字|かんじ}}": "漢字", "{{読み仮名 ruby不使用|漢字|かんじ}}": "漢字",
    "{{lang|en|Tokyo}}": "Tokyo", "{{lang-en-short|Tokyo}}": "Tokyo", "{{nihongo|東京|Tokyo}}": "東京", "{{audio|A.ogg|鐘}}": "鐘",
    "{{flag|日本}}": "日本", "{{flagcountry|日本}}": "日本",
    "{{color|red|赤}}": "赤", "{{font color|red|赤}}": "赤", "{{fontcolor|red|赤}}": "赤", "{{colors|red|white|赤}}": "赤",
    "{{背景色|red|赤}}": "赤", "{{fontsize|120%|大}}": "大", "{{visible anchor|塔}}": "塔", "{{vanchor|塔}}": "塔",
    "{{small|小}}": "小", "{{smaller|小}}": "小", "{{big|大}}": "大", "{{larger|大}}": "大", "{{nowrap|長い}}": "長い",
    "{{nobr|長い}}": "長い", "{{sup|上}}": "上", "{{sub|下}}": "下", "{{underline|線}}": "線", "{{smallcaps|Abc}}": "Abc",
    "{{unicode|ḥ}}": "ḥ", "{{IPA|a}}": "a", "{{tooltip|略|説明}}": "略", "{{abbr|略|説明}}": "略", "{{em|強}}": "強",
    "{{strong|強}}": "強", "{{val|1.5|u=m}}": "1.5 m", "{{傍点|点}}": "点", "{{圏点|点}}": "点", "{{強調|強}}": "強",
    "{{下線|線}}": "線",
    "{{縦書き|縦}}": "縦", "{{拡張漢字|𠮷}}": "𠮷", "{{JIS2004フォント|辻}}": "辻", "{{JIS90フォント|辻}}": "辻",
    "{{補助漢字フォント|髙}}": "髙", "{{CP932フォント|髙}}": "髙",
    "{{quote|詩}}": "詩", "{{Quotation|詩|人}}": "詩", "{{cquote|詩}}": "詩", "{{blockquote|詩}}": "詩", "{{center|中}}": "中",
    "{{indent|字}}": "字", "{{要出典範囲|古い|date=2020年}}": "古い", "{{誰範囲|ある人}}": "ある人",
    "{{=}}後": "=後", "{{'}}": "'", "前{{!}}": "前|", "前{{スペース}}後": "前 後", "前{{sp}}後": "前 後", "前{{nbsp}}後": "前 後",
    "前{{small space}}後": "前 後",
    "{{Sfn|山|1990}}": "", "{{R|a}}": "", "{{Efn|注}}": "", "{{Main|塔}}": "", "{{reflist}}": "", "{{coord|35|N|139|E}}": "",
    "{{DEFAULTSORT:とう}}": "", "{{#if:a|b|c}}": "b", "{{Flagicon|JPN}}": "", "{{要出典|date=2020年}}": "", 
}  # fmt: skip

MORE = {
    # numbers
    "{{formatnum:1234567}}": "1,234,567", "{{formatnum:1234.5678}}": "1,234.5678", "{{formatnum:-1234}}": "-1,234",
    "{{formatnum:1,234|R}}": "1234", "{{FORMATNUM: 987654 }}": "987,654", "{{formatnum:{{#expr:1000*2}}}}": "2,000",
    "{{num|1234567}}": "1,234,567", "{{#expr: 2 * (3 + 4) }}": "14", "{{#expr:10/4}}": "2.5", "{{#expr:7 mod 3}}": "1",
    "{{#expr:2^10}}": "1024", "{{#expr:22/7 round 2}}": "3.14", "{{#expr:2.5 round 0}}": "3", "{{#expr:-2+5}}": "3",
    "{{#ifexpr:2 > 1|大|小}}": "大", "{{#ifeq:a|b|同|異}}": "異", "{{#ifeq:1.0|1|同|異}}": "同", "{{#if:|有|無}}": "無",
    "{{#switch:b|a=甲|b=乙|丙}}": "乙", "{{#switch:z|a=甲|b=乙|丙}}": "丙", "{{#switch:a|a|b=乙}}": "乙",
    "{{uc:abc}}": "ABC", "{{lc:ABC}}": "abc", "{{ucfirst:abc}}": "Abc", "{{padleft:7|3|0}}": "007", "{{#language:fr}}": "フランス語",
    # what decides is the words, not the marks of what was dropped; of unknown words nothing is known
    "値{{#if:{{#if:|x|}}|甲|乙}}": "値乙", "{{#ifeq:{{#if:|x}}||甲|乙}}": "甲", "{{#ifeq:a|a{{sfn}}|甲|乙}}": "甲",
    "{{#switch:a{{sfn}}|a=甲|乙}}": "甲",
    "{{#switch:a|a{{sfn}}=甲|乙}}": "甲", "{{#len:甲{{sfn}}}}": "1", "{{#ifexpr:1{{sfn}}|甲|乙}}": "甲",
    "{{formatnum:1234{{sfn}}}}": "1,234",
    "{{#if:{{未知}}|甲|乙}}": None, "{{#ifeq:{{未知}}|a|甲|乙}}": None, "{{#ifeq:a|{{未知}}|甲|乙}}": None,
    "{{#switch:{{未知}}|a=甲|乙}}": None,
    "{{#switch:b|{{未知}}=甲|b=乙|丙}}": None, "{{#switch:b|b=乙|{{未知}}=甲|丙}}": "乙", "{{#len:{{未知}}}}": None,
    "{{#iferror:{{未知}}|甲|乙}}": None, "{{#if:甲|乙|{{未知}}}}": "乙", "{{uc:a{{未知}}}}": None, "{{padleft:{{未知}}|9|0}}": None,
    "{{val|12345|u=km}}": "12,345 km", "{{val|1.5|0.1|e=3|u=m}}": "1.5±0.1×10^3 m", "{{val|5|ul=kg|uper=m}}": "5 kg/m",
    "{{unit|3|m}}": "3 m", "{{Unit|3|m|2}}": "3 m2", "{{unit|5|m||s|-1}}": "5 m s-1", "{{単位|10|km}}": "10 km",
    "{{convert|300|m|ft}}": "300メートル", "{{convert|1234|km|mi|abbr=on}}": "1,234 km",
    "{{Convert|5|to|10|kg|lb}}": "5から10キログラム",
    "{{convert|10|-|20|mi|km}}": "10-20マイル", "{{convert|6|ft|2|in|m}}": "6フィート2インチ", "{{convert|20|C|F}}": "20°C",
    "{{convert|5|x|6|m|ft}}": "5×6メートル", "{{convert|7|qqq|km}}": "7 qqq", "{{cvt|100|km2|sqmi}}": "100 km2",
    "{{convert|1/2|mi}}": "1/2マイル", "{{convert|100|kN|lbf}}": "100キロニュートン", "{{convert|100|kn}}": "100ノット",
    "{{convert|5|mW}}": "5ミリワット", "{{convert|5|MW}}": "5メガワット", "{{convert|5|Mg}}": "5メガグラム",
    "{{convert|5|mg}}": "5ミリグラム",
    "{{convert|5|mPa}}": "5ミリパスカル", "{{convert|5|MPa}}": "5メガパスカル", "{{convert|5|Mm}}": "5メガメートル",
    "{{convert|5|T}}": "5テスラ",
    "{{convert|5|G}}": "5ガウス", "{{convert|5|St}}": "5ストークス", "{{convert|5|KM}}": "5キロメートル",
    "{{convert|2|e3kN}}": "2×10^3キロニュートン",
    "約{{frac|1|2}}": "約1/2", "と{{frac|3|1|2}}": "と3 1/2", "と{{sfrac|3}}": "と1/3", "10{{sup|3}}": "10^3", "H{{sub|2}}O": "H2O",
    "5{{e|3}}": "5×10^3", "{{10^|6}}": "10^6", "{{sqrt|2}}": "√2", "{{chem|H|2|SO|4}}": "H2SO4", "{{chem2|Na2CO3}}": "Na2CO3",
    "{{化学式|C|O|2}}": "CO2", "{{gaps|1|234}}": "1234", "{{math|''x'' + 1}}": "x + 1", "{{mvar|x}}": "x",
    "{{percentage|1|3|1}}": "33.3%",
    "{{USD|1000}}": "US$1,000", "{{JPY|5000}}": "5,000円", "{{EUR|20}}": "€20", "{{EUR}}": "欧州連合",
    # dates
    "{{by|2005年}}": "2005年", "{{By|2005}}": "2005", "{{mlby|1999}}": "1999", "{{baseball year|2001}}": "2001",
    "{{NFL Year|2001}}": "2001",
    "{{年|2001}}": "2001", "{{サッカーの年|2001}}": "2001", "{{start date|2005|5|1}}": "2005年5月1日",
    "{{生年月日と年齢|1970|1|2}}": "1970年1月2日",
    "{{start date|²}}": None, "{{start date|2005|②|5}}": "2005年5月", "{{start date|" + "9" * 5000 + "}}": None,
    "{{死亡年月日と没年齢|①|5|1|1980|1|1}}": None,
    "{{死亡年月日と没年齢|1900|5|1|1980|1|1}}": "1980年1月1日（79歳没）", "{{没年齢|1900|5|1|1980|6|1}}": "80歳",
    # languages
    "{{en|The Blue Tower}}": "The Blue Tower", "{{fr|La Tour}}": "La Tour", "{{Ko|서울}}": "서울", "{{zh|t=塔樓|s=塔楼}}": "塔樓、塔楼",
    "{{zh|塔楼}}": "塔楼", "{{lang-zh|塔楼}}": "塔楼", "{{zh-xx|塔楼}}": None, "{{fr icon}}": "", "{{en}}": "",
    "{{ラテン語|turris}}": "turris",
    "{{英語|tower}}": "tower", "{{英語}}": "", "{{transl|ar|Al-Burj}}": "Al-Burj", "{{transl|ar|DIN|al-Burǧ}}": "al-Burǧ",
    "{{ラテン翻字|ru|Bashnya}}": "Bashnya", "{{llang|zh|塔}}": "塔", "{{rtl-lang|ar|برج}}": "برج",
    "{{langwithname|en|英語|tower}}": "tower",
    "{{lang-sr-Latn|toranj}}": "toranj", "{{IPA-en|ˈtaʊər|pron}}": "[ˈtaʊər]", "{{IPAc-en|t|aʊ|ər}}": "[taʊər]",
    "{{ピン音|tǎlóu}}": "tǎlóu",
    # countries
    "{{JPN}}": "日本", "{{USA}}": "アメリカ合衆国", "{{GER}}": "ドイツ", "{{DEU}}": "ドイツ", "{{JPN2}}": "日本",
    "{{FRA1}}": "フランス",
    "{{flag|JPN}}": "日本", "{{flag|フランス}}": "フランス", "{{fb|BRA}}": "ブラジル", "{{FlagIOC|USA|2004年夏季}}": "アメリカ合衆国",
    "{{ENG}}": "イングランド", "{{UK}}": "イギリス", "{{jpn}}": None, "{{flagathlete|山田|JPN}}": "山田（日本）",
    "{{flagicon|JPN}}": "",
    # looks, marks, lists
    "{{resize|150%|大}}": "大", "{{resize|大}}": "大", "{{color|#f00|[[塔]]}}": "塔", "{{background color|red|赤}}": "赤",
    "{{赤|字}}": "字",
    "{{mdash}}": "—", "前{{·}}後": "前 · 後", "A{{'s}}": "A's", "{{((}}a{{))}}": "{{a}}", "前{{br}}後": "前\n後",
    "前{{zwsp}}後": "前後",
    "{{ubl|甲|乙}}": "甲\n乙", "{{hlist|甲|乙}}": "甲・乙", "{{key press|Ctrl|C}}": "Ctrl+C", "{{tl|foo}}": "{{foo}}",
    "{{0}}8月": "8月",
    '{{"|塔は高い}}と': "「塔は高い」と", "{{行内引用|塔は高い}}と": "塔は高いと", "{{tooltip|略|説明}}": "略", "{{sort|001|一}}": "一",
    "{{URL|http://example.jp|案内}}": "案内", "{{PDFlink|[http://example.jp/a.pdf 計画]}}": "計画",
    "{{Template:ruby|漢字|かんじ}}": "漢字",
    "{{テンプレート:Small|小}}": "小", "{{safesubst:small|小}}": "小", "{{読み|漢字|かんじ}}": "漢字",
    "{{よみがな|漢字|かんじ}}": "漢字",
    "{{仮リンク|塔|en|Tower|redirect=1}}": "塔", "{{Link-interwiki|ja=塔|lang=en}}": "塔",
    "{{Snamei|Homo sapiens}}": "Homo sapiens", "{{AUY|Linnaeus|1758}}": "Linnaeus, 1758", "{{Wikt-lang|en|tower}}": "tower",
    "{{Harvtxt|山田|1990|p=5}}": "山田 (1990)", "{{Harvnb|山田|田中|1990}}": "山田・田中 1990", "{{As of|2010|5}}": "2010年5月現在",
    "{{code|print|python}}": "print", "{{vanchor|塔|tower}}": "塔", "{{color|red|text=赤}}": "赤", "{{resize|大|150%}}": "大",
    "{{interlang|en|Tower}}": "Tower", "{{interlang|en|Tower|塔}}": "塔", "{{audio|A.ogg||de|Turm|トゥルム}}": "Turm",
    "{{audio|A.ogg|発音}}": "",
    "{{color box|red|赤}}": "赤", "{{color box|red}}": "", "{{angbr|x}}": "⟨x⟩", "{{駅|東京}}": "東京駅", "{{RFC|2616}}": "RFC 2616",
    "25 {{°C}}": "25 °C", "{{nhly|2005}}": "2005", "{{val|3.2e6|u=m}}": "3.2×10^6 m",
    "{{ROC-TW}}": "中華民国", "{{USA-CA}}": None, "{{FRA1794}}": "フランス", "{{floor|x}}": "⌊x⌋", "{{columns-list|2|甲}}": "甲",
    "と3{{frac|1|2}}": "と3 1/2", "{{chem|SO|4|2-}}": "SO4^2-", "{{chem|Na|+}}": "Na+", "{{convert|2|e6km2}}": "2×10^6平方キロメートル",
    "{{fs90|小}}": "小", "{{nwr|長い}}": "長い", "{{H:title|説明|略}}": "略", "{{q|塔}}": "“塔”", "{{comma|12345}}": "12,345",
    "{{ルビ-ja|漢字|かんじ}}": "漢字",
    # places are no sentence of their own
    "{{coord|35|30|N|139|45|E}}": "", "位置は{{coord|35|30|N|139|45|E}}である": "位置は北緯35度30分 東経139度45分である",
    "位置は{{ウィキ座標度分秒|35|0|10|S|139|0|20|W}}である": "位置は南緯35度0分10秒 西経139度0分20秒である",
    "位置は{{coord|35.5|-139.5}}である": "位置は北緯35.5度 西経139.5度である", "塔{{coord|35|N|139|E|display=title}}は": "塔は",
}  # fmt: skip


@pytest.mark.parametrize("wikitext, text", (PRINTED | MORE).items())
def test_a_template_prints_its_words(wikitext: str, text: str | None) -> None:
    assert clean(wikitext) == (text or "")
    if text is None:
        # The words are not known, and the sentence around them goes.
        assert clean(f"前は{wikitext}。次。") == "次。"
    elif text and "\n" not in text:
        assert clean(f"前{wikitext}。次。") == f"前{text}。次。"


@pytest.mark.parametrize("name", sorted({*rules.TEMPLATE_ARGUMENT, *rules.LAST_ARGUMENT, *rules.TRANSLITERATION}))
def test_every_name_with_a_rule_keeps_an_argument_and_nothing_else(name: str) -> None:
    assert clean(f"前{{{{{name}|甲|乙|丙}}}}後。") in ("前甲後。", "前乙後。", "前丙後。")


def test_every_calculated_template_gives_words_or_costs_the_sentence() -> None:
    assert len(templates.FUNCTIONS) > 100
    calls = ["", "|", "|甲", "|1", "|1|2", "|1|2|3|4|5|6", "|甲|乙|丙", "|=", "|1=", "|x=y", "|-", "|1|m", "|1|-", "|N|N|E|E"]
    for name in templates.FUNCTIONS:
        for call in calls:
            text = clean(f"前は{{{{{name}{call}}}}}後。")
            assert text == "" or (text.startswith("前は") and text.endswith("後。")), (name, call, text)


def test_every_code_of_a_language_keeps_the_words_and_alone_prints_none() -> None:
    # These are names of other templates too.
    for code in LANGUAGE_CODES - {"ce", "cr", "tl"}:
        assert clean(f"原題は{{{{{code}|Tower}}}}である。") == "原題はTowerである。", code
        assert clean(f"原題は{{{{lang-{code}|Tower}}}}である。") == "原題はTowerである。", code
        assert code in ("br", "pi") or clean(f"塔は高い（{{{{{code}}}}}）。") == "塔は高い。", code


def test_every_code_of_a_country_prints_its_name() -> None:
    assert len(COUNTRY_NAMES) > 350 and COUNTRY_NAMES["ANT"] == "オランダ領アンティル"
    for code, name in COUNTRY_NAMES.items():
        if len(code) == 3:
            assert clean(f"1951年に{{{{{code}}}}}が批准した。") == f"1951年に{name}が批准した。", code
            assert clean(f"1951年に{{{{flag|{code}}}}}が批准した。") == f"1951年に{name}が批准した。", code


@pytest.mark.parametrize(
    "note",
    [
        *(
            "Sfn|山|1990",
            "r|a",
            "efn|注",
            "要出典|date=2020年",
            "いつ|date=2020年",
            "誰2",
            "要検証",
            "Cite web|url=http://a.jp",
            "出典無効",
        ),
        *(
            "疑問点|date=2020年",
            "要ページ番号",
            "refnest|注",
            "#tag:ref|注",
            "Flagicon|JPN",
            "anchor|節",
            "enlink|Tower",
            "ISBN2|4-00",
            "0",
        ),
    ],
)
def test_a_template_without_words_leaves_its_sentence_as_it_is(note: str) -> None:
    assert clean(f"塔は高い{{{{{note}}}}}と言う{{{{{note}}}}}。{{{{{note}}}}}次の文。") == "塔は高いと言う。次の文。"


@pytest.mark.parametrize(
    "box", ["Infobox 塔", "基礎情報 国", "Navbox", "Otheruses", "Main|塔", "coord|35|N|139|E|display=title", "未知の箱"]
)
def test_a_box_before_a_paragraph_costs_no_sentence(box: str) -> None:
    assert clean(f"{{{{{box}\n|名=塔\n}}}}塔は高い。\n\n{{{{{box}}}}}\n次。") == "塔は高い。\n次。"


def test_the_title_of_the_page_is_known_only_where_it_is_given() -> None:
    assert clean("'''{{PAGENAME}}'''は塔である。次。", "青い塔 (東京)") == "青い塔 (東京)は塔である。次。"
    assert clean("'''{{PAGENAME}}'''は塔である。次。") == "次。"
    assert clean("{{FULLPAGENAME}}と{{SUBPAGENAME}}と{{PAGENAMEBASE}}。", "*塔 (東京)") == "*塔 (東京)と*塔 (東京)と*塔。"
    for name in ("CURRENTYEAR", "NUMBEROFARTICLES", "#time:Y", "#invoke:a|b", "REVISIONID", "LOCALDAY"):
        assert clean(f"今は{{{{{name}}}}}年。次。", "塔") == "次。"
