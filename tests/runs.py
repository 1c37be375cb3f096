"""What tests of whole runs share: the grid ``smoke`` by the command line, and what came of it."""

import subprocess
import sys
from pathlib import Path

import pandas as pd

from purify.report.export import MEASURED, export_records

ROOT = Path(__file__).parents[1]
SMOKE = ROOT / "book" / "grids" / "smoke.yml"
PURIFY = [sys.executable, "-c", "from purify.cli import main; main()"]


def grid_run(store, *options, file=SMOKE, **popen):
    command = [*PURIFY, "grid", "run", str(file), "--store", str(store), "--threads", "1", *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **popen)


def end(run):
    """Wait for a run; return its exit code and what it said."""
    said = run.communicate()[1]
    return run.returncode, said


def table(store, path, cells=None):
    """The export of a store, without what is measured anew in every run."""
    export_records(store, cells, path)
    return pd.read_csv(path).drop(columns=list(MEASURED)).to_csv()
