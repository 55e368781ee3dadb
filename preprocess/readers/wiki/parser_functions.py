"""Parser functions and variables of wikitext, {{formatnum:1234}}, {{#if:a|b|c}}, {{PAGENAME}}: the words that they print.

What depends on more than the page (the time of reading, other pages, modules) is not known here: the value is None.
"""

import math
import re
from collections.abc import Callable

from preprocess.readers.wiki.incomplete_sentences import HOLE, unmarked

PARSER_FUNCTION = re.compile(r"\s*(#?[^\s:|{}\[\]]+)\s*:(.*)", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?")
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)|(?P<name>[a-z]+)|(?P<sign><=|>=|!=|<>|[-+*/^()=<>−×÷]))", re.I
)
_MAX_EXPRESSION = 300
_SILENT_VARIABLES = frozenset(("defaultsort", "displaytitle", "defaultsortkey", "defaultcategorysort", "namespace", "namespacee"))
_TITLE_NAMES = """
    pagename pagenamee fullpagename fullpagenamee basepagename rootpagename subpagename subjectpagename articlepagename ページ名 記事名
"""
_TITLE_VARIABLES = frozenset(_TITLE_NAMES.split())


def formatted_number(text: str) -> str:
    """Returns a number with commas between thousands; what is no number stays as it is."""
    text = text.strip()
    if (match := re.fullmatch(r"([+\-−]?)(\d{1,60})((?:\.\d+)?)", text)) is None:
        return text
    return f"{match[1]}{int(match[2]):,}{match[3]}"


def variable(name: str, title: str) -> str | None:
    """Returns what {{NAME}} prints on the page `title`, if it is known.

    Args:
        name: name of the variable in small letters.
        title: title of the page; may be empty if it is not known.
    """
    if name in _TITLE_VARIABLES:
        return title or None
    if name == "pagenamebase":
        return re.sub(r"\s*[（(][^（()）]*[)）]$", "", title) or None
    return {"sitename": "Wikipedia", "!": "|", "=": "="}.get(name)


def parser_function(name: str, arguments: list[str], title: str) -> str | None:
    """Returns what {{name:argument|argument...}} prints, "" for nothing, None if it is not known here.

    Args:
        name: name in small letters, with its #.
        arguments: the texts between the bars, the first one without the name.
        title: title of the page.
    """
    if name in _SILENT_VARIABLES:
        return ""
    if name in _TITLE_VARIABLES:
        return arguments[0].strip() or title or None
    function = _FUNCTIONS.get(name)
    if function is None:
        return None
    if name not in _PRINTING:
        # These decide on words: a dropped note is none, and whether an unknown template prints any is not known.
        deciding = 2 if name == "#ifeq" else 1
        if any(HOLE in argument for argument in arguments[:deciding]):
            return None
        arguments = [*map(unmarked, arguments[:deciding]), *arguments[deciding:]]
    try:
        return function(*(argument.strip() for argument in arguments))
    except (TypeError, ValueError, ArithmeticError, RecursionError):
        return None


def evaluated(expression: str) -> float:
    """Returns the value of an expression of {{#expr:}}.

    Raises:
        ValueError: it is none, or too long.
        ArithmeticError: it has no value.
    """
    return _Expression(expression).value()


def printed(value: float) -> str:
    """Returns a number as {{#expr:}} prints it, with 14 digits at most."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:.14g}"


def _formatnum(number: str, mode: str = "", *_: str) -> str:
    return number.replace(",", "") if mode in ("R", "NOSEP") else formatted_number(number)


def _if(condition: str, then: str = "", otherwise: str = "", *_: str) -> str:
    return then if condition else otherwise


def _ifeq(left: str, right: str = "", then: str = "", otherwise: str = "", *_: str) -> str:
    equal = left == right
    if not equal and _NUMBER.fullmatch(left) and _NUMBER.fullmatch(right):
        equal = float(left.replace(",", "")) == float(right.replace(",", ""))
    return then if equal else otherwise


def _ifexpr(condition: str, then: str = "", otherwise: str = "", *_: str) -> str:
    return then if condition and evaluated(condition) else otherwise


def _iferror(tested: str, then: str = "", otherwise: str | None = None, *_: str) -> str | None:
    if otherwise is None:
        return tested
    return None if HOLE in tested else otherwise


def _switch(value: str, *cases: str) -> str | None:
    matched = False
    default: str | None = ""
    for number, case in enumerate(cases):
        key, equals, result = (part.strip() for part in case.partition("="))
        if not equals and number == len(cases) - 1:
            return key  # a last case without a key is the default
        if HOLE in key and not matched:
            return None
        key = unmarked(key).strip()
        if not equals:
            matched = matched or key == value
        elif matched or key == value:
            return result
        elif key == "#default":
            default = result
    return default


def _expr(expression: str, *_: str) -> str:
    return printed(evaluated(expression)) if expression else ""


def _tag(name: str, *_: str) -> str | None:
    return "" if name.lower() in ("ref", "references", "templatestyles") else None


def _pad(text: str, width: str, fill: str, before: bool) -> str:
    missing = min(int(width), 100) - len(text)
    filling = ((fill or "0") * 100)[: max(missing, 0)]
    return filling + text if before else text + filling


_LANGUAGE_NAMES = {
    "ja": "日本語", "en": "英語", "fr": "フランス語", "de": "ドイツ語", "it": "イタリア語", "es": "スペイン語", "pt": "ポルトガル語",
    "ru": "ロシア語", "zh": "中国語", "ko": "朝鮮語", "nl": "オランダ語", "la": "ラテン語",
    "el": "ギリシア語", "ar": "アラビア語", "sv": "スウェーデン語",
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[..., str | None]] = {
    "formatnum": _formatnum,
    "#formatnum": _formatnum,
    "#if": _if,
    "#ifeq": _ifeq,
    "#ifexpr": _ifexpr,
    "#iferror": _iferror,
    "#switch": _switch,
    "#expr": _expr,
    "#tag": _tag,
    "uc": lambda text, *_: text.upper(),
    "lc": lambda text, *_: text.lower(),
    "ucfirst": lambda text, *_: text[:1].upper() + text[1:],
    "lcfirst": lambda text, *_: text[:1].lower() + text[1:],
    "padleft": lambda text, width="0", fill="0", *_: _pad(text, width, fill, before=True),
    "padright": lambda text, width="0", fill="0", *_: _pad(text, width, fill, before=False),
    "plural": lambda number, one="", many="", *_: one if number == "1" or not many else many,
    "#len": lambda text="", *_: str(len(text)),
    "#language": lambda code, *_: _LANGUAGE_NAMES.get(code),
    "nowiki": lambda text, *_: text,
}
_PRINTING = frozenset(("uc", "lc", "ucfirst", "lcfirst", "nowiki", "#iferror"))
"""Functions that print their first argument, marks included."""

_POWERS: dict[str, int] = {
    "^": 8,
    "*": 7,
    "×": 7,
    "/": 7,
    "÷": 7,
    "div": 7,
    "mod": 7,
    "fmod": 7,
    "+": 6,
    "-": 6,
    "−": 6,
    "round": 5,
}
_POWERS |= dict.fromkeys(("=", "<", ">", "<=", ">=", "!=", "<>"), 4) | {"and": 3, "or": 2}
_UNARY: dict[str, Callable[[float], float]] = {
    "floor": math.floor, "ceil": math.ceil, "trunc": math.trunc, "abs": abs, "sqrt": math.sqrt, "exp": math.exp, "ln": math.log,
    "sin": math.sin, "cos": math.cos, "tan": math.tan, "not": lambda value: float(not value), "+": float, "-": lambda value: -value,
    "−": lambda value: -value,
}  # fmt: skip


class _Expression:
    """An expression of {{#expr:}}, read from left to right by the strengths of its signs."""

    def __init__(self, expression: str) -> None:
        if len(expression) > _MAX_EXPRESSION:
            raise ValueError("too long an expression")
        self._tokens: list[str] = []
        position, expression = 0, expression.rstrip()
        while position < len(expression):
            match = _TOKEN.match(expression, position)
            if match is None:
                raise ValueError("no expression")
            self._tokens.append(match[0].strip().lower())
            position = match.end()
        self._tokens.reverse()

    def value(self) -> float:
        value = self._read(0)
        if self._tokens or not math.isfinite(value):
            raise ValueError("no expression")
        return value

    def _next(self) -> str:
        if not self._tokens:
            raise ValueError("an expression that ends too early")
        return self._tokens.pop()

    def _read(self, power: int) -> float:
        token = self._next()
        if token == "(":
            value = self._read(0)
            if self._next() != ")":
                raise ValueError("a bracket is not closed")
        elif token in ("e", "pi"):
            value = getattr(math, token)
        elif token in _UNARY:
            value = _UNARY[token](self._read(9))
        else:
            value = float(token)
        while self._tokens and (strength := _POWERS.get(self._tokens[-1], 0)) > power:
            value = _combined(self._next(), value, self._read(strength))
        return value


def _combined(sign: str, left: float, right: float) -> float:
    match sign:
        case "^":
            return math.pow(left, right)
        case "*" | "×":
            return left * right
        case "/" | "÷" | "div":
            return left / right
        case "mod" | "fmod":
            return math.fmod(left, right)
        case "+":
            return left + right
        case "-" | "−":
            return left - right
        case "round":
            # Halves go away from zero, other than with Python's round().
            scale = 10.0 ** int(right)
            return math.copysign(math.floor(abs(left) * scale + 0.5) / scale, left)
        case "and":
            return float(bool(left) and bool(right))
        case "or":
            return float(bool(left) or bool(right))
    less, equal = left < right, left == right
    return float({"=": equal, "<": less, ">": not less and not equal, "<=": less or equal, ">=": not less}.get(sign, not equal))
