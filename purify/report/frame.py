"""The frame of a chapter's page: the links under its title and the table of its parameters; pages without solutions.

All of it is added to the executed copy when it becomes a source of the book, so that no notebook runs again for it.
"""

import ast
import html
import io
import json
import re
import tokenize
from collections.abc import Iterator
from copy import deepcopy
from typing import NamedTuple
from urllib.parse import urlsplit

import nbformat

from purify.errors import PurifyError
from purify.report.downloads import Repository
from purify.report.notebooks import described

_SOLUTION = re.compile(r"^(?P<fence>`{3,}|:{3,})\{solution\}.*?^(?P=fence)[ \t]*(?:\n+|\Z)", re.M | re.S)


class Parameter(NamedTuple):
    """A line of the parameters cell.

    Attributes:
        name: The name.
        type: What a value must be, in words.
        default: The default, as Python writes it.
        meaning: The comment behind it; empty if there is none.
    """

    name: str
    type: str
    default: str
    meaning: str


def framed(notebook: nbformat.NotebookNode, name: str, published: Repository | None = None) -> nbformat.NotebookNode:
    """Return a copy of a chapter as its page shows it.

    A row of links stands under the title, the table of the parameters before their cell, which is folded.

    Args:
        notebook: With a title in its first cell, and one cell tagged ``parameters``.
        name: Of its file, without the ending.
        published: Where the project is, so that Binder and Colab can be asked to open the chapter.

    Raises:
        PurifyError: the first cell has no title.
    """
    page = deepcopy(notebook)
    title, _, rest = page.cells[0].source.partition("\n")
    if not title.startswith("# "):
        raise PurifyError(f"the chapter {name} must begin with a title: '# …'")
    page.cells[0].source = f"{title}\n\n{links(name, published)}\n\n{rest.lstrip()}"
    cells = []
    for cell in page.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            cell.metadata["tags"] = list(dict.fromkeys([*cell.metadata["tags"], "hide-input"]))
            cells.append(nbformat.v4.new_markdown_cell(parameter_table(cell.source), id="parameter-table"))
        cells.append(cell)
    page.cells = cells
    return page


def links(name: str, published: Repository | None) -> str:
    """Return the row of links of a chapter, in HTML: the notebook, Binder and Colab, and the command that runs it.

    Args:
        name: Of the chapter's file, without the ending.
        published: Where the project is; neither Binder nor Colab is offered if that is not on GitHub, or nowhere.
    """
    file = f"notebooks/{name}.ipynb"
    addresses = {"Notebook": f"../downloads/{name}.ipynb"}
    if published and (colab := published.on_colab(name)):
        place = f"{urlsplit(published.url).path.strip('/')}/{published.ref}"
        addresses["Binder"] = f"https://mybinder.org/v2/gh/{place}?urlpath=lab/tree/{file}"
        addresses["Colab"] = colab
    row = [f'<a href="{html.escape(address)}">{label}</a>' for label, address in addresses.items()]
    row.append(f"<code>.venv/bin/purify run {file}</code>")
    return f'<p class="chapter-links">{" ".join(row)}</p>'


def parameters_of(source: str) -> Iterator[Parameter]:
    """Yield the parameters that a cell of literals defines, in their order."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    for statement in ast.parse(source).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=node):
                value = ast.literal_eval(node)
                text = ast.get_source_segment(source, node) or ""
                default = json.dumps(value, ensure_ascii=False) if "\n" in text else text
                kind = re.sub(r"\ban? ", "", described(value))
                yield Parameter(name, kind, default, comments.get(statement.end_lineno or 0, ""))


def parameter_table(source: str) -> str:
    """Return the parameters of a cell as a table in Markdown: name, type, default, meaning (the comment behind it)."""
    rows = [
        ":::{container} parameters-table",
        "",
        "| parameter | type | default | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for one in parameters_of(source):
        cells = [f"`{one.name}`", one.type, f"`{one.default}`", one.meaning]
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join([*rows, ":::"])


def without_solutions(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a copy of a notebook whose text has no ``solution`` directive."""
    bare = deepcopy(notebook)
    for cell in bare.cells:
        if cell.cell_type == "markdown":
            cell.source = _SOLUTION.sub("", cell.source)
    return bare
