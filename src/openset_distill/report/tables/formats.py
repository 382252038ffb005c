"""A table as data, and its faces: CSV (numbers), Markdown and LaTeX."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...core.files import written_whole
from ...core.text import printable
from ..tidy import spreadsheet_columns

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Cell:
    """One cell: its text, and whether it is the best of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Block:
    """A grid of cells under one header. A row is a list of cells, or a string that heads the rows after it."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell] | str]
    text_columns: int = 1  # how many of the first columns are text; the others are numbers
    spans: Sequence[tuple[str, int]] = ()  # a line above the header: (title, number of columns), covering them all
    heading: str = ""
    note: str = ""  # printed below


@dataclass(frozen=True)
class Table:
    """A table ready to be written: what it prints, and its numbers in `data`."""

    name: str
    caption: str
    blocks: Sequence[Block]
    data: pd.DataFrame


def save(table: Table, csv: str | os.PathLike, markdown: str | os.PathLike, latex: str | os.PathLike) -> None:
    """Writes the three faces of a table; the same table gives the same bytes."""
    with written_whole(csv) as partial:
        spreadsheet_columns(table.data).to_csv(partial, index=False, float_format="%.6g", lineterminator="\n")
    for path, text in ((markdown, to_markdown(table)), (latex, to_latex(table))):
        with written_whole(path) as partial:
            partial.write_text(text, encoding="utf-8", newline="\n")


def to_markdown(table: Table) -> str:
    """The table as GitHub-flavoured Markdown."""
    parts = [markdown_escape(table.caption)]
    for block in table.blocks:
        if block.heading:
            parts.append(f"**{markdown_escape(block.heading)}**")
        if block.rows:
            parts.append("\n".join(_markdown_grid(block)))
        if block.note:
            parts.append(markdown_escape(block.note))
    return "\n\n".join(parts) + "\n"


def _markdown_grid(block: Block) -> list[str]:
    titles = [title for title, width in block.spans for _ in range(width)]
    header = list(block.header)
    if titles:
        header = [f"{title} {name}".strip() for title, name in zip(titles, header, strict=True)]
    lines = [_markdown_row(markdown_escape(name) for name in header)]
    aligned = [":---" if i < block.text_columns else "---:" for i in range(len(header))]
    lines.append(_markdown_row(aligned))
    for row in block.rows:
        if isinstance(row, str):
            lines.append(_markdown_row([f"*{markdown_escape(row)}*"] + [""] * (len(header) - 1)))
            continue
        cells = [markdown_escape(cell.text) for cell in row]
        lines.append(_markdown_row(f"**{text}**" if cell.best else text for cell, text in zip(row, cells, strict=True)))
    return lines


def _markdown_row(cells) -> str:
    return "| " + " | ".join(cells) + " |"


def markdown_escape(text: str) -> str:
    """`text` with everything that Markdown would read as markup made plain, on one line."""
    # an ampersand matters only where it begins an entity, a dollar sign where a renderer knows formulas
    return re.sub(
        r"([\\`*_\[\]<>|#~$]|&(?=#?\w+;))",
        r"\\\1",
        " ".join(re.split(r"[^\S\N{NO-BREAK SPACE}]+", printable(text).strip())),
    )


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MINUS SIGN}": r"$-$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{GREEK SMALL LETTER LAMDA}": r"$\lambda$",
    "\N{UPWARDS ARROW}": r"$\uparrow$",
    "\N{DOWNWARDS ARROW}": r"$\downarrow$",
    "\N{DAGGER}": r"$\dagger$",
    "\N{DOUBLE DAGGER}": r"$\ddagger$",
    "\N{EN DASH}": "--",
    "\N{NO-BREAK SPACE}": "~",
}


def latex_escape(text: str) -> str:
    """`text` with everything that LaTeX would read as a command made plain."""
    # two hyphens would be a dash; at the start of a cell the line break before it would take a bracket or a star
    parts = printable(text).split("--")
    plain = "-{}-".join("".join(_LATEX.get(letter, letter) for letter in part) for part in parts)
    return re.sub(r"^(\s*)([\[*])", r"\1{\2}", plain)


def to_latex(table: Table) -> str:
    """The table as LaTeX: needs the packages booktabs and graphicx (it is shrunk only where the page is narrower)."""
    lines = [
        r"% needs \usepackage{booktabs} and \usepackage{graphicx}",
        r"\begin{table*}[t]",
        r"\centering",
        rf"\caption{{{latex_escape(table.caption)}}}",
        rf"\label{{tab:{re.sub('[^A-Za-z0-9-]', '-', table.name)}}}",
        r"\small",
        r"\setlength{\tabcolsep}{4pt}",
    ]
    for position, block in enumerate(table.blocks):
        if position:
            lines.append(r"\par\medskip")
        if block.heading:
            lines += [rf"{latex_escape(block.heading)}", r"\par\smallskip"]
        if block.rows:
            lines += _latex_tabular(block)
        if block.note:
            note = latex_escape(block.note)
            lines += [r"\par\smallskip", rf"\begin{{minipage}}{{\linewidth}}\footnotesize {note}\end{{minipage}}"]
    lines.append(r"\end{table*}")
    return "\n".join(lines) + "\n"


def _latex_tabular(block: Block) -> list[str]:
    columns = len(block.header)
    alignment = "l" * block.text_columns + "r" * (columns - block.text_columns)
    lines = [
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{@{{}}{alignment}@{{}}}}",
        r"\toprule",
    ]
    if block.spans:
        lines.append(
            " & ".join(
                rf"\multicolumn{{{width}}}{{{'c' if title else 'l'}}}{{{latex_escape(title)}}}"
                for title, width in block.spans
            )
            + r" \\"
        )
        start = 1
        for title, width in block.spans:
            if title:
                lines.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
            start += width
    lines += [" & ".join(latex_escape(name) for name in block.header) + r" \\", r"\midrule"]
    for position, row in enumerate(block.rows):
        if isinstance(row, str):
            if position:
                lines.append(r"\addlinespace")
            lines.append(rf"\multicolumn{{{columns}}}{{@{{}}l}}{{\emph{{{latex_escape(row)}}}}} \\")
            continue
        cells = [rf"\textbf{{{latex_escape(cell.text)}}}" if cell.best else latex_escape(cell.text) for cell in row]
        lines.append(" & ".join(cells) + r" \\")
    return [*lines, r"\bottomrule", r"\end{tabular}}"]
