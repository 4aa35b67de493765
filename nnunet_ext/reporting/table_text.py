"""A table as Markdown and as LaTeX, in English."""

from __future__ import annotations

import re

from nnunet_ext.reporting.content import Cell, Table


def to_markdown(table: Table) -> str:
    """A heading, the table with the best of each row in bold, and its note."""
    lines = [[str(head) for head in table.header], ["---"] * len(table.header)]
    lines += [[f"**{cell.text}**" if cell.best else str(cell.text) for cell in row] for row in table.rows]
    text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"### {table.title}\n\n{text}\n\n{table.note}\n".replace("+-", "±")


def to_latex(table: Table) -> str:
    r"""A `table` for a paper, with booktabs rules. It needs `\usepackage{booktabs,graphicx}`.

    A table that is wider than the page is shrunk.
    """

    def cell(found: Cell) -> str:
        text = to_latex_text(str(found.text))
        return rf"\textbf{{{text}}}" if found.best else text

    lines = [[to_latex_text(str(head)) for head in table.header], *([cell(c) for c in row] for row in table.rows)]
    head, *body = [" & ".join(line) + r" \\" for line in lines]
    body_text = "\n".join(body)
    return rf"""% \usepackage{{booktabs,graphicx}}
\begin{{table}}
\centering
\caption{{{to_latex_text(str(table.title))}. {to_latex_text(table.note)}}}
\label{{tab:{table.name}}}
\resizebox{{\ifdim\width>\linewidth\linewidth\else\width\fi}}{{!}}{{%
\begin{{tabular}}{{l{"c" * (len(table.header) - 1)}}}
\toprule
{head}
\midrule
{body_text}
\bottomrule
\end{{tabular}}}}
\end{{table}}
"""


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$"}
_LATEX |= {"+-": r"$\pm$", "†": r"$^{\dagger}$", "‡": r"$^{\ddagger}$"} | {
    character: "\\" + character for character in "&%$#_{}"
}


def to_latex_text(text: str) -> str:
    """Plain text with every character that LaTeX would take for a command escaped, and `+-` as a plus-minus sign."""
    return re.sub("|".join(map(re.escape, _LATEX)), lambda match: _LATEX[match[0]], text)


def file_stem(name: str) -> str:
    """A name as part of a file name. Letters, digits, dots and hyphens stay, anything else becomes `_`."""
    return re.sub(r"[^\w.-]", "_", name)
