"""The words that a template call prints on the page of a reader: plain rules by name in `template_rules.py`, calculated ones here."""

import re
from collections.abc import Callable
from functools import lru_cache

from preprocess.readers.language_codes import LANGUAGE_CODES
from preprocess.readers.wiki import quantities
from preprocess.readers.wiki import template_rules as rules
from preprocess.readers.wiki.country_codes import COUNTRY_NAMES
from preprocess.readers.wiki.formulas import line_of_chemistry, line_of_tex
from preprocess.readers.wiki.incomplete_sentences import ASIDE, GAP
from preprocess.readers.wiki.parser_functions import PARSER_FUNCTION, parser_function, variable
from preprocess.readers.wiki.template_call import Call, call_of
from preprocess.readers.wikitext import Parts

_STYLE = re.compile(
    r"#[0-9A-Fa-f]{3,8}|[0-9.]+\s*(?:%|％|px|pt|em|rem|ex|倍)?|(?:x+-)?(?:small|large)(?:er)?|medium|normal|bold|[a-z-]+\s*:[^:]*;?|"
    r"(?:light|dark|medium|deep)?(?:red|blue|green|white|black|yellow|orange|purple|pink|gray|grey|navy|teal|maroon|silver|gold|brown|"
    r"cyan|magenta|lime|olive|transparent)",
    re.IGNORECASE,
)
"""A size or colour among the arguments of a template."""
_OTHER_LANGUAGES = frozenset(
    ("zh-t", "zh-s", "zh-tw", "zh-cn", "zh-hk", "zh-hant", "zh-hans", "cjkv", "grc", "cmn", "heb", "ang", "sux")
)
_LONGEST_NAME = 200
_COUNTRY = re.compile(r"([A-Z]{2,4})(?:[0-9]?|[a-z]|-TW|-?[0-9]{4})")


def printed_words(parts: Parts, title: str) -> str | None:
    """Returns the words that a template prints, GAP if it prints none that belong to a sentence, and None if that is not known.

    Args:
        parts: what stands between its brackets.
        title: title of the page, "" if it is not known.
    """
    call = call_of(parts)
    key = call.key
    if match := PARSER_FUNCTION.fullmatch(call.name):
        arguments = [match[2], *("".join(part) for part in parts[1:])]
        if (words := parser_function(match[1].lower(), arguments, title)) is not None:
            return words or GAP
    if len(parts) == 1 and (words := rules.TEMPLATE_CHARACTER.get(key)) is not None:
        return words
    if len(parts) == 1 and (words := variable(key, title)) is not None:
        return words
    # Codes are in capitals: {{BOT}} is Botswana, {{bot}} is none.
    words = None if key in FUNCTIONS and call.arguments else _by_country(call)
    if words is None and key in LANGUAGE_CODES and key not in FUNCTIONS and call.unnamed:
        words = _by_code(call)
    words = _by_rule(call) if words is None else words
    if words is None:
        return _by_code(call)
    # A template of text whose text is empty prints nothing.
    return words or GAP


def _by_rule(call: Call) -> str | None:
    """Returns the words of a template that has a rule; "" for none, None if there is no rule."""
    key = call.key
    if (function := FUNCTIONS.get(key)) is not None:
        return function(call)
    if (wanted := rules.TEMPLATE_ARGUMENT.get(key)) is not None:
        words = _one_of(call, *wanted)
        # A quotation of whole sentences is a block of its own: what follows it is no part of them.
        return f"{words}\n{GAP}" if words and "quote" in wanted and words.endswith("。") else words
    if key in rules.LAST_ARGUMENT:
        return _styled(call)
    if key in rules.TRANSLITERATION:
        numbered = call.numbered()
        return numbered[-1] if numbered else None
    # No template has a longer name; the patterns would take quadratic time.
    family = _family_of(key) if len(key) <= _LONGEST_NAME else ""
    if family == "phonetic":
        words = "".join(call.numbered()) if key.startswith("ipac") else call.first("1")
        return f"&#91;{words.strip('[]/')}&#93;" if words else None
    if family == "first argument":
        return "" if key.endswith("語") and not call.arguments else _one_of(call, "1", "label", "text")
    return {"table end": "\n|}\n", "silent": ""}.get(family)


def _one_of(call: Call, *names: str) -> str | None:
    # Words in another argument than the known ones are words that are not known.
    return call.first(*names) or (None if any(call.unnamed) or not call.arguments else "")


@lru_cache(2**14)
def _family_of(key: str) -> str:
    patterns = {
        "phonetic": rules.PHONETIC,
        "first argument": rules.FIRST_ARGUMENT_FAMILY,
        "table end": rules.TABLE_END,
        "silent": rules.SILENT,
    }
    return next((family for family, pattern in patterns.items() if pattern.fullmatch(key)), "")


def _styled(call: Call) -> str | None:
    """Returns what is left of the arguments without sizes and colours."""
    numbered = call.numbered()
    texts = [text for text in numbered if text and not _STYLE.fullmatch(text)]
    if texts:
        return texts[-1]
    words = call.first("text", "content", "文字", "文章", "文")
    if words or not call.arguments:
        return words or None
    return numbered[-1] if len(numbered) == len(call.arguments) else None


def _by_code(call: Call) -> str | None:
    """Returns the words of a template that is named by the code of a language, {{en|word}}."""
    if call.key not in LANGUAGE_CODES and call.key not in _OTHER_LANGUAGES:
        return None
    if not call.arguments:
        return GAP  # the sign of a language behind a link
    return call.first("1", "2") or None


def _by_country(call: Call) -> str | None:
    """Returns the words of a template that is named by the code of a country, {{JPN}}."""
    if (match := _COUNTRY.fullmatch(call.name)) is None or match[1] not in COUNTRY_NAMES:
        return None
    return (
        None if call.numbered() and match[1].lower() in LANGUAGE_CODES else call.first("name", "label") or COUNTRY_NAMES[match[1]]
    )


def _country(call: Call) -> str | None:
    code = call.first("name", "1", "country")
    return COUNTRY_NAMES.get(code.upper() if len(code) <= 4 and code.isascii() else code, code) or None


def _athlete(call: Call) -> str | None:
    numbered = call.numbered()
    if len(numbered) < 2:
        return None
    return f"{numbered[0]}（{COUNTRY_NAMES.get(numbered[1].upper(), numbered[1])}）"


def _chinese(call: Call) -> str | None:
    words = call.numbered()[:1] or [
        call.arguments[name] for name in ("t", "s", "c", "h", "hp", "p", "w", "j") if call.arguments.get(name)
    ]
    return "、".join(dict.fromkeys(words)) or None


def _author(before: str, after: str) -> Callable[[Call], str | None]:
    """{{Harvtxt|山田|田中|1990|p=5}}: the names, and the year between `before` and `after`."""

    def words(call: Call) -> str | None:
        *names, year = call.numbered() or [""]
        return "・".join(names) + before + year + after if names else None

    return words


def _of_date(call: Call) -> str | None:
    words = quantities.date(call)
    return words and words + "現在"


def _sound(call: Call) -> str | None:
    """{{audio|A.ogg|鐘}}, {{audio|A.ogg||ka|word|reading}}: the words, not the label of a sign to listen."""
    words = call.first("2", "4")
    return "" if words in ("発音", "発音例", "聞く", "再生", "音声", "listen") or len(call.unnamed) < 2 else words or None


def _list(joint: str) -> Callable[[Call], str | None]:
    return lambda call: joint.join(part for part in call.numbered() if part) or None


def _between(before: str, after: str, joint: str = "") -> Callable[[Call], str | None]:
    return lambda call: f"{before}{joint.join(call.numbered())}{after}" if call.numbered() else None


def _chemistry(call: Call) -> str | None:
    return line_of_chemistry(call.first("1"))


def _tex(call: Call) -> str | None:
    words = line_of_tex(call.first("1"))
    return words and f"{ASIDE}{words}{ASIDE}"


FUNCTIONS: dict[str, Callable[[Call], str | None]] = {
    **dict.fromkeys(("convert", "cvt", "convert2", "換算", "単位変換"), quantities.convert),
    **dict.fromkeys(("unit", "単位", "値", "quantity"), quantities.quantity),
    **dict.fromkeys(("val", "value"), quantities.value),
    **dict.fromkeys(
        (
            *("num", "formatnum", "numfmt", "fmtn", "nf", "comma", "カンマ"),
            *("number", "nts", "formatprice", "digits", "桁区切り", "数値"),
        ),
        quantities.number_of),
    **dict.fromkeys(("frac", "fraction", "sfrac", "分数", "frac2", "tfrac"), quantities.fraction),
    **dict.fromkeys(("chem", "化学式", "chem/link", "chemf"), quantities.chemical),
    **dict.fromkeys(("gaps", "join", "連結"), quantities.joined),
    **dict.fromkeys(("chem2", "ce", "mhchem"), _chemistry),
    **dict.fromkeys(("tmath", "math tex"), _tex),
    **dict.fromkeys(("sup", "superscript", "上付き", "上付き文字", "su"), _between("<sup>", "</sup>")),
    **dict.fromkeys(("sub", "subscript", "下付き", "下付き文字"), _between("<sub>", "</sub>")),
    **dict.fromkeys(("e", "×10^", "esp"), _between("×10^", "")),
    **dict.fromkeys(("10^", "10のべき", "10の累乗"), _between("10^", "")),
    **dict.fromkeys(("sqrt", "radical", "根号"), _between("√", "")),
    "audio": _sound,
    **dict.fromkeys(("harvtxt", "harvcoltxt", "harvard citation text", "citet"), _author(" (", ")")),
    **dict.fromkeys(("harvnb", "harvcolnb", "harvard citation no brackets"), _author(" ", "")),
    **dict.fromkeys(("auy", "au year"), _list(", ")),
    **dict.fromkeys(("as of", "asof", "時点"), _of_date),
    **dict.fromkeys(("color box", "colorbox", "カラーボックス", "legend", "legend2", "凡例", "凡例2"), lambda call: call.first("2")),
    **dict.fromkeys(("angbr", "angbr ipa", "grapheme", "angle bracket"), _between("⟨", "⟩")),
    **dict.fromkeys(("bracket", "brackets", "角括弧"), _between("&#91;", "&#93;")),
    **dict.fromkeys(("stn", "駅"), lambda call: f"{name}駅" if (name := call.first("1")) else None),
    **dict.fromkeys(("rfc", "ietf rfc"), _between("RFC ", "")),
    "abs": _between("|", "|"),
    "floor": _between("⌊", "⌋"),
    "ceil": _between("⌈", "⌉"),
    "norm": _between("‖", "‖"),
    "key press": _between("", "", "+"),
    "keypress": _between("", "", "+"),
    "tl": _between("&#123;&#123;", "&#125;&#125;"),
    "tag": _between("&lt;", "&gt;"),
    '"': _between("「", "」"),
    **dict.fromkeys(("“", "q", "qq", "dq"), _between("“", "”")),
    "' '": _between("&#39;", "&#39;"),
    "ordinal": _between("第", ""),
    **dict.fromkeys(("ubl", "unbulleted list", "ulist", "bulleted list", "blist", "ordered list", "olist", "collapsible list"),
    _list("\n")),
    **dict.fromkeys(("hlist", "hl", "flatlist2", "中黒区切り"), _list("・")),
    **dict.fromkeys(("jpy", "円"), quantities.money("", "円")),
    **dict.fromkeys(("usd", "us$", "us dollar"), quantities.money("US$", "")),
    **dict.fromkeys(("€", "euro"), quantities.money("€", "")),
    "eur": quantities.money("€", ""),
    **dict.fromkeys(("£", "gbp", "pound sterling"), quantities.money("£", "")),
    "¥": quantities.money("¥", ""),
    "$": quantities.money("$", ""),
    "cny": quantities.money("", "人民元"),
    "krw": quantities.money("", "ウォン"),
    **dict.fromkeys(("percentage", "percent", "%age", "pct", "割合"), quantities.percent),
    **dict.fromkeys(
        ("start date", "end date", "birth date", "birth date and age", "death date", "start date and age", "film date", "date",
        "dts", "日付"), quantities.date
    ),
    **dict.fromkeys(("生年月日", "生年月日と年齢", "生年月日と年齢2", "没年月日", "birth-date", "start-date", "ymd"), quantities.date),
    **dict.fromkeys(("死亡年月日と没年齢", "没年月日と没年齢"), quantities.life(birth_first=True)),
    **dict.fromkeys(("death date and age", "死去年月日と没年齢"), quantities.life(birth_first=False)),
    **dict.fromkeys(("没年齢", "享年"), quantities.life(birth_first=True, age_alone=True)),
    **dict.fromkeys(("coord", "coor", "coor dms", "coor dm", "coor d", "ウィキ座標", "ウィキ座標度分秒", "ウィキ座標度分",
    "ウィキ座標2段度分秒"), quantities.place),
    **dict.fromkeys(("height", "身長"), quantities.height),
    **dict.fromkeys(
        (
            *("flag", "flagu", "flag2", "flag+link", "flagcountry", "flagcountry2", "flaglist", "国", "国名", "flagioc",
            "flagpar", "flagioc2"),
            *("flagcgf", "flagdeaf", "flagasia", "fb", "fbw", "fb-rt", "fbu", "nft", "nfw", "vb", "vbw", "bk", "bkw", "hb", "ih",
            "cr", "rut", "bb", "dc"),
        ),
        _country,
    ),
    **dict.fromkeys(("flagathlete", "flagiocathlete", "flagioc medalist", "flagmedalist", "flagiocmedalist"), _athlete),
    **dict.fromkeys(("zh", "lang-zh", "zh-hani", "chinese"), _chinese),
}  # fmt: skip
"""Templates whose words are calculated, by name; None: not from these arguments."""
