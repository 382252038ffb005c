"""A table as data, and its faces: CSV (numbers), Markdown, LaTeX and HTML."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...core.files import atomic_write
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


def save(
    table: Table,
    csv: str | os.PathLike,
    markdown: str | os.PathLike,
    latex: str | os.PathLike,
    page: str | os.PathLike | None = None,
) -> None:
    """Writes the faces of a table, a page of HTML only where it is named; the same table gives the same bytes."""
    with atomic_write(csv) as partial:
        spreadsheet_columns(table.data).to_csv(partial, index=False, float_format="%.6g", lineterminator="\n")
    pages = [(page, to_html(table))] if page else []
    for path, text in ((markdown, to_markdown(table)), (latex, to_latex(table)), *pages):
        with atomic_write(path) as partial:
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


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.45 system-ui, sans-serif; color: #222; margin: 1.5em; }}
table {{ border-collapse: collapse; margin: 0.8em 0 1.2em; }}
th, td {{ padding: 0.25em 0.8em; text-align: right; white-space: nowrap; border-bottom: 1px solid #e3e3e3; }}
th {{ border-bottom: 1px solid #888; }}
.text {{ text-align: left; }}
td.family {{ text-align: left; font-style: italic; padding-top: 0.8em; }}
p {{ max-width: 60em; }}
</style></head><body>
{body}
</body></html>
"""


def to_html(table: Table) -> str:
    """The table as a page of its own, which needs nothing else."""
    parts = [f"<p>{_html(table.caption)}</p>"]
    for block in table.blocks:
        if block.heading:
            parts.append(f"<h3>{_html(block.heading)}</h3>")
        if block.rows:
            parts += _html_grid(block)
        if block.note:
            parts.append(f"<p>{_html(block.note)}</p>")
    return _PAGE.format(title=_html(table.name), body="\n".join(parts))


def _html(text: str) -> str:
    return html.escape(printable(text))


def _html_grid(block: Block) -> list[str]:
    lines = ["<table>"]
    if block.spans:
        above = (f'<th colspan="{width}">{_html(title)}</th>' for title, width in block.spans)
        lines.append(f"<tr>{''.join(above)}</tr>")

    def row(tag: str, cells: Sequence[str]) -> str:
        looks = [' class="text"' if i < block.text_columns else "" for i in range(len(cells))]
        cells = [f"<{tag}{look}>{cell}</{tag}>" for look, cell in zip(looks, cells, strict=True)]
        return f"<tr>{''.join(cells)}</tr>"

    lines.append(row("th", [_html(name) for name in block.header]))
    for cells in block.rows:
        if isinstance(cells, str):
            lines.append(f'<tr><td class="family" colspan="{len(block.header)}">{_html(cells)}</td></tr>')
        else:
            lines.append(row("td", [f"<b>{_html(c.text)}</b>" if c.best else _html(c.text) for c in cells]))
    return [*lines, "</table>"]


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
