"""What every table of a benchmark says of where it was measured, and how it is written."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from purify.grid.environment import environment


def noted(rows: pd.DataFrame, repetitions: int) -> pd.DataFrame:
    """Add the machine, the versions and the day to every row."""
    here = environment("auto")
    return rows.assign(
        repetitions=repetitions,
        device=here["device"],
        cores=os.cpu_count(),
        precision=here["precision"],
        torch=here["packages"]["torch"],
        revision=here["revision"],
        day=datetime.now(UTC).date().isoformat(),
    )


def write(frame: pd.DataFrame, output: Path, markdown: Callable[[pd.DataFrame], str]) -> None:
    """Write the rows (CSV), and beside them the table that the book shows."""
    output.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(output, index=False)
    output.with_suffix(".md").write_text(markdown(frame), encoding="utf-8")
