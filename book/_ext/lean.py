"""Make the pages light: what the theme ships for every site, and this book does not use, is not sent to its readers.

The theme alone brings 2 MB of scripts, icons and styles to each page; MathJax another.
"""

import re
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import tinycss2
from fontTools import subset
from sphinx.application import Sphinx

_UNUSED_SCRIPTS = ("fontawesome.js",)
"""It draws the icons that the style sheet draws, too, with the icon font."""

_SEARCH_SCRIPTS = ("searchtools.js", "language_data.js", "searchindex.js")
"""The theme needs them on every page to search as one types, which is off; the page of results has its own."""

_MADE_BY_SCRIPTS = re.compile(r"bs-|sd-tab")
"""Classes whose names scripts put together, so that they stand nowhere as a word."""

_NAME = re.compile(r"[.#]((?:\\.|[\w-])+)")
_INSIDE_BRACKETS = re.compile(r"\[[^]]*\]|\((?:[^()]|\([^()]*\))*\)")
_NESTED = ("media", "supports", "layer", "container")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register what is done before the first page and after the last."""
    app.connect("config-inited", _choose_mathjax, priority=999)
    app.connect("build-finished", _lighten, priority=999)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _choose_mathjax(_: Sphinx, config: Any) -> None:
    """Load the parts of MathJax that the setting ``mathjax3_config`` names, and not its menu (0.4 MB)."""
    config.mathjax_path = "mathjax/startup.js"


def _lighten(app: Sphinx, failed: Exception | None) -> None:
    if failed or app.builder.format != "html":
        return
    html = Path(app.outdir)
    pages = list(html.glob("*.html")) + list(html.glob("[!_]*/**/*.html"))
    for page in pages:
        unused = _UNUSED_SCRIPTS if page.name == "search.html" else (*_UNUSED_SCRIPTS, *_SEARCH_SCRIPTS)
        text = page.read_text(encoding="utf-8")
        names = "|".join(map(re.escape, unused))
        page.write_text(re.sub(rf"\s*<script[^>]*\b(?:{names})[^>]*></script>", "", text), encoding="utf-8")
    static = html / "_static"
    scripts = (
        path for path in static.rglob("*.js") if "mathjax" not in path.parts and path.name not in _UNUSED_SCRIPTS
    )
    words = set(_words([*pages, *scripts]))
    sheets = {path: purged(path.read_text(encoding="utf-8"), words) for path in static.rglob("*.css")}
    icons = {ord(sign) for css in sheets.values() for sign in css if "\ue000" <= sign <= "\uf8ff"}  # for private use
    for font in static.glob("vendor/fontawesome/webfonts/*.ttf"):
        font.with_suffix(".woff").write_bytes(_with_only(font, icons))
    for path, css in sheets.items():
        path.write_text(css.replace('.woff2) format("woff2")', '.woff) format("woff")'), encoding="utf-8")


def _words(files: Iterable[Path]) -> Iterator[str]:
    for path in files:
        yield from re.findall(r"[\w-]+", path.read_text(encoding="utf-8"))


def purged(css: str, words: set[str]) -> str:
    """Return a style sheet without the selectors that name a class or an id which is none of the words."""
    return "".join(_kept(tinycss2.parse_stylesheet(css, skip_comments=True, skip_whitespace=True), words))


def _kept(rules: Iterable[Any], words: set[str]) -> Iterator[str]:
    for rule in rules:
        if rule.type == "qualified-rule":
            selectors = ",".join(one for one in _selectors(rule.prelude) if _is_used(one, words))
            if selectors:
                yield f"{selectors}{{{tinycss2.serialize(rule.content)}}}\n"
        elif rule.type == "at-rule" and rule.lower_at_keyword in _NESTED and rule.content is not None:
            inner = tinycss2.parse_rule_list(rule.content, skip_comments=True, skip_whitespace=True)
            if text := "".join(_kept(inner, words)):
                yield f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{text}}}\n"
        elif rule.type != "error":
            yield rule.serialize() + "\n"


def _selectors(prelude: Iterable[Any]) -> Iterator[str]:
    one: list[Any] = []
    for token in prelude:
        if token == ",":
            yield tinycss2.serialize(one).strip()
            one = []
        else:
            one.append(token)
    yield tinycss2.serialize(one).strip()


def _is_used(selector: str, words: set[str]) -> bool:
    """Say whether all classes and ids outside brackets (``:not(…)``, ``:is(…)``) are words, or may be."""
    names = [name.replace("\\", "") for name in _NAME.findall(_INSIDE_BRACKETS.sub("", selector))]
    return all(name in words or _MADE_BY_SCRIPTS.match(name) for name in names)


def _with_only(font: Path, codes: set[int]) -> bytes:
    """Return a font with the glyphs of some code points, compressed for the web."""
    options = subset.Options(flavor="woff", notdef_outline=True)
    buffer = BytesIO()
    with subset.load_font(font, options) as loaded:
        worker = subset.Subsetter(options)
        worker.populate(unicodes=codes)
        worker.subset(loaded)
        subset.save_font(loaded, buffer, options)
    return buffer.getvalue()
