"""The filter `where` of a corpus: conditions on the fields of a row, in a small language of our own that is parsed and never run as code.

    score >= 3 and language == "ja" and not (meta.source in ["a", "b"] or "adult" in tags)

A condition is true, false or unknown, as in SQL. Unknown is a comparison with a field that is missing, null or NaN, or whose value is of
another kind (string, number, truth value) than what it is compared with. `== null` and `!= null` ask for missing or null fields and are
never unknown. `not`, `and` and `or` of unknown follow SQL. A row stays only where the whole expression is true.
"""

import operator
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from jadeberta.shards import ConfigError
from preprocess.readers.rows.field_paths import MAX_CHARACTERS as MAX_PATH_CHARACTERS
from preprocess.readers.rows.field_paths import MAX_PARTS, MISSING

MAX_CHARACTERS = 4000
MAX_DEPTH = 50
"""Most brackets and `not` inside one another."""

Kind = Literal["string", "number", "truth value", "null"]
Condition = Callable[[Sequence[Any]], bool | None]
"""Judges the values of `Where.fields`: true, false or unknown."""

_KINDS: dict[type, Kind] = {str: "string", int: "number", float: "number", bool: "truth value"}
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_CONSTANTS = {"true": True, "false": False, "null": None}
_TOKEN = re.compile(
    r"""\s*(?:
    (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<number>-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    |(?P<name>(?:[^\W\d][\w-]*|`[^`]+`)(?:\.(?:\w[\w-]*|`[^`]+`))*)
    |(?P<sign>==|!=|<=|>=|<|>|\(|\)|\[|\]|,)
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}
_USUAL_MISTAKES = {
    "=": "write == to compare",
    "&": "write and",
    "|": "write or",
    "!": "write not, or != to compare",
    '"': "a string has no end",
    "'": "a string has no end",
    "`": "a name in ` has no end",
}


class Use(NamedTuple):
    """One comparison of a field, for a reader that knows the kinds of its columns before it reads them."""

    field: str
    kinds: frozenset[Kind]
    """What the field is compared with."""
    as_list: bool
    """Whether the field is what `in` looks into."""


@dataclass
class Where:
    """A parsed filter."""

    text: str
    fields: list[str] = field(default_factory=list)
    """The fields that it names, by their paths, in order."""
    uses: list[Use] = field(default_factory=list)
    condition: Condition = lambda values: None

    def keeps(self, values: Sequence[Any]) -> bool:
        """Returns whether a row stays; `values` are those of `fields`, MISSING or None where the row has none."""
        return self.condition(values) is True


def parse_where(text: str, key: str) -> Where:
    """Parses a filter.

    Args:
        text: the filter, as the recipe has it.
        key: the recipe's key, for errors.

    Raises:
        ConfigError: it is not of the language, with the character at which it stops being so.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{key}: the filter has {len(text):,} characters; it may have {MAX_CHARACTERS:,}.")
    return _Parser(text, key).whole()


class _Token(NamedTuple):
    kind: str
    value: Any
    start: int
    """Character at which it begins, from 0."""


class _Field(NamedTuple):
    number: int


class _Parser:
    def __init__(self, text: str, key: str) -> None:
        self._where, self._key, self._depth = Where(text), key, 0
        self._tokens = self._split()
        self._next = 0

    def whole(self) -> Where:
        self._where.condition = self._any()
        if self._peek().kind != "end":
            raise self._error(self._peek(), "and, or, or the end is expected here")
        return self._where

    def _split(self) -> list[_Token]:
        text, found, position = self._where.text, list[_Token](), 0
        while text[position:].strip():
            match = _TOKEN.match(text, position)
            start = position + len(text[position:]) - len(text[position:].lstrip())
            if match is None:
                raise self._error(_Token("", "", start), _USUAL_MISTAKES.get(text[start], "nothing that a filter can hold"))
            kind = str(match.lastgroup)
            found.append(_Token(kind, self._value(kind, match[kind], start), start))
            position = match.end()
        return [*found, _Token("end", "", len(text))]

    def _value(self, kind: str, written: str, start: int) -> Any:
        if kind == "string":
            return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[0]), written[1:-1], flags=re.DOTALL)
        if kind == "number":
            number = int(written) if re.fullmatch(r"-?\d+", written) else float(written)
            if abs(number) > sys.float_info.max:  # of an integer that large math.isinf itself would raise
                raise self._error(_Token("", "", start), "a number beyond the largest one")
            return number
        if kind == "name":
            return ".".join(part.strip("`") for part in re.findall(r"`[^`]+`|[^.`]+", written)) if "`" in written else written
        return written

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *values: str) -> _Token | None:
        """Returns the next token if it is one of these words or signs, and goes on behind it."""
        token = self._peek()
        if token.kind in ("name", "sign") and token.value in values and self._written(token) == token.value:
            self._next += 1
            return token
        return None

    def _written(self, token: _Token) -> str:
        """Returns a name as it is written: one in ` is never a word of the language."""
        return self._where.text[token.start : token.start + len(str(token.value))]

    def _error(self, token: _Token, problem: str) -> ConfigError:
        text = self._where.text
        here = f"at '{text[token.start : token.start + 20]}'" if token.start < len(text) else "at its end"
        remedy = """write it like: score >= 3 and language == "ja" and not (source in ["a", "b"])"""
        return ConfigError(f"{self._key}: character {token.start + 1}, {here}: {problem}; {remedy}.")

    def _any(self) -> Condition:
        return self._joined("or", self._all, decisive=True)

    def _all(self) -> Condition:
        return self._joined("and", self._negated, decisive=False)

    def _joined(self, word: str, part: Callable[[], Condition], decisive: bool) -> Condition:
        parts = [part()]
        while self._take(word):
            parts.append(part())
        return parts[0] if len(parts) == 1 else _joined(parts, decisive)

    def _negated(self) -> Condition:
        token = self._take("not", "(")
        if token is None:
            return self._comparison()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(token, f"more than {MAX_DEPTH} brackets and 'not' inside one another")
        inner = _not(self._negated()) if token.value == "not" else self._any()
        if token.value == "(" and not self._take(")"):
            raise self._error(self._peek(), "a closing bracket is expected here")
        self._depth -= 1
        return inner

    def _comparison(self) -> Condition:
        first = self._peek()
        left = self._operand()
        if self._take("not"):
            if not self._take("in"):
                raise self._error(self._peek(), "in is expected behind not here")
            return _not(self._membership(left, first))
        if self._take("in"):
            return self._membership(left, first)
        sign = self._take(*_OPERATORS)
        if sign is None:
            raise self._error(self._peek(), "a comparison is expected here: ==, !=, <, <=, >, >=, in or not in")
        right = self._operand()
        if not isinstance(left, _Field):
            left, right, name = right, left, _MIRRORED.get(sign.value, sign.value)
        else:
            name = sign.value
        if not isinstance(left, _Field):
            raise self._error(first, "two values are compared, and no field")
        if self._peek().value in _OPERATORS and self._peek().kind == "sign":
            raise self._error(self._peek(), "one comparison cannot follow another; join two by and")
        ordered = name not in ("==", "!=")
        if isinstance(right, _Field):
            # Quotes that were forgotten would otherwise compare two fields, of which one is in no row.
            raise self._error(first, "two fields are compared; put a string in quotes")
        if ordered and (right is None or isinstance(right, bool)):
            raise self._error(sign, f"{'null' if right is None else 'a truth value'} is neither smaller nor larger; use == or !=")
        self._use(left, (right,))
        return _compared(left.number, name, right)

    def _membership(self, left: Any, first: _Token) -> Condition:
        """Returns the condition behind `in`: a list of values, or a field that holds a list."""
        if self._take("["):
            values = [self._constant()]
            while self._take(","):
                values.append(self._constant())
            if not self._take("]"):
                raise self._error(self._peek(), "a comma or ] is expected here")
            if not isinstance(left, _Field):
                raise self._error(first, "a field is expected before in and a list")
            self._use(left, values)
            return _within(left.number, values)
        token = self._peek()
        right = self._operand() if token.kind == "name" else None
        if not isinstance(right, _Field):
            raise self._error(token, "a list like [1, 2] or a field that holds one is expected here")
        if isinstance(left, _Field) or left is None:
            raise self._error(first, "a string, a number or a truth value is expected before in and a field")
        self._use(right, (left,), as_list=True)
        return _holds(right.number, left)

    def _use(self, used: _Field, values: Sequence[Any], as_list: bool = False) -> None:
        kinds: frozenset[Kind] = frozenset(_KINDS.get(type(value), "null") for value in values)
        self._where.uses.append(Use(self._where.fields[used.number], kinds, as_list))

    def _constant(self) -> Any:
        token = self._peek()
        value = self._operand()
        if isinstance(value, _Field):
            raise self._error(token, "a string, a number, true, false or null is expected here")
        return value

    def _operand(self) -> Any:
        """Returns a field, or the value of a constant."""
        token = self._peek()
        self._next += 1
        if token.kind in ("string", "number"):
            return token.value
        if token.kind != "name":
            self._next -= 1
            raise self._error(token, "a field, a string, a number, true, false or null is expected here")
        if self._written(token) == token.value:
            if token.value in _CONSTANTS:
                return _CONSTANTS[token.value]
            if token.value in ("and", "or", "not", "in"):
                raise self._error(
                    token, f"a field or a value is expected here; a field of the name {token.value} is written in `"
                )
            if token.value in ("True", "False", "None", "AND", "OR", "NOT", "IN"):
                meant = "null" if token.value == "None" else token.value.lower()
                raise self._error(token, f"write {meant}; a field of the name {token.value} is written in `")
        if token.value.count(".") >= MAX_PARTS or len(token.value) > MAX_PATH_CHARACTERS:
            raise self._error(token, f"a field may have {MAX_PARTS} names and {MAX_PATH_CHARACTERS} characters")
        fields = self._where.fields
        if token.value not in fields:
            fields.append(token.value)
        return _Field(fields.index(token.value))


def _kind(value: Any) -> Kind | None:
    """Returns the kind of a value; None for those that nothing is compared with: missing, null, NaN, lists, objects."""
    return None if value != value else _KINDS.get(type(value))


def _compared(number: int, name: str, constant: Any) -> Condition:
    if constant is None:
        return lambda values: (values[number] is None or values[number] is MISSING) == (name == "==")
    wanted, compare = _KINDS[type(constant)], _OPERATORS[name]
    return lambda values: compare(values[number], constant) if _kind(values[number]) == wanted else None


def _within(number: int, constants: list[Any]) -> Condition:
    null = None in constants
    # By kind: in Python True is 1.
    of_kind = {kind: {c for c in constants if _kind(c) == kind} for c in constants if (kind := _kind(c)) is not None}

    def condition(values: Sequence[Any]) -> bool | None:
        value = values[number]
        if value is None or value is MISSING:
            return True if null else None
        kind = _kind(value)
        return value in of_kind[kind] if kind in of_kind else None

    return condition


def _holds(number: int, constant: Any) -> Condition:
    wanted = _KINDS[type(constant)]

    def condition(values: Sequence[Any]) -> bool | None:
        value = values[number]
        return any(item == constant and _kind(item) == wanted for item in value) if isinstance(value, list) else None

    return condition


def _not(inner: Condition) -> Condition:
    def condition(values: Sequence[Any]) -> bool | None:
        found = inner(values)
        return None if found is None else not found

    return condition


def _joined(parts: list[Condition], decisive: bool) -> Condition:
    """`and` where one False decides, `or` where one True does; else unknown if a part is."""

    def condition(values: Sequence[Any]) -> bool | None:
        known: bool | None = not decisive
        for part in parts:
            found = part(values)
            if found is decisive:
                return decisive
            known = None if found is None else known
        return known

    return condition
