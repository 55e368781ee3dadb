"""Short formulas as a line of text: TeX of <math> and <chem>, and superscripts that would change a number if they became digits beside it.

What does not fit into a line, a matrix or an integral with limits, has no text: None.
"""

import re

_MAX_LENGTH = 200
_TOKEN = re.compile(r"\\([A-Za-z]+|.)|([{}^_&~])|\s+|(.)", re.DOTALL)
_FUNCTION_NAMES = """
    sin cos tan log ln exp lim max min det dim ker gcd mod arcsin arccos arctan sinh cosh tanh sec csc cot
"""
_SMALL_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi omega"
)
_LARGE_GREEK = "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
_SYMBOLS = {
    **dict(zip(_SMALL_GREEK.split(), "αβγδεζηθικλμνξπρστυφχψω", strict=True)),
    **dict(zip(_LARGE_GREEK.split(), "ΓΔΘΛΞΠΣΦΨΩ", strict=True)),
    "varepsilon": "ε", "vartheta": "θ", "varphi": "φ", "varrho": "ρ", "omicron": "ο",
    "times": "×", "cdot": "·", "div": "÷", "pm": "±", "mp": "∓", "ast": "*", "circ": "°", "degree": "°", "prime": "′", "infty": "∞",
    "partial": "∂", "nabla": "∇", "hbar": "ħ", "ell": "ℓ", "Re": "Re", "Im": "Im", "emptyset": "∅", "forall": "∀", "exists": "∃",
    "neg": "¬", "lnot": "¬", "land": "∧", "wedge": "∧", "lor": "∨", "vee": "∨", "cup": "∪", "cap": "∩", "setminus": "∖", "oplus": "⊕",
    "otimes": "⊗", "angle": "∠", "triangle": "△", "square": "□", "ldots": "…", "cdots": "…", "dots": "…", "aleph": "ℵ",
    "lbrace": "{", "rbrace": "}", "langle": "⟨", "rangle": "⟩", "lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉", "mid": "|",
    "vert": "|", "lvert": "|", "rvert": "|", "Vert": "‖", "backslash": "\\",
    **{name: name for name in _FUNCTION_NAMES.split()},
    **dict.fromkeys(("quad", "qquad", " ", ",", ";", ":", ">"), " "),
    **dict.fromkeys(("!", "left", "right", "big", "Big", "bigl", "bigr", "displaystyle", "textstyle", "limits", "scriptstyle"), ""),
    **{sign: sign for sign in "{}%$#&_"},
}  # fmt: skip
_RELATIONS = {
    "le": "≤", "leq": "≤", "leqq": "≦", "ge": "≥", "geq": "≥", "geqq": "≧", "ne": "≠", "neq": "≠", "approx": "≈", "simeq": "≃", "sim": "~",
    "equiv": "≡", "cong": "≅", "propto": "∝", "ll": "≪", "gg": "≫", "in": "∈", "notin": "∉", "ni": "∋", "subset": "⊂", "subseteq": "⊆",
    "supset": "⊃", "to": "→", "rightarrow": "→", "leftarrow": "←", "Rightarrow": "⇒", "Leftrightarrow": "⇔", "leftrightarrow": "↔",
    "mapsto": "↦", "implies": "⇒", "iff": "⇔", "perp": "⊥", "parallel": "∥", "lt": "<", "gt": ">",
}  # fmt: skip
_STYLE_NAMES = """
    mathrm mathbf mathit mathsf mathtt mathcal mathbb mathfrak mathscr text textrm textbf textit mbox rm bf it operatorname boldsymbol
    bm vec hat bar tilde overline ce chem
"""
_STYLES = frozenset(_STYLE_NAMES.split())
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
# NFKC, which comes later, makes 103 of 10³ and 31⁄2 of 3½.
_RAISED = re.compile("[⁺⁻⁰¹²³⁴-⁹ⁿ]++")
_FRACTION = re.compile("[¼-¾⅐-⅞]")
_SUP = re.compile(r"<sup\b[^<>]*>\s*([^<>\n]{1,40}+)</sup\s*>", re.IGNORECASE)
_SUB = re.compile(r"<sub\b[^<>]*>\s*([^<>\n]{1,40}+)</sub\s*>", re.IGNORECASE)
_BASE = re.compile(r"(?:(?<![A-Za-z])[A-Za-z]|[0-9０-９)\]}|])'*+\Z")
_POWER = re.compile(r"[+\-−–±]?\s*[0-9０-９]+(?:[.,/][0-9]+)?|[+\-−–]?\s*[0-9]*[b-df-np-qs-zA-Z](?:\s*[+\-−–]\s*[0-9]+)?")
_UNITS = frozenset("msglhKWV")


def line_of_tex(tex: str) -> str | None:
    """Returns a formula of TeX as text, E = mc^2 or (a+b)/2; None if it does not fit into a line."""
    if len(tex) > _MAX_LENGTH:
        return None
    tokens: list[str] = []
    for match in _TOKEN.finditer(tex):
        command, sign, character = match.groups()
        tokens.append(f"\\{command}" if command else sign or character or " ")
    tokens.reverse()
    try:
        text = _sequence(tokens, "")
    except (ValueError, IndexError, RecursionError):
        return None
    text = re.sub(r" {2,}", " ", text).strip()
    return text or None


def line_of_chemistry(formula: str) -> str | None:
    """Returns a formula of mhchem, H2O or SO4^2-, as text: it is its own text where it has no commands."""
    formula = formula.strip()
    if len(formula) > _MAX_LENGTH or re.search(r"\\|\n", formula):
        return line_of_tex(formula)
    return re.sub(r"[{}_$]", "", formula.replace("->", " → ").replace("<=>", " ⇌ ").replace("  ", " ")) or None


def spelled_powers(text: str) -> str:
    """Returns text in which <sup>3</sup> behind a number or a variable is ^3, and <sub>2</sub> beside digits is set off from them.

    Without that, 10<sup>3</sup> would become 103, and 10<sub>2</sub> 102.
    """
    lower = text.lower() if "<" in text else ""
    text = _SUP.sub(_spelled, text) if "<sup" in lower else text
    return _SUB.sub(_spelled_below, text) if "<sub" in lower else text


def spelled_signs(text: str) -> str:
    """Returns text in which the Unicode characters ³ and ½ behind a digit are set off from it."""
    return _FRACTION.sub(_set_off, _RAISED.sub(_spelled_sign, text))


def _spelled(match: re.Match[str]) -> str:
    # What stands before it: a variable or number and the marks of italics.
    base = _BASE.search(match.string, max(match.start() - 8, 0), match.start())
    power = match[1].strip().strip("'")
    # m2 and km2 are what Unicode's ㎡ and ㎢ become too.
    if base is None or not _POWER.fullmatch(power) or (base[0][0] in _UNITS and power.lstrip("+-−–").isdigit()):
        return match[1].strip()
    return f"^({power})" if re.search(r".[+−–-]", power) else f"^{power}"


def _spelled_below(match: re.Match[str]) -> str:
    below = match[1].strip()
    base = _BASE.search(match.string, max(match.start() - 8, 0), match.start())
    behind_number = base is not None and base[0][0].isdecimal() and below[:1].isdecimal()
    before_number = below[-1:].isdecimal() and match.string[match.end() : match.end() + 1].isdecimal()
    return f"{'_' if behind_number else ''}{below}{' ' if before_number else ''}"


def _spelled_sign(match: re.Match[str]) -> str:
    power = match[0].translate(_SUPERSCRIPTS)
    behind_number = match.string[match.start() - 1 : match.start()].isdecimal()
    return f"^{power}" if behind_number and power not in ("+", "-") else match[0]


def _set_off(match: re.Match[str]) -> str:
    return f" {match[0]}" if match.string[match.start() - 1 : match.start()].isdecimal() else match[0]


def _sequence(tokens: list[str], end: str) -> str:
    """Takes tokens up to `end` and returns their text.

    Raises:
        ValueError: a command is not known, or `end` is missing.
    """
    texts: list[str] = []
    while tokens:
        token = tokens.pop()
        if token == end:
            return "".join(texts)
        texts.append(_text(token, tokens))
    if end:
        raise ValueError("a bracket is not closed")
    return "".join(texts)


def _group(tokens: list[str]) -> str:
    token = tokens.pop()
    while token == " ":
        token = tokens.pop()
    return _sequence(tokens, "}") if token == "{" else _text(token, tokens)


def _text(token: str, tokens: list[str]) -> str:
    if token == "{":
        return _sequence(tokens, "}")
    if token in "^_":
        inside = _group(tokens).strip()
        if token == "_":
            # H2O, but a_n, as 'an' would be a word.
            return inside if inside.isdecimal() else f"_{inside}" if inside.isalnum() else f"_({inside})"
        return inside if inside in ("°", "′", "″") else f"^{inside}" if len(inside) == 1 or inside.isalnum() else f"^({inside})"
    if token in "=<>":
        return f" {token} "
    if token == "~":
        return " "
    if token[0] != "\\":
        if token in "}&":
            raise ValueError("not a line")
        return "" if token == " " else token
    name = token[1:]
    if name in ("frac", "dfrac", "tfrac", "cfrac"):
        return f"{_bracketed(_group(tokens))}/{_bracketed(_group(tokens))}"
    if name == "sqrt":
        return f"√{_bracketed(_group(tokens))}" if tokens[-1] != "[" else _unknown(name)
    if name in ("lim", "max", "min") and tokens and tokens[-1] == "_":
        return _unknown(name)  # what stands under it does not fit into a line
    if name in _STYLES:
        return _group(tokens) if tokens and tokens[-1] in "{ " else ""
    if name in _RELATIONS:
        return f" {_RELATIONS[name]} "
    return _SYMBOLS[name] if name in _SYMBOLS else _unknown(name)


def _unknown(name: str) -> str:
    raise ValueError(f"\\{name} is not known")


def _bracketed(text: str) -> str:
    text = text.strip()
    return text if len(text) == 1 or text.isalnum() else f"({text})"
