"""Mend what extensions get wrong in the HTML: names, ids and empty headings that mislead whoever does not see the page.

Each of these is a fault of WCAG or of HTML; tests/test_browser.py would find most of them again.
"""

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

_REPAIRS = (
    # sphinx-exercise and sphinx-proof give the same id to every exercise, solution and proof.
    (r' id="(?:exercise|solution|proof)-content"', ""),
    (r'(<div class="proof admonition") id="proof"', r"\1"),
    # sphinx-exercise puts the space before the name of the exercise into the link.
    (r'(<p class="admonition-title">Solution to)(<a [^>]*>) ', r"\1 \2"),
    # MyST-NB gives all hidden cells the name "Toggle hidden content", and not the one that stands there.
    (r'<summary aria-label="Toggle hidden content">', "<summary>"),
    # pandas and Markdown head columns without a name with an empty heading, which is read as one.
    (r"<th([^>]*)>(?:\s|&nbsp;|<p>\s*</p>)*</th>", r"<td\1></td>"),
    # The entries of docutils' bibliography have a role that stands for itself, inside of a list.
    (r'role="doc-biblioentry"', 'role="listitem"'),
    # A line may break after a formula, which leaves the comma behind it alone on the next one.
    (
        r'(?<!<span class="whole">)(<span class="math notranslate nohighlight">[^<]*</span>)([.,:;?!)\]]+)',
        r'<span class="whole">\1\2</span>',
    ),
    # The theme's side bar has a title and a search that belong to no landmark.
    (
        r'<div id="pst-primary-sidebar" class=',
        '<div id="pst-primary-sidebar" role="navigation" aria-label="Book" class=',
    ),
)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the repairs for when all pages are written."""
    app.connect("build-finished", _mend, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _mend(app: Sphinx, failed: Exception | None) -> None:
    if failed or app.builder.format != "html":
        return
    for page in (*Path(app.outdir).glob("*.html"), *Path(app.outdir).glob("[!_]*/**/*.html")):
        page.write_text(mended(page.read_text(encoding="utf-8")), encoding="utf-8")


def mended(html: str) -> str:
    """Return a page with all repairs; nothing changes in one that has been mended."""
    for fault, repair in _REPAIRS:
        html = re.sub(fault, repair, html)
    return html
