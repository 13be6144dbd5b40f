import pytest

from experiments.paper.formats import FORMATS, TextTable, escape_latex
from experiments.results import Cell

TABLE = TextTable(
    "accuracy ↑,\nmean ± std",
    ["config", "test/fit_true ↑"],
    [["a_b & 50%", Cell("0.93 ± 0.01", best=True, marked=True)], ["[c|d]", Cell("-0.50 ± 0.01")], ["e", "-"]],
)


def test_latex_has_the_rules_of_booktabs_and_no_special_character_of_a_name() -> None:
    assert FORMATS["latex"](TABLE) == (
        r"""% accuracy ↑, mean ± std
\begin{tabular}{lr}
\toprule
config & test/fit\_true $\uparrow$ \\
\midrule
a\_b \& 50\% & \textbf{0.93 $\pm$ 0.01}$^{*}$ \\
{[}c\textbar{}d{]} & $-$0.50 $\pm$ 0.01 \\
e & - \\
\bottomrule
\end{tabular}
"""
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\\input{/x}", r"\textbackslash{}input\{/x\}"),
        ("$x^2~#", r"\$x\textasciicircum{}2\textasciitilde{}\#"),
        ("1e-05 -.5 top-1 lr-SGD", r"1e-05 $-$.5 top-1 lr-SGD"),
        ("p < 0.05 > \"", r"p \textless{} 0.05 \textgreater{} ''"),
        ("demo.yaml --model.lr 1", "demo.yaml -{}-model.lr 1"),
    ],
)  # fmt: skip
def test_special_characters_are_escaped(text: str, expected: str) -> None:
    assert escape_latex(text) == expected
