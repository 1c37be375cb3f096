"""A report of a scan or a cleaning as lines and tables for a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from purify.report.scanned import verdict


def lines(report: Mapping[str, Any]) -> Iterator[str | Panel | Table]:
    """Yield what `rich` prints: the verdict first, then why, then what was done or is to do."""
    found = report["verdict"]
    colour = "red" if found["alarm"] else "green" if found["tested"] else "yellow"
    title = "alarm" if found["alarm"] else "no alarm" if found["tested"] else "not tested"
    yield Panel(Text(verdict(report)), title=title, border_style=colour)
    why = Table("test", "this model", f"highest of {found['honest_models']} honest models", box=None)
    for one in found["statistics"]:
        value = Text(f"{one['value']:.2f}", style="red" if one["value"] > one["limit"] else "")
        why.add_row(one["means"], value, f"{one['limit']:.2f}")
    yield why
    if report["words"]:
        yield _words(report)
    drift = report["drift"]
    top = sorted(drift["places"], key=lambda place: -(place["share"] or 0))[:3]
    yield "the largest r sit in " + ", ".join(
        f"{place['where']}, {place['kind']} ({100 * place['share']:.0f} % of its dimensions)" for place in top
    )
    clean = report["clean_model"]
    yield f"clean model: {clean['name']} ({clean['found']}); drift {drift['distance']} of its norm"
    yield from _done(report["cleaning"]) if "cleaning" in report else _to_do(report)


def _words(report: Mapping[str, Any]) -> Table:
    table = Table("far word", "drift", "changes", "expected", "to class", box=None)
    for one in report["words"]:
        row = (one["word"], f"{one['times']:.2f}", *_changes(one))
        table.add_row(*(Text(cell, style="red" if one["abnormal"] else "") for cell in row))
    for one in report["together"]:
        table.add_row(*map(Text, (f"the first {one['words']} together", "", *_changes(one))))
    return table


def _changes(one: Mapping[str, Any]) -> tuple[str, str, str]:
    """Seen, expected of the meaning, and to which class; nothing where too few examples could change."""
    if not one["among"]:
        return "too few examples", "", ""
    return f"{one['changed']} of {one['among']}", f"{100 * one['expected']:.0f} %", one["to"]


def _to_do(report: Mapping[str, Any]) -> Iterator[str]:
    yield f"to clean it (ρ = {report['recommendation']['reserve']}): {report['recommendation']['command']}"


def _done(done: Mapping[str, Any]) -> Iterator[str | Table]:
    judged = "held-out clean examples" if done["held_out"] else "clean examples, the same that it was fine-tuned on"
    yield f"ρ = {done['reserve']}: {100 * done['kept']:.0f} % of all dimensions kept"
    table = Table(f"on {done['judged_on']} {judged}", "before", "after", box=None)
    before, after = done["before"], done["after"]
    table.add_row("accuracy", *(f"{one['accuracy']['percent']:.1f} %" for one in (before, after)))
    for old, new in zip(before["words"], after["words"], strict=True):
        changes = (f"{one['changed']} of {one['among']}" for one in (old, new))
        table.add_row(Text(f"changed by {old['word']}"), *changes)
    if before["triggered"]:
        table.add_row("your trigger", *(f"{one['triggered']['percent']:.1f} %" for one in (before, after)))
    yield table
