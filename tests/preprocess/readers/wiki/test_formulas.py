"""Formulas as a line of text, and those that no line can hold."""

import pytest

from preprocess.readers.wiki.formulas import line_of_chemistry, line_of_tex, spelled_powers, spelled_signs

LINES = {
    r"\pi r^2": "πr^2", "E=mc^2": "E = mc^2", r"\frac{a+b}{2}": "(a+b)/2", r"\dfrac12": "1/2", r"\sqrt{2}": "√2", r"\sqrt{x+1}": "√(x+1)",
    "10^{-3}": "10^(-3)", "x_1": "x1", "a_n": "a_n", "a_{n+1}": "a_(n+1)", r"\mathrm{H_2O}": "H2O", r"a \le b": "a ≤ b", r"90^\circ": "90°",
    r"\sin\theta": "sinθ", r"\left(\tfrac{1}{2}\right)": "(1/2)", r"x \in A": "x ∈ A", r"\text{速さ} = v": "速さ = v",
    r"\{1,2\}": "{1,2}",
    "中": "中", r"f\colon": None, r"\begin{matrix}a&b\end{matrix}": None, r"\lim_{x \to 0}": None, r"\sum_{i=1}^n i": None,
    r"\int_0^1": None,
    r"\sqrt[3]{2}": None, "{": None, "}": None, "x^": None, r"\frac": None, "a & b": None, "": None, "x" * 300: None,
}  # fmt: skip


@pytest.mark.parametrize("tex, line", LINES.items())
def test_tex_is_a_line_of_text_or_none(tex: str, line: str | None) -> None:
    assert line_of_tex(tex) == line


def test_formulas_of_chemistry_are_their_own_text() -> None:
    assert line_of_chemistry("H2O") == "H2O" and line_of_chemistry("SO4^2-") == "SO4^2-"
    assert line_of_chemistry("2H2 + O2 -> 2H2O") == "2H2 + O2 → 2H2O" and line_of_chemistry(r"\mathrm{CO_2}") == "CO2"


@pytest.mark.parametrize(
    "html, text",
    [
        *(
            ("10<sup>3</sup>", "10^3"),
            ("10<SUP> −12 </SUP>m", "10^−12m"),
            ("<sup>3</sup>", "3"),
            ("(x+1)<sup>2</sup>", "(x+1)^2"),
        ),
        *(
            ("''x''<sup>n</sup>", "''x''^n"),
            ("2<sup>n-1</sup>", "2^(n-1)"),
            ("m<sup>2</sup>", "m2"),
            ("5 s<sup>-1</sup>", "5 s-1"),
        ),
        *(
            ("km<sup>2</sup>", "km2"),
            ("19<sup>th</sup>", "19th"),
            ("語<sup>1</sup>", "語1"),
            ("2<sup>[1]</sup>", "2[1]"),
            ("10<sup>3", "10<sup>3"),
        ),
        *(
            ("10³", "10^3"),
            ("10⁻⁵", "10^-5"),
            ("m²", "m²"),
            ("x⁺", "x⁺"),
            ("2⁺", "2⁺"),
            ("5½", "5 ½"),
            ("½", "½"),
            ("１０²", "１０^2"),
        ),
    ],
)
def test_a_power_does_not_become_digits_of_its_number(html: str, text: str) -> None:
    assert spelled_signs(spelled_powers(html)) == text
