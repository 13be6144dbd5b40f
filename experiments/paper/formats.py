"""Write the tables of commands as LaTeX, Markdown or CSV, for a paper or for another program."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rich.console import Console

from experiments.results import csv_text, emphasised_text, markdown, table

SPECIAL = {
    **{each: f"\\{each}" for each in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''"},  # \textquotedbl needs T1 fonts
    **{"[": "{[}", "]": "{]}", "*": "{*}"},  # after a line break \\, [ and * are its arguments
    **{"±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$"},
}
"""LaTeX of characters that LaTeX interprets, or that its usual fonts lack."""


class TextTable(NamedTuple):
    """A table of texts. The cells of `rows` may be `experiments.results.Cell`, which are emphasised."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def escape_latex(text: str) -> str:
    """Escape a text for LaTeX. Minus signs before numbers are those of mathematics."""
    plain = "".join(SPECIAL.get(each, each) for each in " ".join(text.split())).replace("--", "-{}-")  # no dash
    return re.sub(r"(?<![\w.$-])-(?=[\d.])", "$-$", plain)


def latex_table(table: TextTable) -> str:
    r"""Format a `tabular` with the rules of the package booktabs. Needs `\usepackage{booktabs}`."""
    lines = [
        " & ".join(emphasised_text(cell, escape_latex, r"\textbf{{{}}}", "$^{*}$") for cell in row) + r" \\"
        for row in (table.header, *table.rows)
    ]
    return "\n".join(
        [
            f"% {' '.join(table.title.split())}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def markdown_table(table: TextTable) -> str:
    """Format a Markdown table below its title."""
    return f"{table.title}\n\n{markdown(table.header, table.rows)}"


def csv_table(table: TextTable) -> str:
    """Format the texts of a table as CSV, without its title."""
    return csv_text(table.header, table.rows)


FORMATS: Mapping[str, Callable[[TextTable], str]] = {
    "latex": latex_table,
    "markdown": markdown_table,
    "csv": csv_table,
}
"""Functions that format a table, by the value of `--format`."""


def print_table(shown: TextTable, console: Console, form: str | None = None) -> None:
    """Print a table to a console or, in one of `FORMATS`, to the standard output."""
    if form:
        print(FORMATS[form](shown), end="" if form == "csv" else "\n")
    else:
        console.print(table(*shown))
