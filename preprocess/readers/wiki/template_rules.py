"""Rules for what templates print, by name, in one table for each kind; `templates.py` applies them.

Names are in small letters with spaces. A rule is added here together with a case in tests/preprocess/readers/wiki/test_templates.py,
which fails where a name has none. A template without a rule costs the sentence it stands in.
"""

import re

from preprocess.readers.markup_rules import words


def _names(text: str) -> frozenset[str]:
    """Names with spaces, one a line or between bars."""
    return frozenset(name.strip() for line in text.split("\n") for name in line.split("|") if name.strip())


TEMPLATE_ARGUMENT: dict[str, tuple[str, ...]] = {
    # links to other Wikipedias, and to pages not yet written
    **dict.fromkeys(
        _names("""
            仮リンク | 仮link | 日本語版にない記事リンク | 日本語版にない記事 | 未作成リンク | illm | illm2 | ill | ill2
            interlanguage link
            interlanguage link multi | link-interwiki | redlink | enlink2 | wikidatalink | ウィキデータリンク
        """),
        ("label", "lt", "1", "title", "ja"),
    ),
    "ill-wd": ("label", "2", "1"),
    "ill-wd2": ("label", "jp", "ja", "1"),
    "pdflink": ("1",),
    "plainlink": ("2", "name", "1"),
    "url": ("2", "1"),
    "colored link": ("3", "2"),
    "colorlink": ("3", "2"),
    "link color": ("3", "2"),
    "color link": ("3", "2"),
    # readings: the base text
    **dict.fromkeys(
        _names("""
            ruby | rubi | ルビ | ふりがな | フリガナ | 振り仮名 | 振仮名 | 読み仮名 | 読み | よみ | よみがな | 読みがな
            読み仮名 ruby不使用
            読み仮名ruby不使用 | ruby2 | ruby notation | rubytext | yomi | yomigana | furigana | 右ルビ | 左ルビ | 両ルビ | 熟字訓
        """),
        ("1",),
    ),
    # other languages and scripts
    **dict.fromkeys(_names("lang | rtl-lang | llang | langs | lang2 | lang wrap | langr | script | ltr-lang"), ("2",)),
    **dict.fromkeys(_names("langwithname | lang-with-name | rtl-langwithname"), ("3",)),
    **dict.fromkeys(
        words("""
            nihongo nihongo2 nihongo3 nihongo4 nihongo-s jpn-kanji nastaliq nastaliq2 hebrew arabic polytonic 中文 繁体字 繁體字
            簡体字 簡體字
            正体字 簡体 繁体 繁 簡 正 漢字 ハングル hangul 한글 漢字表記 ピン音 拼音 pinyin 漢語拼音 ピンイン 注音 注音符号
            ウェード式 粤拼 広東語ピンイン
            白話字 ローマ字 チュノム runic cuneiform gothic ipa2 ipalink 発音記号 unichar ハ
        """),
        ("1",),
    ),
    "interlang": ("3", "2"),
    "wikt-lang": ("3", "2"),
    **dict.fromkeys(words("snamei sname snamei2 学名 属名 種名 wsp wikispecies-link"), ("2", "1")),
    **dict.fromkeys(_names("au | ipa link | ipablink | ipaslink | ipa記号 | lj | lkana | jpsize | varserif | midsize"), ("1",)),
    **dict.fromkeys(
        _names("arab | hebr | cyrl | grek | manchusibeunicode | mongolunicode | mongolian | tibetan | siddham"), ("1", "2")
    ),
    **dict.fromkeys(
        _names("code | vanchor | visible anchor | anchor text | ipa | unicode | ipaテンプレート | linktext"), ("1", "text")
    ),
    "audio-ipa": ("2",),
    "audio-de": ("1",),
    "音声リンク": ("2",),
    # passages and marks of the text's history
    **dict.fromkeys(
        _names("""
            quote | quotation | cquote | blockquote | 引用 | 行内引用 | 文中引用 | 引用2 | 引用句 | bq | pull quote | quote text
            文内引用 | inline quote | inlinequote | tq
            tq2 | xt | bquote
            quote inline | 引用文 | citation needed span | 補足 | 補助 | 訳注 | 括弧 | 鍵括弧
        """),
        ("1", "quote", "text"),
    ),
    "rquote": ("2",),
    "quote box": ("quote", "1"),
    # sort keys: what is shown
    "sort": ("2", "1"),
    "sortname": ("3", "1"),
    "display": ("1",),
    "by": ("1",),
    **dict.fromkeys(_names("h:title | hover"), ("2", "1")),
}
"""Arguments of a template that are running text: the first of these that is given."""

LAST_ARGUMENT = _names("""
    color | font color | fontcolor | colors | color2 | colour | textcolor | text color | fc | bgcolor | 背景色 | background color
    文字色 | 色
    背景色2 | font | fontsize | font size | size | resize | fs | 文字サイズ | フォントサイズ | font-size | highlight
    color highlight | rgb
    lower | raise | 縮小 | 拡大 | 極小 | 特大 | フォント | 文字の色 | 赤文字 | 青文字
    small | smaller | small2 | smaller2 | big | bigger | large | larger | huge | tiny | 小 | 大 | 小文字 | 大文字 | larger2 | big2
    nowrap | nowraplinks | nobreak | nwr | 改行なし | nobr | nbsp | 改行禁止 | noitalic | noitalics | normal | bold | b | i
    italic | italics | em | strong | 太字 | 斜体 | 強調
    sub2 | underline | uline | u | s | strike | del | ins | 下線 | 傍線 | 二重下線 | 取消線 | 打ち消し線 | 取り消し線 | 抹消
    傍点 | 圏点 | bouten | 上線
    overline | smallcaps | small caps | sc | allcaps | 縦書き | 囲み | 囲み線 | 枠 | 枠線 | 枠囲み | border | boxed | まるかっこ
    拡張漢字 | jis2004フォント | jis90フォント
    補助漢字フォント | cp932フォント
    外字 | gaiji | 異体字 | 旧字体 | 新字体 | 旧字 | 俗字 | ucs | mono | monospace | tt | kbd | samp | var | dfn | key
    script/hebrew | script/arabic | script/greek
    math | mvar | mathit | mathbf | bigmath | serif | sans-serif | sfont | ゴシック | 明朝 | center | left | right | indent | 中央
    右寄せ
    weight | columns-list | align | plainlist | flatlist | longitem | nobold | 細字 | text | spoiler | hover title | 訳語 | 訳
    red | blue | green | white | black | gray | grey | yellow | orange | purple | pink | 赤 | 青 | 緑 | 白 | 黒 | 黄 | 灰
    赤字 | 青字 | 太字赤 | 緑字 | 白字 | 灰色 | 赤色 | 青色
    cn-span | 年 | years | year | 西暦 | 月 | 約
""")
"""Templates that change the looks of their last argument without a name. {{small|小}}, {{resize|150%|大}}"""

FIRST_ARGUMENT_FAMILY = re.compile(
    r"(?:lang|link|ruby|ルビ)-[a-z-]+\d?|(?:fs|size|resize|font|small|big)-?\d+%?|script/[a-z ]+|[^\s{}|]{1,12}範囲|.*フォント|"
    # {{by|2005年}}, {{mlby|2005}}, {{baseball year|2005}}, {{nfl year|2005}}
    r"by\d?|(?:mlb|npb?|kbo|cpbl|nfl|nhl|w?nba|cfl|afl|mls|f|ws)y|(?:[a-z0-9 ]* )?[a-z]*years?|(?:.*[の ])?年度?|"
    # {{tooltip|略|説明}}
    r"tooltip\d?|abbr\d?|abbrlink|abbreviation|略語?|ツールチップ|"
    # {{ラテン語|word}}
    r"(?:[ァ-ヶー・]{2,12}|.{1,4})語"
)
"""{{lang-en|word}}, {{link-en|記事|article}}, {{ruby-ja|漢字|かんじ}}, {{要出典範囲|doubted passage}}: the first argument is text."""

PHONETIC = re.compile(r"ipa-[a-z-]+|pron-[a-z]+|ipac-[a-z-]+|発音(?:-.*)?|phonos")
"""The first argument is a pronunciation; those of {{IPAc-en|t|aʊ|ər}} are joined."""

TRANSLITERATION = words("transl transliteration translit ラテン翻字 翻字 ラテン文字転写 転写 ローマ字転写")
"""{{transl|ar|Al-Burj}}, {{transl|ar|DIN|Al-Burj}}: the last argument is text, unless it is alone."""

TEMPLATE_CHARACTER = {
    "!": "|", "=": "=", "'": "&#39;", "'s": "&#39;s", "' ": "&#39;", "スペース": " ", "sp": " ", "nbsp": " ", "small space": " ",
    "thinsp": " ",
    "ensp": " ", "emsp": " ", "space": " ", "全角スペース": "　", "mdash": "—", "ndash": "–", "emdash": "—", "endash": "–",
    "snd": " – ",
    "spaced ndash": " – ", "spnd": " – ", "--": "—", "—": "—", "–": "–", "·": " · ", "•": " • ", "dot": " · ", "bullet": " • ",
    "中黒": "・",
    "colon": "&#58;", ":": "&#58;", ";": "&#59;", "*": "&#42;", "#": "&#35;", "((": "&#123;&#123;", "))": "&#125;&#125;", "(": "&#123;",
    ")": "&#125;", "(!": "{|", "!)": "|}", "!-": "|-", "!!": "||", "!(": "&#91;", ")!": "&#93;", "pipe": "|", "π": "π", "pi": "π",
    "〜": "〜", "~": "~", "br": "\n", "改行": "\n", "break": "\n", "crlf": "\n", "-brk": "\n", "zwsp": "", "shy": "",
    "wbr": "",
    "ローマ数字1": "I", "○": "○", "×": "×", "●": "●", "°": "°", "degree": "°", "°c": "°C", "°f": "°F", "℃": "°C", "′": "′",
    "″": "″", "times": "×", "±": "±", "minus": "−",
    "no break space": " ", "gap": " ", "pad": " ", "spaces": " ", "in5": " ", "quad": " ", "en dash": "–", "em dash": "—",
    "tm": "™", "copyright": "©", "r-mark": "®", "euro": "€", "pound": "£",
    "yen": "¥",
}  # fmt: skip
"""Templates that stand for a character or two, where they have no argument."""

TABLE_END = re.compile(
    r"end|s-end|(?:end|close)[ -]?(?:table|box)|表終|表の終わり|fb cl footer|cl footer|.* table/end|"
    r"(?:.*[ -])?(?:table|box|テーブル|表|成績|一覧)[ -]?(?:end|bottom|footer|foot|終|終わり|終了|下|フッター|フッタ)"
)
"""Templates that end a table which wikitext began."""

SILENT = re.compile(
    r"""(?x)
    # notes, sources and their parts
    r|rp|cref.*|cnote.*|ref.*|refn.*|sfn.*|sfnm|harv.*|efn.*|fn|fnb|notetag.*|note|notelist.*|notefoot.*|cite.*|citation.*|r\+page
    |脚注.*|注釈.*
    |注|出典.*|参考.*
    |isbn.*|issn.*|oclc|doi|ncid|naid|crid|ndljp|全国書誌番号|国立国会図書館.*|asin|jan|arxiv|pmid|pmc|lccn|hdl|jstor|bibcode
    |s2cid|zbl|mr|oeis
    |imdb.*|allcinema.*|kinejun.*|jmdb.*|movielink|webarchive|wayback|archive.*|アーカイブ.*|リンク切れ.*|dead.?link.*|cbignore
    |要購読契約|登録制|paywall
    |subscription.*|registration.*|和書|full|page.?needed|ページ番号|要ページ番号
    # doubts of editors
    |要(?!約$)[^|]*|いつ|誰.*|どこ.*|どの.*|どれ|何\d?|なぜ|どう.*|疑問.*|独自研究.*|信頼性.*|正確性.*
    |中立.*|大言壮語|言葉を濁さない|by.?whom|when\??|who\??|which\??|whom|where|why|how|clarify.*|fact|cn|dubious.*|citation.?needed.*
    |vague|weasel.*|peacock.*|.*-inline|specify|verify.*|failed.?verification|or|syn|neologism|update.?after|sic|ママ
    |原文ママ|誤字|bare.?url.*|出典無効|出典の明記.*|未検証.*|検証.*|単一の出典|一次資料.*|脚注の不足|参照方法.*|特筆性.*|観点.*
    |宣伝.*|広告.*|百科事典.*
    |複数の問題.*|multiple.?issues|改名.*|統合.*|分割.*|削除.*|移動.*|転記.*|翻訳.*|加筆.*|更新.*|古い情報|現在進行|最新.*
    |工事中.*|執筆中|内容過剰
    |雑多.*|冗長.*|長すぎる.*|あらすじ.*|ネタバレ.*|物語.*(?:始|終).*|存命.*|性的.*|色|告知|保護.*|半保護.*|全保護.*|拡張半保護.*
    |pp-.*|pp|good.?article|featured.*
    |秀逸.*|良質.*|暫定記事名|記事名.*|wikify|マークアップ.*|国際化.*|日本中心.*|地域的.*|特殊文字.*
    |機種依存.*|jis2004|入力支援.*
    # navigation, boxes and media
    |main\d?|main.?article|see.?also|see|see.?wiktionary|further.*|details?|参照.*|関連項目.*|otheruses.*|other.*|for|about
    |redirect.*|混同.*|distinguish.*
    |hatnote.*|dablink|otherpeople.*|詳細.*|特集|infobox.*|.*[ _-]infobox|.*infobox.*|基礎情報.*|navbox.*|sidebar.*|.*stub
    |.*スタブ|substub|節?stub.*
    |stub.*|commons.*|wikt.*|wikisource.*|wikinews.*|wikiquote.*|wikibooks.*|wikispecies.*|wikidata.*|wikivoyage.*|wikiversity.*
    |sister.*|meta
    |portal.*|ポータル.*|ウィキポータル.*|ウィキ(?!座標).*|プロジェクト.*|project.*|節.?stub|clear.*|-|toc.*|目次.*|横並び目次
    |normdaten|authority.?control|multicol.*
    |col-.*|div.?col.*|段組.*|columns?.?(?:start|begin|end|break).*|col.?(?:begin|end|break).*|top|bottom|hidden.*|collapse.*
    |start|s-.*|succession.*|先代.*|前後.*|start.?box|flagicon.*
    |flag.?icon.*
    |flagdeco|flag.?image|flag.?cell|flagimage|国旗アイコン|国旗画像|country.?icon|.*\ icon|.*アイコン|icon.*|audio.?template|音声
    |sound|listen.*
    |試聴|speaker.*|ogg|multi-?listen.*|動画
    |[^|]*画像.*|image.*|multiple.?image.*|double.?image.*|superimpose.*|css.?image.*|gallery|location.?map.*|mapplot|座標.*
    |日本の位置.*|osm.*|geogroup.*|maplink|mapframe
    |external.?media|外部メディア.*|family.?tree.*|chart.*|clade.*|graph.*|timeline.*
    |bar.?box.*|bar.?percent|pie.*|円グラフ.*
    # signs without words
    |0|00|000|anchors?|アンカー|nowrap.?(?:begin|end)|nobr.?(?:begin|end)|indent.?(?:start|end)|small.?(?:start|end)|hs|ntsh|dtsh
    |sort.?key|hidden.?sort.*
    |display.?none|visible.?sort|enlink|中国語版|英語版.*|lang.?icon|pdf|doc|xls|ppt|html|adobe.*|増加|減少|上昇|下降
    |increase.*|decrease.*|steady|増減なし|横ばい
    |defaultsort.*|displaytitle.*|italic.?title.*|小文字|lowercase.*|temp|nobots|bots|use.*dates|short.?description|年代?ナビ
    |templatestyles|#tag:ref|転送|カテゴリ.*|category.*
    |bot.*|user.*|ambox.*|mbox.*|notice|注意|公開終了|翻訳中|タスクフォース.*
    """
)
"""Templates that print no word of a sentence: it stays as it is without them."""

DISAMBIGUATION = (
    r"aimai|disambig(?:uation)?|disamb|dab|hndis|geodis|mathdab|曖昧さ回避|[^\s{}|\[\]]{1,12}の曖昧さ回避|人名曖昧さ回避"
)
"""A page that calls one of these templates is a list of links."""
