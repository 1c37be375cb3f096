"""The reference pages: from docstrings, registries and the command line, so that they cannot fall behind the code.

The pages in ``reference/`` are Jinja templates; nothing of the library is imported where none of them is rendered.
"""

import pydoc
import re
from collections.abc import Iterable, Iterator
from typing import Any

from docutils import nodes
from jinja2 import Environment
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

PAGES = "reference/"
LABELS = re.compile(r"(Cost|Memory|Precision|Source):( .*|$)")
"""What a docstring says beside arguments, results and errors."""


def setup(app: Sphinx) -> dict[str, Any]:
    """Register what fills the pages, reads the docstrings and finds the names in them."""
    app.setup_extension("sphinx.ext.autodoc")
    app.setup_extension("sphinx.ext.napoleon")
    app.connect("source-read", _fill)
    app.connect("autodoc-process-docstring", _with_fields, priority=400)  # before napoleon
    app.connect("missing-reference", _find)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _fill(app: Sphinx, page: str, source: list[str]) -> None:
    if page.startswith(PAGES):
        jinja = Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False)
        source[0] = jinja.from_string(source[0]).render(
            attacks=_families("attacks"),
            defenses=_families("defenses"),
            measures=_measures(),
            described=_described,
            bases=_bases,
            commands=_commands(),
        )


def _families(kind: str) -> dict[str, tuple[type, ...]]:
    from purify import attacks, defenses

    return {"attacks": attacks.FAMILIES, "defenses": defenses.FAMILIES}[kind]


def _measures() -> Iterable[type]:
    from purify.measures import MEASURES

    return MEASURES.classes.values()


def _described(cls: type) -> str:
    """Return the directive that documents a class of a registry: its parameters, and what a defender must have."""
    from purify.defenses.base import Defense, knowledge

    lines = [f".. autoclass:: {cls.__module__}.{cls.__qualname__}", "   :show-inheritance:", ""]
    if issubclass(cls, Defense):
        lines += [f"   :Needs: {', '.join(knowledge(cls))}", ""]
    return "\n".join(lines)


def _bases(families: dict[str, tuple[type, ...]]) -> list[type]:
    """Return the classes between the interface and those of a registry: where shared parameters are explained."""
    classes = [cls for family in families.values() for cls in family]
    between = {base: None for cls in classes for base in reversed(cls.__mro__[1:-1]) if base not in classes}
    return [base for base in between if base.__module__.startswith("purify.")]


def _commands() -> Iterator[dict[str, Any]]:
    """Yield every command: its words, its help as Markdown, its usage, its arguments and options."""
    import typer

    from purify.cli import app

    group = typer.main.get_command(app)
    yield from _subcommands(group, typer.Context(group, info_name="purify"), ("purify",))


def _subcommands(group: Any, context: Any, words: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    import typer

    for name in group.list_commands(context):
        command = group.get_command(context, name)
        own = typer.Context(command, parent=context, info_name=name)
        records = [parameter.get_help_record(own) for parameter in command.get_params(own)]
        yield {
            "name": " ".join((*words, name)),
            "depth": len(words),
            "help": _as_markdown(command.help),
            "usage": " ".join((*words, name, *command.collect_usage_pieces(own))),
            "parameters": [record for record in records if record and record[0] != "--help"],
        }
        if hasattr(command, "list_commands"):
            yield from _subcommands(command, own, (*words, name))


def _as_markdown(text: str) -> str:
    """Put the examples of a help text into blocks of code."""
    examples = re.compile(r"^Examples?:\s+((?:.|\n )*)", re.M)
    return examples.sub(lambda found: "```console\n" + re.sub(r"(?m)^ *", "$ ", found[1]) + "\n```", text)


def _with_fields(app: Sphinx, what: str, name: str, thing: object, options: Any, lines: list[str]) -> None:
    """Make fields, beside parameters and errors, of the paragraphs that begin with one of the `LABELS`."""
    # An empty comment: napoleon would take what stands before a colon in the first line for a type.
    out, inside = ["..", ""] if what in ("attribute", "data", "property") else [], False
    for line in lines:
        if found := LABELS.match(line):
            out += ["", f":{found[1]}:{found[2]}"]
            inside = True
        elif inside and (line.startswith("    ") or (line and out[-1])):
            out.append("    " + line.strip())
        else:
            inside = inside and not line
            out.append(line)
    lines[:] = out


def _find(app: Sphinx, env: BuildEnvironment, node: Any, text: nodes.Element) -> nodes.Element | None:
    """Find what a docstring or an annotation calls by a part of its name; what exists elsewhere is no link.

    A name that is neither documented nor can be imported is left to Sphinx, which warns.
    """
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    places = [node.get("py:module"), node.get("py:class")]
    paths = [".".join(part for part in (*places[:depth], target) if part) for depth in (2, 1, 0)]
    dotted = [path for path in paths if "." in path]  # a bare word could be any module of Python's
    thing = next((thing for path in dotted if (thing := pydoc.locate(path)) is not None), None)
    names = [*paths, getattr(thing, "__qualname__", "") or target]
    objects = env.get_domain("py").objects
    for name in names:
        found = [path for path in objects if path == name or path.endswith(f".{name}")]
        if len(found) == 1:
            entry = objects[found[0]]
            return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, text, found[0])
    return text if thing is not None else None
