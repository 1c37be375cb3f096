"""The reference pages, which are made from the code: that nothing is missing from them, and how docstrings are read."""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

import purify
from purify import attacks, cli
from purify.attacks import ATTACKS
from purify.attacks.words import Insertion
from purify.defenses import DEFENSES
from purify.measures import MEASURES
from purify.report.inputs import code_digest

BOOK = Path(__file__).parents[1] / "book"


@pytest.fixture(scope="module")
def pages():
    spec = importlib.util.spec_from_file_location("api_pages", BOOK / "_ext" / "api_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def filled(pages, name):
    source = [(BOOK / "reference" / f"{name}.md").read_text(encoding="utf-8")]
    pages._fill(None, f"reference/{name}", source)
    return source[0]


def test_all_that_the_package_exports_is_on_its_page():
    text = (BOOK / "reference" / "library.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"auto\w+:: purify\.(?:\w+\.)?(\w+)$", text, re.M))
    assert set(purify.__all__) <= documented


@pytest.mark.parametrize(("name", "registry"), [("attacks", ATTACKS), ("defenses", DEFENSES), ("grids", MEASURES)])
def test_every_class_of_a_registry_is_documented_once(pages, name, registry):
    found = re.findall(r"autoclass:: purify\.\w+\.\w+\.(\w+)$", filled(pages, name), re.M)
    assert all(found.count(one) == 1 for one in registry.classes)


def test_a_new_attack_appears_by_itself_with_the_class_it_derives_from(pages, monkeypatch):
    @dataclass(frozen=True)
    class Fresh(Insertion):
        """New."""

    Fresh.__qualname__ = "Fresh"
    monkeypatch.setattr(attacks, "FAMILIES", {**attacks.FAMILIES, "novel": (Fresh,)})
    text = filled(pages, "attacks")
    assert "## Novel" in text
    assert f"autoclass:: {__name__}.Fresh" in text
    assert text.count("autoclass:: purify.attacks.words.Insertion\n") == 1


def test_a_defense_says_what_it_needs(pages):
    of_strip = filled(pages, "defenses").split("perturbing.STRIP")[1].split("autoclass")[0]
    assert ":Needs: clean data, validation data, access at inference" in of_strip


def test_every_command_and_option_is_on_the_page_of_the_command_line(pages):
    text = filled(pages, "command-line")
    commands = [one.name or one.callback.__name__ for one in cli.app.registered_commands]
    assert {"scan", "book", "list_"} & set(commands)
    for name in commands:
        assert re.search(rf"^## purify {name.rstrip('_')}$", text, re.M), name
    assert re.search(r"^### purify grid run$", text, re.M)
    assert "- `--smoke`: Tiny sizes" in text
    assert "```console\n$ purify list attacks\n```" in text
    assert not re.search(r"^Examples?:", text, re.M)


def test_pages_that_are_not_made_from_the_code_are_left_alone(pages):
    source = ["{{ attacks }}"]
    pages._fill(None, "intro", source)
    assert source == ["{{ attacks }}"]


def test_costs_and_sources_become_fields(pages):
    lines = ["Do it.", "", "Cost: one pass,", "    and another.", "", "Source: the paper,", "section 4.", "", "More."]
    pages._with_fields(None, "function", "f", None, None, lines)
    text = "\n".join(lines)
    assert "\n:Cost: one pass,\n    and another.\n" in text
    assert "\n:Source: the paper,\n    section 4.\n" in text
    assert text.endswith("\n\nMore.")


def test_the_digest_of_the_code_is_that_of_its_content():
    assert code_digest() == code_digest()
    assert re.fullmatch("[0-9a-f]{64}", code_digest())
