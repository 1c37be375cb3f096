"""What book/_ext/lean.py leaves of a style sheet, and book/_ext/mended.py makes of a page."""

import importlib.util
from pathlib import Path

import pytest
from fontTools.ttLib import TTFont


def extension(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "book" / "_ext" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lean, mended = extension("lean"), extension("mended").mended


@pytest.mark.parametrize(
    ("css", "left"),
    [
        ("p{a:b}", "p{a:b}"),
        (".used{a:b}.not{a:b}", ".used{a:b}"),
        ("#not,p .used,.used .not{a:b}", "p .used{a:b}"),
        (".used:not(.not),.used:is(.not, .used){a:b}", ".used:not(.not),.used:is(.not, .used){a:b}"),
        (".sm\\:w{a:b}", ""),
        ('[data-x=".not"]{a:b}', '[data-x=".not"]{a:b}'),
        (".bs-tooltip-x{a:b}", ".bs-tooltip-x{a:b}"),
        ("@media print{.not{a:b}}", ""),
        ("@media print{.not{a:b}.used{a:b}}", "@media print{.used{a:b}}"),
        ("@font-face{a:b}@import url(x.css);", "@font-face{a:b}@import url(x.css);"),
        ("@keyframes not{from{a:b}}", "@keyframes not{from{a:b}}"),
    ],
)
def test_only_selectors_that_a_page_may_need_stay(css, left):
    assert lean.purged(css, {"used"}).replace("\n", "") == left


def test_the_icon_font_keeps_the_icons_that_are_asked_for(tmp_path):
    import matplotlib

    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    (tmp_path / "small.woff").write_bytes(lean._with_only(font, {ord("a"), ord("ρ")}))
    with TTFont(tmp_path / "small.woff") as small:
        assert small.flavor == "woff"
        assert set(small.getBestCmap()) == {ord("a"), ord("ρ")}


MATH = '<span class="math notranslate nohighlight">x</span>'


@pytest.mark.parametrize(
    ("fault", "repaired"),
    [
        ('<section id="proof-content">', "<section>"),
        ('<summary aria-label="Toggle hidden content">', "<summary>"),
        ('<th class="blank">&nbsp;</th><th></th><th>a</th>', '<td class="blank"></td><td></td><th>a</th>'),
        (
            '<p class="admonition-title">Solution to<a href="#e"> E</a>',
            '<p class="admonition-title">Solution to <a href="#e">E</a>',
        ),
        (f"{MATH}, and {MATH} is", f'<span class="whole">{MATH},</span> and {MATH} is'),
    ],
)
def test_faults_of_extensions_are_repaired_once(fault, repaired):
    assert mended(fault) == repaired
    assert mended(repaired) == repaired
