"""Templates of numbers: quantities with units, fractions, money, dates, coordinates."""

import re
from collections.abc import Callable

from preprocess.readers.wiki.country_codes import COUNTRY_NAMES
from preprocess.readers.wiki.incomplete_sentences import ASIDE
from preprocess.readers.wiki.parser_functions import formatted_number, printed
from preprocess.readers.wiki.template_call import Call

_NUMBER = re.compile(r"[+\-−–]?[0-9０-９][0-9０-９,.]*")
_JOINTS = {
    "-": "-", "–": "–", "to": "から", "and": "と", "or": "または", "by": "×", "x": "×", "×": "×", "*": "×", "+/-": "±", "±": "±",
    "~": "～",
    "to(-)": "-", "から": "から", "と": "と", "～": "～", "〜": "〜", "+": "+",
}  # fmt: skip
_UNITS = {
    "m": "メートル", "km": "キロメートル", "cm": "センチメートル", "mm": "ミリメートル", "ft": "フィート", "in": "インチ",
    "yd": "ヤード", "mi": "マイル",
    "nmi": "海里", "au": "天文単位", "ly": "光年", "kg": "キログラム", "g": "グラム", "mg": "ミリグラム", "t": "トン",
    "lb": "ポンド", "oz": "オンス",
    "st": "ストーン", "ha": "ヘクタール", "acre": "エーカー", "acres": "エーカー", "km2": "平方キロメートル",
    "m2": "平方メートル", "sqmi": "平方マイル",
    "sqft": "平方フィート", "sqkm": "平方キロメートル", "sqm": "平方メートル", "m3": "立方メートル", "km3": "立方キロメートル",
    "l": "リットル",
    "gal": "ガロン", "usgal": "ガロン", "impgal": "英ガロン", "kn": "ノット", "hp": "馬力", "bhp": "馬力", "ps": "馬力",
    "w": "ワット", "kw": "キロワット",
    "mw": "メガワット", "bbl": "バレル", "cuft": "立方フィート", "cuin": "立方インチ", "fathom": "ファゾム", "furlong": "ハロン",
    "chain": "チェーン",
    "k": "ケルビン", "j": "ジュール", "kj": "キロジュール", "n": "ニュートン", "pa": "パスカル",
    "hpa": "ヘクトパスカル",
    "mpa": "メガパスカル", "bar": "バール", "atm": "気圧",
    # Units of which small letters would make other ones: kn is a knot.
    "kN": "キロニュートン", "mW": "ミリワット", "mPa": "ミリパスカル", "Mg": "メガグラム", "Mm": "メガメートル", "G": "ガウス",
    "T": "テスラ", "St": "ストークス",
}  # fmt: skip
_SIGNS = {
    "c": "°C",
    "f": "°F",
    "km/h": "km/h",
    "mph": "mph",
    "sqmi": "sq mi",
    "km2": "km2",
    "m2": "m2",
    "usgal": "US gal",
    "l": "L",
}
_MAX_DIGITS = 12
_DIRECTIONS = {"N": "北緯", "S": "南緯", "E": "東経", "W": "西経"}


def printed_number(text: str) -> str | None:
    """Returns a number as it is printed, None if the text is none."""
    text = text.strip().replace("&minus;", "-").replace("\u2212", "-")
    if not _NUMBER.fullmatch(text):
        return text if re.fullmatch(r"[0-9]+(?:\+[0-9]+)?[/⁄][0-9]+", text) else None
    return text if "," in text else formatted_number(text)


def convert(call: Call) -> str | None:
    """{{convert|300|m|ft}}: returns number and first unit; the same in other units, which stands in brackets behind it, is left out."""
    numbered = call.numbered()
    brief = call.first("abbr") in ("on", "in", "yes", "y") or call.key == "cvt"
    text, position = "", 0
    while position + 1 < len(numbered):
        number = printed_number(numbered[position])
        if number is None:
            return None
        text += number
        joint = numbered[position + 1]
        if joint not in _JOINTS:
            unit = joint
            text += _unit(unit, brief)
            position += 2
            # {{convert|6|ft|2|in}}: a length in two units
            if (
                position + 1 < len(numbered)
                and printed_number(numbered[position])
                and numbered[position + 1] in ("in", "oz", "yd", "ft", "lb")
            ):
                text += printed_number(numbered[position]) or ""
                text += _unit(numbered[position + 1], brief)
            return text
        text += _JOINTS[joint]
        position += 2
    return None


def _unit(unit: str, brief: bool) -> str:
    key = unit.lower()
    if key in ("c", "f", "°c", "°f"):
        return _SIGNS[key.strip("°")]
    if not brief and (words := _UNITS.get(unit) or _UNITS.get(key)):
        return words
    if match := re.fullmatch(r"e(3|6|9|12)(.+)", key):
        return f"×10^{match[1]}{_unit(unit[1 + len(match[1]) :], brief)}"
    return " " + _SIGNS.get(key, unit)


def quantity(call: Call) -> str | None:
    """{{unit|3|m}}, {{unit|3|m|2}} and {{unit|3|m|2|s|-1}}."""
    numbered = call.numbered()
    if not numbered:
        return None
    text = printed_number(numbered[0]) or numbered[0]
    for position in range(1, len(numbered), 2):
        power = numbered[position + 1] if position + 1 < len(numbered) else ""
        text += f" {numbered[position]}{power}" if numbered[position] else ""
    return text


def value(call: Call) -> str | None:
    """{{val|1.5|0.1|e=3|u=m}}: number, uncertainty, power of ten and unit."""
    numbered = call.numbered()
    if not numbered:
        return None
    text = printed_number(numbered[0]) or numbered[0]
    if len(numbered) > 2:
        text += f" +{numbered[1].lstrip('+')} -{numbered[2].lstrip('-−')}"
    elif len(numbered) == 2:
        text += numbered[1] if numbered[1].startswith("(") else f"±{numbered[1]}"
    text = call.first("p") + text
    text = re.sub(r"(?<=\d)[eE](?=[+\-−]?\d)", "×10^", text)
    if power := call.first("e"):
        text += f"×10^{power}"
    unit = call.first("u", "ul", "up", "upl")
    return text + (f" {unit}" if unit else "") + (f"/{per}" if (per := call.first("uper")) else "") + call.first("s")


def fraction(call: Call) -> str | None:
    """{{frac|1|2}}, {{frac|3|1|2}}."""
    numbered = [part for part in call.numbered() if part]
    if len(numbered) == 1:
        numbered.insert(0, "1")
    words = {2: "{}/{}", 3: "{} {}/{}"}.get(len(numbered), "").format(*numbered)
    return f"{ASIDE}{words}{ASIDE}" if words else None


def chemical(call: Call) -> str | None:
    """{{chem|SO|4|2-}}: the arguments in a row, a charge behind a number set off from it."""
    numbered = [part for part in call.numbered() if part]
    if len(numbered) > 1 and numbered[-2].isdecimal() and re.fullmatch(r"[0-9]*[+\-−–]", numbered[-1]):
        numbered[-1] = f"^{numbered[-1]}"
    return "".join(numbered) or None


def joined(call: Call) -> str | None:
    """{{gaps|1|234}}: the arguments in a row."""
    return "".join(call.numbered()) or None


def number_of(call: Call) -> str | None:
    """{{num|1234}}."""
    text = call.first("1")
    return (printed_number(text) or text) or None


def money(before: str, after: str) -> Callable[[Call], str | None]:
    """{{USD|1000}}: a sum with what stands before and after it; without a sum the code may be that of a country."""

    def words(call: Call) -> str | None:
        amount = call.first("1")
        if not amount:
            return COUNTRY_NAMES.get(call.name)
        return before + (printed_number(amount) or amount) + after

    return words


def percent(call: Call) -> str | None:
    """{{percentage|1|3|1}}."""
    try:
        part, whole = (float(call.arguments[name].replace(",", "")) for name in "12")
        digits = int(call.first("3") or 0)
        return f"{printed(round(100 * part / whole, digits))}%"
    except (KeyError, ValueError, ArithmeticError):
        return None


def date(call: Call) -> str | None:
    """{{start date|2005|5|1}}, {{生年月日と年齢|1970|1|1}}: what a date adds to it, such as an age,
    changes by the day and is left out."""
    return _year_month_day(_whole_numbers(call)[:3])


def _whole_numbers(call: Call) -> list[str]:
    # ² and ① are digits of which int() makes no number, nor does it of thousands of digits.
    return [part for part in call.numbered() if part.isdecimal() and len(part) <= _MAX_DIGITS]


def _year_month_day(numbers: list[str]) -> str | None:
    return "".join(f"{int(number)}{unit}" for number, unit in zip(numbers, "年月日", strict=False)) or None


def life(birth_first: bool, age_alone: bool = False) -> Callable[[Call], str | None]:
    """{{死亡年月日と没年齢|1900|1|1|1980|1|1}}: day of death and age, or the age alone."""

    def words(call: Call) -> str | None:
        numbers = _whole_numbers(call)
        if len(numbers) < 6:
            return None
        birth, death = (numbers[:3], numbers[3:6]) if birth_first else (numbers[3:6], numbers[:3])
        years = int(death[0]) - int(birth[0]) - ([int(n) for n in death[1:]] < [int(n) for n in birth[1:]])
        return f"{years}歳" if age_alone else f"{_year_month_day(death)}（{years}歳没）"

    return words


def place(call: Call) -> str | None:
    """{{coord|35|0|N|135|0|E}}, {{ウィキ座標度分|35|0|N|135|0|E}}: degrees, minutes and seconds in words."""
    if call.first("display") in ("title", "t"):
        return ""
    texts: list[str] = []
    numbered = call.numbered()
    if len(numbered) >= 2 and not any(part in _DIRECTIONS for part in numbered):
        north, east = numbered[:2]
        numbered = [north.lstrip("-−"), "S" if north[:1] in ("-", "−") else "N"]
        numbered += [east.lstrip("-−"), "W" if east[:1] in ("-", "−") else "E"]
    numbers: list[str] = []
    for part in numbered:
        if part in _DIRECTIONS:
            texts.append(_DIRECTIONS[part] + "".join(f"{n}{unit}" for n, unit in zip(numbers, "度分秒", strict=False)))
            numbers = []
        elif _NUMBER.fullmatch(part):
            numbers.append(part)
        if len(texts) == 2:
            return f"{ASIDE}{' '.join(texts)}{ASIDE}"
    return None


def height(call: Call) -> str | None:
    """{{height|m=1.8}}, {{height|ft=6|in=1}}."""
    if metres := call.first("m"):
        return f"{metres} m"
    if feet := call.first("ft"):
        return f"{feet}フィート" + (f"{inches}インチ" if (inches := call.first("in")) else "")
    return f"{cm} cm" if (cm := call.first("cm")) else None
