"""The results explorer: what the records of a grid say about every suspect, as one page that needs no server.

All numbers and every choice of ρ are made here, by the protocol; the page's script (``assets/explorer.js``) only looks
up what the reader picks, and Chart.js draws it. What is there without a script is made from the same frame.
"""

import json
import string
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from purify.grid.files import load_grid, select
from purify.grid.spec import fingerprint
from purify.home import project_root
from purify.report.comparison import FINE_DROPS
from purify.report.figures import COLOURS, MARKERS, palette
from purify.report.protocol import at_drops, one_kind
from purify.report.tables import AS_RECEIVED, CONTROL, label
from purify.report.templates import render
from purify.tasks import TASKS

SUSPECT = ["task", "attack", "clean", "seed"]
"""What a reader picks: the columns of `purify.report.protocol.tables_frame` that name a suspect and its clean set."""

_SCORES = ["validation", "acc", "acc_low", "acc_high", "asr", "asr_low", "asr_high"]
_SHAPES = {"D": ("rectRot", 0, "◆"), "^": ("triangle", 0, "▲"), "s": ("rect", 0, "■"), "o": ("circle", 0, "●")}
_OTHER_SHAPE = ("triangle", 180, "▼")
_ON_DARK = {COLOURS[AS_RECEIVED]: "#ffffff", COLOURS["FineTuning"]: "#c0c0c0"}
_ASSETS = Path(__file__).parent / "assets"
_DIGITS = string.digits + string.ascii_lowercase


def explorer_data(frame: pd.DataFrame) -> dict[str, Any]:
    """Return what the page shows, as plain data; percentages are rounded to one decimal.

    Keys: ``drops`` and ``reserves``, what ΔACC and ρ can be set to; ``methods`` and ``references`` with colours and
    markers; ``axes``, what a reader can pick; and ``suspects``, by "task|attack|clean|seed". Of a suspect: ``rows`` of
    validation, ACC and ASR; ``references``, the numbers as received and of the control; and for every method which
    setting the protocol chooses at each ΔACC (a text, one digit of base 36 each), from which ΔACC on some setting stays
    within it, and all settings; None where it was not run, and for a control that was not.

    Args:
        frame: Of `purify.report.protocol.tables_frame`, of one clean model and size of training.

    Raises:
        PurifyError: there are several clean models or training sizes, or a suspect's own record is not there.
    """
    one_kind(frame)
    chosen = {key: part.sort_values("ΔACC") for key, part in at_drops(frame, FINE_DROPS).groupby([*SUSPECT, "defense"])}
    names = [name for name in dict.fromkeys(frame["defense"]) if name not in (AS_RECEIVED, CONTROL)]
    suspects = {}
    for key, part in frame.groupby(SUSPECT, sort=False):
        own = dict(list(part.groupby("defense", sort=False)))
        if AS_RECEIVED in own:
            suspects["|".join(map(str, key))] = {
                "rows": [int(own[AS_RECEIVED][f"{score}_n"].iloc[0]) for score in ("validation", "acc", "asr")],
                "references": [_points(own[name])[0] if name in own else None for name in (AS_RECEIVED, CONTROL)],
                "methods": [_method(own[name], chosen[*key, name]) if name in own else None for name in names],
            }
    return {
        "drops": list(FINE_DROPS),
        "reserves": sorted(set(frame["reserve"].dropna())),
        "methods": [_look(name, colour) for name, colour in palette(names).items()],
        "references": [_look(name, COLOURS[name]) for name in (AS_RECEIVED, CONTROL)],
        "axes": {axis: frame[axis].drop_duplicates().tolist() for axis in SUSPECT},
        "suspects": suspects,
    }


def _points(rows: pd.DataFrame) -> list[list[float | None]]:
    """Return ρ, validation ACC, and ACC and ASR with their intervals, of one record after the other."""
    reserves = [None if np.isnan(reserve) else float(reserve) for reserve in rows["reserve"]]
    scores = [[round(float(score), 1) for score in row] for row in rows[_SCORES].to_numpy(float)]
    return [[reserve, *row] for reserve, row in zip(reserves, scores, strict=True)]


def _method(settings: pd.DataFrame, chosen: pd.DataFrame) -> tuple[str, int, list[list[float | None]]]:
    settings = settings.sort_values("reserve")
    place = {name: index for index, name in enumerate(settings["hash"])}
    choice = "".join(_DIGITS[place[name]] for name in chosen["hash"])
    return choice, int((~chosen["within"].astype(bool)).sum()), _points(settings)


def _look(name: str, colour: str) -> dict[str, Any]:
    style, rotation, glyph = _SHAPES.get(MARKERS.get(name, ""), _OTHER_SHAPE)
    if name in (AS_RECEIVED, CONTROL):
        style, rotation, glyph = ("crossRot", 0, "✕") if name == AS_RECEIVED else ("star", 0, "✳")
    dark = _ON_DARK.get(colour, colour)
    return {"name": name, "light": colour, "dark": dark, "style": style, "rotation": rotation, "glyph": glyph}


def missing_table(frame: pd.DataFrame, grid: str = "tables", conditions: Iterable[str] = ()) -> pd.DataFrame:
    """Return, by task and seed, how many of a grid's suspects have all of their records, and which of them lack some.

    Args:
        frame: Of `purify.report.protocol.tables_frame`.
        grid: Its name in ``book/grids``.
        conditions: As of `purify.grid.select`; those that the frame was made with.
    """
    path = project_root() / "book" / "grids" / f"{grid}.yml"
    there, found = set(frame["hash"]), []
    for cell in select(load_grid(path), conditions):
        if cell.policy is None and not cell.suspect.control:
            suspect, clean = cell.suspect, cell.clean_per_class * len(TASKS[cell.suspect.task].labels)
            key = (suspect.task, suspect.seed, label(suspect.attack), clean)
            found.append((*key, fingerprint(cell) in there))
    cells = pd.DataFrame(found, columns=["task", "seed", "attack", "clean", "there"])
    rows = []
    for (task, seed), part in cells.groupby(["task", "seed"], sort=False):
        whole = part.groupby(["attack", "clean"], sort=False)["there"].all()
        lacking = [f"{name} with {_sizes(some)}" for name, some in whole[~whole].groupby("attack", sort=False)]
        missing = "none" if whole.all() else "; ".join(lacking) if whole.any() else "all"
        records = f"{part['there'].sum()} of {len(part)}"
        suspects = f"{whole.sum()} of {len(whole)}"
        rows.append({"task": task, "seed": seed, "suspects": suspects, "records": records, "not there": missing})
    return pd.DataFrame(rows).set_index("task").rename_axis(None)


def _sizes(lacking: "pd.Series[bool]") -> str:
    return ", ".join(map(str, lacking.index.get_level_values("clean")))


def plain_rows(frame: pd.DataFrame, drop: float) -> list[list[str]]:
    """Return the table that is there without a script: a heading, then one row per suspect, at one ΔACC.

    Cells of methods hold "ρ: ACC / ASR" in percent; one that stays beyond ΔACC has a star.
    """
    chosen = at_drops(frame, [drop])
    received = frame[frame["defense"] == AS_RECEIVED].set_index(SUSPECT)
    names = list(dict.fromkeys(chosen["defense"]))
    cells: dict[tuple[Hashable, ...], str] = {}
    for row in chosen.to_dict("records"):
        reserve = "" if np.isnan(row["reserve"]) else f"{row['reserve']:g}: "
        key = (*(row[column] for column in SUSPECT), row["defense"])
        cells[key] = f"{reserve}{row['acc']:.1f} / {row['asr']:.1f}" + "*" * (not row["within"])
    rows = [[*SUSPECT, AS_RECEIVED, *names]]
    for key, row in zip(received.index, received.to_dict("records"), strict=True):
        scores = f"{row['acc']:.1f} / {row['asr']:.1f}"
        rows.append([*map(str, key), scores, *(cells.get((*key, name), "") for name in names)])
    return rows


def page(frame: pd.DataFrame, drop: float) -> Any:
    """Return the page as a notebook shows it: controls, chart, tables, and the data that they are made of.

    Args:
        frame: As of `explorer_data`.
        drop: ΔACC, in points, that the page opens with and that its plain table is of.
    """
    data = explorer_data(frame)
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    files = {"style": "explorer.css", "script": "explorer.js", "chart": "chart.umd.min.js"}
    from IPython.display import HTML  # noqa: PLC0415  (notebooks only)

    return HTML(
        render(
            "explorer.html.j2",
            data=data,
            text=text,
            first={axis: values[0] for axis, values in data["axes"].items()} | {"clean": max(data["axes"]["clean"])},
            step=int(np.abs(np.subtract(data["drops"], drop)).argmin()),
            drop=drop,
            plain=plain_rows(frame, drop),
            **{name: (_ASSETS / file).read_text(encoding="utf-8") for name, file in files.items()},
        )
    )
