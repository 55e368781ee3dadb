"""The text of HTML: what frames a page is left out as a whole, and no word is lost inside a sentence that stays."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess.readers.html.article_rules import text_of_article
from preprocess.readers.html.hostile import is_hostile
from preprocess.readers.html.parser import parse
from preprocess.readers.html.web_rules import text_of_page
from preprocess.readers.wiki.incomplete_sentences import Losses

LONG = "本文の長い段落がここにあります。" * 5
BOTH = {
    "ruby": ("<p>これは<ruby>漢字<rp>(</rp><rt>かんじ</rt><rp>)</rp></ruby>です。</p>", "これは漢字です。"),
    "ruby whose readings are never closed": ("<p><ruby>漢<rt>かん<rb>字<rt>じ</ruby>です。</p>", "漢字です。"),
    "markup inside a word": ("<p>東<b>京<i>都</i></b>の<a href=x>人<span>口</span></a>。</p>", "東京都の人口。"),
    "power": ("<p>10<sup>3</sup>とx<sup>2</sup>とkm<sup>2</sup>。</p>", "10^3とx^2とkm2。"),
    "index": ("<p>H<sub>2</sub>Oと10<sub>2</sub>。</p>", "H2Oと10_2。"),
    "character ³": ("<p>10³だ。</p>", "10^3だ。"),
    "less than": ("<p>a&lt;b かつ &lt;sup&gt;x。</p>", "a<b かつ <sup>x。"),
    "entities": ("<p>A&amp;B&nbsp;&#x6f22;。</p>", "A&B\xa0漢。"),
    "line of the source in Japanese": ("<p>これは長い\n    文です。</p>", "これは長い文です。"),
    "line of the source in English": ("<p>This is\nlong 文\nです。</p>", "This is long 文です。"),
    "line of the source at a tag": ("<p>これは\n<b>長い</b>\n文です。</p>", "これは長い文です。"),
    "break": ("<p>一行目。<br>二行目。<br/>三行目。</p>", "一行目。\n二行目。\n三行目。"),
    "list": ("<ul><li>一つ目。<ol><li>その中。</li></ol></li><li>二つ目。</li></ul>", "一つ目。\nその中。\n二つ目。"),
    "definition": ("<dl><dt>語</dt><dd>意味。</dd></dl>", "語\n意味。"),
    "text beside blocks": ("前。<div>中。</div>後。", "前。\n中。\n後。"),
    "comment, script and style": ("<p>前<!-- x --><script>y</script><style>z</style>後。</p>", "前後。"),
    "hidden": ("<p>見える。<span style='display: none'>x</span><span hidden>y</span></p><div style='DISPLAY:NONE;'>z</div>", "見える。"),
    "picture alone": ("<p><img src=a alt=b></p><p>文。</p>", "文。"),
    "picture in the place of a word": ("<p>前の文。<img src=a>は漢字の書き方である。後の文。</p>", "前の文。後の文。"),
    "control characters": ("<p>本\x01\x05文。</p>", "本文。"),
    "headings": ("<h2>見出し</h2><p>文。</p>", "見出し\n文。"),
}  # fmt: skip


@pytest.mark.parametrize("html, expected", BOTH.values(), ids=BOTH)
def test_both_kinds_of_page_keep_the_words_of_a_sentence(html: str, expected: str) -> None:
    assert text_of_page(parse(f"<body>{html}")) == expected
    assert text_of_article(parse(f"<body>{html}"), Losses()) == expected


WEB = {
    "frames": (
        "<header><h1>サイト</h1></header><nav><p>案内の文。</p></nav><aside>横</aside><form>検索<input></form>"
        f"<p>{LONG}</p><footer>©</footer>",
        LONG,
    ),
    "the header of an article holds its title": (
        f"<article><header><h1>題名</h1></header><p>{LONG}</p></article>",
        f"題名\n{LONG}",
    ),
    "names": (
        f'<div id="sidebar">横</div><ul class="x Breadcrumb"><li>上</li></ul><div role="navigation">案内</div>{LONG}',
        LONG,
    ),
    "a name around everything proves nothing": (f'<form><div class="menu" role="navigation">{LONG}</div></form>', LONG),
    "whole words of a name": (f'<div class="has-sidebar submenu-x">短い文。</div>{LONG}', f"短い文。\n{LONG}"),
    "links alone": ("<ul><li><a>会社案内</a></li><li><a>一</a> | <a>二</a></li></ul><p><a>リンクの文。</a></p>", "リンクの文。"),
    "a link around blocks": ("<a><h3>題</h3><p>箱の文です。</p></a><p>次の文。</p>", "箱の文です。\n次の文。"),
    "numbers of notes": ("<p>これは<sup><a>[1]</a></sup>文<sup>※2</sup>。</p>", "これは文※2。"),
    "old pages of tables": ("<table><tr><td>本文の<font>一行目。<td>隣の列。</table>", "本文の一行目。\n隣の列。"),
    "a text with line ends of its own": ("<pre>一行目。\n二<b>行</b>目。</pre>", "一行目。\n二行目。"),
    "characters that could not be read": ("<p>読め\ufffdない文。</p><p>読める文。</p>", "読める文。"),
    "lines without a word": ("<p>・・・</p><p>文。</p><p>|</p>", "文。"),
    "a page of frames": ("<frameset cols=1><frame src=x><noframes><body>枠がない。</noframes></frameset>", ""),
    "controls": ("<p>選ぶ。<select><option>一<option>二</select></p><button>押す</button>", "選ぶ。"),
}


@pytest.mark.parametrize("html, expected", WEB.values(), ids=WEB)
def test_the_main_text_of_a_web_page(html: str, expected: str) -> None:
    before = "" if html.startswith("<frameset") else "<body>"
    assert text_of_page(parse(f"{before}{html}")) == expected


def tex(formula: str) -> str:
    """A formula as MediaWiki shows it: MathML that is hidden, and a picture."""
    hidden = f'<span style="display:none"><math alttext="{formula}"><mi>q</mi></math></span>'
    return f'<span class="mwe-math-element">{hidden}<img alt="{formula}"></span>'


ARTICLE = {
    "notes": ('<p>首都<sup class="mw-ref reference" typeof="mw:Extension/ref"><a>[1]</a></sup>である。</p>', "首都である。"),
    "doubted": ('<p>首都である<sup class="noprint Inline-Template">[<a>要出典</a>]</sup>。</p>', "首都である。"),
    "boxes": (
        '<table class="infobox"><tr><td>x</td></tr></table><div class="navbox" role="navigation">x</div><div class="hatnote">x</div>'
        "<figure><figcaption>x</figcaption></figure><style>x</style><p>文。</p>",
        "文。",
    ),
    "edit links": ('<h2>歴史<span class="mw-editsection">[編集]</span></h2><p>文。</p>', "歴史\n文。"),
    "a formula": ("<p>式は" + tex(r"{\displaystyle E=mc^{2}}") + "である。</p>", "式はE = mc^2である。"),
    "a formula that fits into no line": (
        "<p>前の文。行列" + tex(r"{\displaystyle {\begin{matrix}a\end{matrix}}}") + "は大きい。後の文。</p>",
        "前の文。後の文。",
    ),
    "sections of sources": (
        "<section><h2>歴史</h2><p>一。</p></section><section><h2><i>脚注</i></h2><p>x</p><section><h3>下</h3><p>x</p></section></section>"
        "<section><h2>その後</h2><p>二。</p></section><h2>外部リンク</h2><ul><li>x</li></ul>",
        "歴史\n一。\nその後\n二。",
    ),
    "tables": ("<p>前。</p><table class=wikitable><tr><td>x</td></tr></table><p>後。</p>", "前。\n後。"),
    "code": (
        '<p>これは<code class="mw-highlight">x=1</code>だ。</p><div class="mw-highlight"><pre>y</pre></div>',
        "これはx=1だ。",
    ),
    "links are items": ("<ul><li><a>東京</a></li><li><a>大阪</a></li></ul>", "東京\n大阪"),
    "empty brackets": ('<p>東京（<sup class="reference">[1]</sup>）は首都。</p>', "東京は首都。"),
}


@pytest.mark.parametrize("html, expected", ARTICLE.values(), ids=ARTICLE)
def test_the_running_text_of_an_article(html: str, expected: str) -> None:
    assert text_of_article(parse(f"<body>{html}"), Losses()) == expected


def test_a_sentence_without_its_formula_is_counted() -> None:
    losses = Losses()
    text_of_article(parse("<p>行列" + tex(r"\begin{matrix}a") + "は大きい。</p>"), losses)
    assert losses.sentences == 1 and losses.templates == {"<math>": 1}


@pytest.mark.parametrize(
    "page",
    [
        "<div>" * 40_000 + "字。",
        "<header>" * 15_000 + "字。",
        "<div class=menu>" * 15_000 + "字。",
        "<sup>" * 15_000 + "字。",
        "<b><i><p>" * 500 + "字。",
        "<table><tr><td>" * 8_000 + "字。",
        "<li><ul>" * 8_000 + "字。",
        "<" * 10**6,
        "",
    ],
    ids=["deep", "headers", "menus", "sup", "formatting", "tables", "lists", "signs", "nothing"],
)
def test_a_page_of_openings_that_are_never_closed_is_read_in_seconds(page: str) -> None:
    began = time.process_time()
    assert not is_hostile(page)
    for text in (text_of_page(parse(page)), text_of_article(parse(page), Losses())):
        assert re.sub(r"<", "", text) in ("字。", "")
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    "page",
    [
        "".join(f"<b id={n}><p>" for n in range(4000)),
        "<div " + " ".join(f"a{n}=1" for n in range(20_000)) + ">",
        "</b>" * 4000 + "".join(f"<font size={n}><p>" for n in range(4000)),
    ],
    ids=["copies", "attributes", "closed before"],
)
def test_a_page_that_breaks_a_parser_is_found_before_it_is_parsed(page: str) -> None:
    assert is_hostile(page)


def test_an_ordinary_page_is_not_taken_for_a_hostile_one() -> None:
    row = "<tr><td class='a b'><font color=red>字</font></td><td><b>太</b></td></tr>"
    assert not is_hostile(f"<table>{row * 5000}</table><img src='data:image/png;base64,{'A' * 10**6}'>" + "<p>" * 2000)


INLINE = [
    "b",
    "i",
    "a href='x'",
    "span",
    "font",
    "em",
    "ruby",
    "small",
    "u",
    "q",
    "code",
    "bdi",
    "del",
    "ins",
    "label",
    "abbr title='x'",
    "x-new",
]


@settings(max_examples=60)
@given(st.data())
def test_no_markup_inside_a_sentence_costs_a_word_of_it(data: st.DataObject) -> None:
    words = data.draw(
        st.lists(st.sampled_from(["東京", "は", "日本", "の", "首都", "A1", "で", "ある"]), min_size=2, max_size=12)
    )
    html, opened = "<p>", list[str]()
    for word in words:
        for _ in range(data.draw(st.integers(0, 2))):
            tag = data.draw(st.sampled_from(INLINE))
            html += f"<{tag}>"
            opened.append(tag.split()[0])
        html += word + data.draw(
            st.sampled_from(["", "", "<!-- x -->", "<wbr>", "<rt>よみ</rt>" if "ruby" in opened else "", "<script>x</script>"])
        )
        while opened and data.draw(st.booleans()):
            html += f"</{opened.pop()}>"
    sentence = "".join(words) + "。"
    # A sentence is closed or not, in its paragraph or beside one.
    html += (
        "".join(f"</{tag}>" for tag in reversed(opened))
        + "。"
        + data.draw(st.sampled_from(["</p>", "", "</div>", "<table><tr><td>"]))
    )
    page = parse(f"<body><div>{html}")
    assert text_of_page(page) == text_of_article(page, Losses()) == sentence


# Apart from control characters all of them are markup, or look like it.
PIECES = [
    "<p>", "</p>", "<div hidden>", "<table>", "</table>", "<tr>", "<td>", "<b>", "</b>", "<a>", "</a>", "<ruby>", "<rt>", "<sup>", "</sup>",
    "<sub>", "<h2>脚注</h2>", "<h3>", "<pre>", "</pre>", "<svg>", "<math alttext='\\frac'>", "<select>", "<option>", "<template>", "<form>",
    "<nav>", "<li>", "<br>", "<![CDATA[", "<!--", "-->", "<script>", "</script>", "<textarea>", "<frameset>", "<body class='menu'>",
    "</body>", "<html>", "\0", "&#0;", "&lt;sup&gt;", "\ufffd", "字", "文。", "1", " ", "\n", "<", ">", "'", '"', "=",
]  # fmt: skip


@settings(max_examples=200)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_any_page_gives_lines_of_text(page: str) -> None:
    for text in (text_of_page(parse(page)), text_of_article(parse(page), Losses())):
        assert not re.search(r"[\x00-\x09\x0b-\x1f]|\n\n", text) and text == text.strip("\n")
