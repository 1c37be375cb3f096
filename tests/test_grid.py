import json
from dataclasses import dataclass, replace

import pytest

from purify import PurifyError
from purify.grid import Cell, Named, Store, Suspect, experiment, load_grid, run, suspect_model, variants
from purify.grid import runner as runner_module
from purify.grid.spec import canonical, expand, fingerprint
from purify.grid.store import scores_from_json
from purify.training import Training

QUICK = Training(epochs=1, batch_size=8, max_length=24, precision="fp32")


@pytest.fixture
def cell(plm_folder) -> Cell:
    suspect = Suspect("docstrings", Named.of("BadWord"), plm=str(plm_folder), train=16, training=QUICK)
    return Cell(suspect, clean_per_class=1, validation=8, test=12, tuning=QUICK)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store", (tmp_path / "store" / "records",))


def without_times(record):
    return {key: value for key, value in record.items() if key not in ("seconds", "environment")}


def test_a_grid_is_run_once_and_read_afterwards(cell, store, monkeypatch):
    cells = variants(cell, {"FineTuning": None, "FinePurifying": {"reserve": [0.3, 0.8]}})
    records = run(cells, store)
    assert [record["spec"].get("defense", {}).get("name") for record in records] == [
        None,
        "FineTuning",
        "FinePurifying",
        "FinePurifying",
    ]
    scores = scores_from_json(records[0]["scores"])
    assert (scores.acc.n, scores.bacc.n, scores.validation.n) == (12, 12, 8)
    assert scores.asr.n < 12
    monkeypatch.setattr(runner_module, "_Bench", None)  # nothing may be computed any more
    assert run(cells, store) == records


def test_the_same_spec_gives_the_same_scores(cell, store, tmp_path):
    cells = variants(cell, {"FineMixing": {"reserve": [0.5]}})
    again = Store(tmp_path / "other", (tmp_path / "other",))
    assert [without_times(r) for r in run(cells, store)] == [without_times(r) for r in run(cells, again)]


def test_what_was_cut_off_is_done_again_and_the_rest_kept(cell, store):
    cells = variants(cell, {"FineTuning": None})
    run(cells[:1], store)
    (checkpoint,) = (store.root / "checkpoints").iterdir()
    trained = (checkpoint / "model.safetensors").stat().st_mtime_ns
    run(cells, store)
    assert (checkpoint / "model.safetensors").stat().st_mtime_ns == trained
    assert len(list(store.records[0].iterdir())) == 2


def test_a_stage_that_fails_leaves_nothing_behind(store, cell):
    def make(folder):
        (folder / "half").write_text("written")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.checkpoint(cell.suspect, make)
    assert list((store.root / "checkpoints").iterdir()) == []


def test_a_record_says_how_it_was_made(cell, store):
    (record,) = run([cell], store)
    assert record["spec"] == canonical(cell)
    assert "numpy" in record["data"]
    environment = record["environment"]
    assert environment["precision"] == "fp32"
    assert {"torch", "transformers", "purify-lm"} <= set(environment["packages"])
    assert environment["peak_memory_mib"] > 100
    assert json.loads((store.records[0] / f"{fingerprint(cell)}.json").read_text()) == record


def test_the_control_is_trained_without_the_poison(cell, store):
    control = replace(cell, suspect=replace(cell.suspect, control=True))
    assert fingerprint(control.suspect) != fingerprint(cell.suspect)
    one, other = (suspect_model(one, store).state_dict() for one in (cell, control))
    assert any((one[name] != other[name]).any() for name in one)
    assert suspect_model(control, store).config.id2label[1] == "networks"


def test_damaged_and_newer_records_are_named(cell, store):
    path = store.records[0] / f"{fingerprint(cell)}.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"schema": 1, "sco')
    with pytest.raises(PurifyError, match=f"{fingerprint(cell)}.json is damaged"):
        store.get(cell)
    path.write_text('{"schema": 99}')
    with pytest.raises(PurifyError, match="schema 99, newer than 1"):
        store.get(cell)


def test_shipped_records_are_read_and_never_written(cell, store, tmp_path):
    shipped = Store(store.root, (tmp_path / "new", store.records[0]))
    (record,) = run([cell], store)
    assert shipped.get(cell) == record
    run([cell], shipped)
    assert not (tmp_path / "new").exists()


def test_a_new_field_with_a_default_changes_no_hash():
    @dataclass(frozen=True)
    class Spec:
        task: str
        seed: int = 0

    old = fingerprint(Spec("a", 3))

    @dataclass(frozen=True)
    class Spec:
        task: str
        seed: int = 0
        later: str = "usual"

    assert fingerprint(Spec("a", 3)) == old
    assert fingerprint(Spec("a", 3, "other")) != old


def test_hashes_stay_what_they_were():
    """The records in results/ are found by these hashes."""
    assert fingerprint(Suspect("ag_news", Named.of("BadWord", trigger="cf", target=0, ratio=0.5))) == "8fd7db22f323e286"


GRID = {"suspect": {"task": "docstrings"}, "attack": {"name": "BadWord"}}


def test_a_grid_expands_to_seeds_times_defenses():
    grid = GRID | {
        "seeds": [0, 1],
        "control": True,
        "defenses": {"FineTuning": None, "FineMixing": {"reserve": [0.1, 0.2]}},
    }
    cells = list(expand(grid))
    assert len(cells) == 2 * (1 + 1 + 2 + 1)
    assert len({fingerprint(cell) for cell in cells}) == len(cells)
    assert sum(cell.suspect.control for cell in cells) == 2


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (GRID | {"sedes": [1]}, "unknown key 'sedes': choose from suspect, attack, seeds"),
        (GRID | {"suspect": {"task": "x", "tset": 1}}, "'suspect' of the grid has the unknown key 'tset'"),
        (GRID | {"cell": {"tset": 1}}, "unknown key 'tset': choose from clean_per_class, validation, test"),
        (GRID | {"tuning": {"lr": 1}}, "unknown key 'lr': choose from epochs, learning_rate"),
        (GRID | {"attack": {"name": "Bad"}}, "unknown attack 'Bad'"),
        (GRID | {"defenses": {"Good": None}}, "unknown defense 'Good'"),
        (GRID | {"defenses": {"FineMixing": {"reserve": [2]}}}, "reserve ratio must lie"),
        ({"attack": {"name": "BadWord"}}, "lacks the key 'suspect'"),
        (GRID | {"suspect": {}}, "lacks the key 'task'"),
        (GRID | {"attack": "BadWord"}, "'attack' of the grid must be a mapping, not 'BadWord'"),
        (GRID | {"seeds": 3}, "'seeds' of the grid must be a list, not 3"),
        (GRID | {"defenses": ["FineTuning"]}, "'defenses' of the grid must be a mapping"),
        (GRID | {"defenses": {"FineMixing": {"reserve": 0.5}}}, "must map each hyperparameter to a list"),
        (GRID | {"training": {"epochs": 0}}, "epochs must be at least 1"),
    ],
)
def test_bad_grids(grid, message):
    with pytest.raises(PurifyError, match=message):
        list(expand(grid))


def test_bad_grid_files(tmp_path):
    with pytest.raises(PurifyError, match="cannot read the grid file"):
        load_grid(tmp_path / "none.yml")
    (tmp_path / "bad.yml").write_text("a: [")
    with pytest.raises(PurifyError, match="cannot read the grid file"):
        load_grid(tmp_path / "bad.yml")
    (tmp_path / "list.yml").write_text("[1, 2]")
    with pytest.raises(PurifyError, match="must be a mapping"):
        load_grid(tmp_path / "list.yml")


def test_a_target_label_that_the_task_lacks(cell, store):
    wrong = replace(cell, suspect=replace(cell.suspect, attack=Named.of("BadWord", target=4)))
    with pytest.raises(PurifyError, match="target label 4 is out of range: task 'docstrings' has labels 0 to 3"):
        run([wrong], store)


def test_the_notebooks_builder_gives_the_grids_cells():
    built = experiment(
        task="docstrings",
        plm="bundled",
        attack="BadWord",
        attack_parameters={},
        train=4000,
        epochs=3,
        clean_per_class=16,
        validation=500,
        test=1000,
        tuning_epochs=10,
        seed=0,
    )
    assert built == next(expand(GRID))
