import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from purify.cli import app
from purify.grid import Store
from purify.grid.bench import bench

ROOT = Path(__file__).parents[1]


@pytest.fixture
def purify(grid_file, tmp_path):
    """Call ``purify grid …`` on a store of its own; return what it printed."""
    bench.cache_clear()

    def call(command, *arguments, code=0, file=True, records=True):
        options = ["--store", str(tmp_path / "store")]
        options += ["--records", str(tmp_path / "store" / "records")] if records else []
        done = CliRunner().invoke(app, ["grid", command, *([str(grid_file)] if file else []), *arguments, *options])
        assert done.exit_code == code, done.output
        return done.output

    return call


def test_from_plan_to_export(purify, tmp_path):
    before = purify("plan")
    assert "16 cells: 0 done, 16 to do" in before
    assert "to train: 4 suspects; to compute: 2 Fishers" in before
    assert before.count("to do ") == 16
    assert re.search(r"time: about \d+ s on one worker \(the store has nothing to go by: a guess\); disk: ", before)
    part = purify("run", "--only", "seed=0", "--only", "defense=FineTuning")
    assert "FineTuning" in part
    assert "1 of 16 cells done, 0 stages running, 0 failed" in purify("status")
    assert "16 cells: 1 done, 15 to do" in purify("plan")
    assert "(from results in the store)" in purify("plan")
    purify("run")
    assert "16 cells: 16 done, 0 to do\n" in purify("plan")
    assert "22 records and checkpoints are sound, 0 damaged" in purify("verify", file=False)
    table = tmp_path / "out" / "table.csv"
    assert purify("export", "--output", str(table)).startswith("16 records")
    assert len(pd.read_csv(table)) == 16


def test_a_long_plan_is_cut_unless_all_is_asked_for(purify, monkeypatch):
    monkeypatch.setattr("purify.cli_grid._SHOWN", 3)
    assert "… and 13 more (--all lists them)" in purify("plan")
    assert "more (--all" not in purify("plan", "--all")


def test_a_failure_sets_the_exit_code_and_is_kept_with_its_traceback(purify, monkeypatch):
    def apply(self, resources):
        raise ZeroDivisionError("by chance")

    monkeypatch.setattr("purify.defenses.FineTuning.apply", apply)
    said = purify("run", "--only", "seed=0", code=1)
    assert "failed: docstrings" in said
    assert "1 of 8 cells failed" in said
    status = purify("status", "--tracebacks")
    assert "1 failed" in status
    assert "ZeroDivisionError: by chance" in status
    assert "raise ZeroDivisionError" in status


def test_damage_is_found_and_rubbish_deleted(purify, tmp_path):
    purify("run", "--only", "seed=0")
    record = next((tmp_path / "store" / "records").iterdir())
    content = json.loads(record.read_text())
    content["scores"]["acc"]["k"] += 1
    record.write_text(json.dumps(content))
    assert f"{record} is damaged: its checksum is wrong" in purify("verify", file=False, code=1)
    purify("run", "--only", "seed=0")
    assert "0 damaged" in purify("verify", file=False)
    assert "set aside" in purify("gc", "--dry-run", file=False, records=False)
    assert "(set aside, " in purify("gc", file=False, records=False)
    assert purify("gc", file=False, records=False).startswith("freed 0 bytes; 0 leases of dead runners cleared")
    assert len(Store(tmp_path / "store").recorded()) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "none.yml"], "cannot read the grid file"),
        (["run", "book/grids/smoke.yml", "--only", "sede=1"], "'sede=1' is no condition"),
        (["run", "book/grids/smoke.yml", "--processes", "2", "--workers", "2"], "exclude each other"),
        (["status", "--store", "nonsense://x"], "the store nonsense://x cannot be opened"),
        (["status", "--store", "README.md"], "README.md cannot be opened: [Errno 20] Not a directory"),
        (["run", "book/grids/smoke.yml", "--log", "book"], "cannot write to book: [Errno 21] Is a directory"),
        (["export", "-o", "x.txt"], "x.txt must end in .csv or .parquet"),
        (["slurm", "book/grids/smoke.yml", "--gpus", "2"], "a worker uses one GPU or none, not 2"),
    ],
)
def test_bad_input_is_one_sentence(arguments, message, tmp_path):
    command = [sys.executable, "-c", "from purify.cli import main; main()", "grid", *arguments]
    if arguments[0] == "run":  # not the project's own store, where the grid may have been run already
        command += ["--store", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_planning_needs_no_torch():
    code = "import sys; from purify.cli import app; from purify.grid import plan; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_slurm_script_says_what_was_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("PURIFY_DATA_DIR", "/a b")
    arguments = ["grid", "slurm", "book/grids/smoke.yml", "--show", "--gpus", "1", "--cores", "3", "--partition", "p"]
    script = (
        CliRunner()
        .invoke(app, [*arguments, "--option=--constraint=x", "--interface", "lo", "--store", str(tmp_path)])
        .output
    )
    assert "#SBATCH -p p\n" in script
    assert "#SBATCH --cpus-per-task=3\n" in script
    assert "#SBATCH --gres=gpu:1\n" in script
    assert "#SBATCH --constraint=x\n" in script
    assert "export PURIFY_DATA_DIR='/a b'\n" in script
    assert "--resources GPU=1" in script
    assert f"#SBATCH -o {tmp_path}/slurm/" in script
    assert f"{sys.executable} -m distributed.cli.dask_worker tcp://127.0.0.1:" in script
