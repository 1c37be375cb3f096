import nbformat

from purify.report.gallery import gallery, pictures, without_svg


def executed():
    """A chapter with two figures under two headings, and a table."""
    figure = {"image/png": "aGk=", "image/svg+xml": "<svg/>", "text/plain": "<Figure>"}
    alt = {"mystnb": {"image": {"alt": "A < B"}}}
    both = [nbformat.v4.new_output("display_data", figure)]
    old = [nbformat.v4.new_output("display_data", {"image/png": "aGk="})]
    table = [nbformat.v4.new_output("execute_result", {"text/html": "<table>"}, execution_count=1)]
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [
        nbformat.v4.new_markdown_cell("# Title\n\ntext"),
        nbformat.v4.new_code_cell("one;", outputs=both, metadata=alt),
        nbformat.v4.new_markdown_cell("## Place\n\n# of things\n\ntext"),
        nbformat.v4.new_markdown_cell("text"),
        nbformat.v4.new_code_cell("table", outputs=table),
        nbformat.v4.new_code_cell("two;", outputs=old),
    ]
    return notebook


def test_figures_are_found_with_their_places_and_words():
    one, two = pictures(executed(), "07-x")
    assert (one.name, one.place, one.alt, dict(one.files)) == (
        "07-x-1",
        "Title",
        "A < B",
        {"svg": b"<svg/>", "png": b"hi"},
    )
    assert (two.name, two.place, two.files.keys()) == ("07-x-2", "of things", {"png"})


def test_the_page_shows_every_figure_with_its_words_and_files():
    page = gallery({"07-x": ("Title", pictures(executed(), "07-x")), "08-y": ("Empty", [])}, "figures")
    assert page.count("<figure>") == 2
    assert 'alt="A &lt; B"' in page
    assert [page.count(f'href="figures/07-x-1.{ending}"') for ending in ("svg", "png")] == [1, 1]
    assert "07-x-2.svg" not in page
    assert "Empty" not in page


def test_a_page_keeps_png_alone():
    cells = without_svg(executed()).cells
    assert cells[1].outputs[0].data.keys() == {"image/png", "text/plain"}
    assert cells[4].outputs[0].data.keys() == {"text/html"}
