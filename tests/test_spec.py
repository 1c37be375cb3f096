import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purify import PurifyError, attacks, defenses, measures
from purify.attacks import ATTACKS
from purify.defenses import DEFENSES
from purify.grid import Cell, Named, Policy, Suspect, experiment, load_grid, select
from purify.grid.files import expand
from purify.grid.spec import canonical, fingerprint, fingerprint_of_plain, restore
from purify.measures import MEASURES
from purify.training import Training

GRIDS = Path(__file__).parents[1] / "book" / "grids"
GRID = {"suspect": {"task": "docstrings"}, "attack": {"name": "BadWord"}}


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
    """Stored results are found by these hashes."""
    suspect = Suspect("ag_news", ATTACKS.named("BadWord", trigger="mn"), seed=1)
    assert fingerprint(suspect) == "954b52192069d652"
    cell = Cell(suspect, DEFENSES.named("FinePurifying", reserve=0.4), tuning=Training(epochs=2))
    assert fingerprint(cell) == "3e2898d9212441bf"
    assert fingerprint(cell.purification) == "946504de2d787da2"
    assert fingerprint(cell.fisher) == "e48bd3f511af88a3"


@given(
    seed=st.integers(0, 9),
    control=st.booleans(),
    trigger=st.text(min_size=1).filter(str.strip),
    reserve=st.floats(0, 1),
    drop=st.none() | st.floats(0, 10),
    epochs=st.integers(1, 9),
)
def test_the_canonical_form_is_json_and_can_be_read_back(seed, control, trigger, reserve, drop, epochs):
    suspect = Suspect("imdb", ATTACKS.named("BadWord", trigger=trigger), control=control, seed=seed)
    policy = None if drop is None else Policy(drop, (0.1, reserve))
    defense = DEFENSES.named("FineMixing", reserve=reserve)
    cell = Cell(suspect, defense, tuning=Training(epochs=epochs), policy=policy)
    plain = json.loads(json.dumps(canonical(cell)))
    assert restore(Cell, plain) == cell
    assert fingerprint_of_plain("Cell", plain) == fingerprint(cell)


def test_one_choice_of_parameters_has_one_description():
    assert ATTACKS.named("BadWord", trigger="cf", ratio=0.5) == ATTACKS.named("BadWord") == Named("BadWord")
    assert DEFENSES.named("FineMixing", reserve=1).parameters == (("reserve", 1.0),)
    assert DEFENSES.build(DEFENSES.named("FineMixing", reserve=0.2)).reserve == 0.2


def test_a_control_is_trained_once_for_all_attacks():
    one, other = (Suspect("imdb", ATTACKS.named(name), control=True) for name in ("BadWord", "BadSent"))
    assert one != other
    assert one.trained == other.trained
    assert replace(one, control=False).trained != replace(other, control=False).trained


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


def test_lists_are_axes_and_thresholds_add_policies():
    grid = {
        "suspect": {"task": ["imdb", "qqp"], "plm": ["bundled", "x/y"]},
        "attack": [{"name": "BadWord", "trigger": ["cf", "mn"]}, {"name": "BadSent"}],
        "cell": {"clean_per_class": [2, 4]},
        "training": {"learning_rate": "1e-5"},
        "defenses": {"FineMixing": {"reserve": [0.4, 0.2]}, "FinePurifying": {"reserve": [0.3], "count": ["all"]}},
        "thresholds": [1, 2.5],
    }
    cells = list(expand(grid))
    suspects = {cell.suspect for cell in cells}
    assert len(suspects) == 2 * 2 * 3
    assert {suspect.training.learning_rate for suspect in suspects} == {1e-5}
    assert len(cells) == len(suspects) * 2 * (1 + 2 + 1 + 2 * 2)
    policies = [cell for cell in cells if cell.policy]
    assert {cell.policy.max_drop for cell in policies} == {1.0, 2.5}
    for cell in policies:
        assert set(cell.candidates()) <= set(cells)
        assert cell.received in cells
    mixing = next(cell for cell in policies if cell.defense.name == "FineMixing")
    assert mixing.policy.among == (0.2, 0.4)
    assert {cell.defense.name for cell in policies if dict(cell.defense.parameters).get("count") == "all"} == {
        "FinePurifying"
    }


def test_the_projects_grids_can_be_read(tmp_path):
    sizes = {path.stem: len(load_grid(path)) for path in GRIDS.glob("*.yml")}
    attacked, defended = {"attacks", "adaptive"}, {"defenses", "variants", "detection", "retraining"}
    assert sizes.keys() == {
        "smoke",
        "default",
        "embedded",
        "companion",
        "tables",
        "small-roberta",
        "theory",
        "scan",
        "paper",
        *attacked,
        *defended,
    }
    assert sizes["smoke"] == 10
    assert sizes["default"] == 10
    paper = load_grid(GRIDS / "paper.yml")
    assert len({(c.suspect.plm, c.suspect.task, c.suspect.attack, c.suspect.seed) for c in paper}) == 2 * 4 * 4 * 5


def test_a_part_of_a_grid():
    cells = list(expand(GRID | {"seeds": [0, 1], "defenses": {"FineTuning": None}}))
    assert [cell.suspect.seed for cell in select(cells, ["seed=1"])] == [1, 1]
    assert len(select(cells, ["seed=1", "seed=0", "defense=FineTuning"])) == 2
    with pytest.raises(PurifyError, match="'seeds=1' is no condition: write FIELD=VALUE with one of task, plm"):
        select(cells, ["seeds=1"])
    with pytest.raises(PurifyError, match="no cell of the grid has seed=7"):
        select(cells, ["seed=7"])


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (GRID | {"sedes": [1]}, "unknown key 'sedes': choose from suspect, attack, seeds"),
        (GRID | {"suspect": {"task": "x", "tset": 1}}, "'suspect' of the grid has the unknown key 'tset'"),
        (GRID | {"suspect": {"task": "x"}}, "unknown task 'x': choose one of docstrings"),
        (GRID | {"suspect": {"task": "imdb", "train": "many"}}, "'train' of 'suspect' of the grid must be a whole"),
        (GRID | {"suspect": {"task": "imdb", "train": 0}}, "asks for an empty split"),
        (GRID | {"measures": {"Gamma": {}}}, "unknown measure 'Gamma': choose one of Dimensions"),
        (GRID | {"measures": {"Dimensions": {"rows": 5}}}, "must map each hyperparameter to a list of values"),
        (GRID | {"cell": {"tset": 1}}, "unknown key 'tset': choose from clean_per_class, validation, test"),
        (GRID | {"tuning": {"lr": 1}}, "unknown key 'lr': choose from epochs, learning_rate"),
        (GRID | {"tuning": {"precision": "fp8"}}, "'precision' of .* must be one of 'auto', 'fp32', 'bf16', not 'fp8'"),
        (GRID | {"attack": {"name": "Bad"}}, "unknown attack 'Bad'"),
        (GRID | {"attack": {"name": "BadWord", "target": 4}}, "target label 4 is out of range: task 'docstrings' has"),
        (GRID | {"attack": {"name": "BadWord", "side": 1}}, "task 'docstrings' has one text per row"),
        (GRID | {"attack": {"name": "BadWord", "trigger": False}}, "'trigger' of attack 'BadWord' must be a text"),
        (GRID | {"defenses": {"Good": None}}, "unknown defense 'Good'"),
        (GRID | {"defenses": {"FineTuning": {"name": ["x"]}}}, "defense 'FineTuning' has the unknown parameter 'name'"),
        (GRID | {"attack": {"name": "BadWord", True: 1}}, "attack 'BadWord' has the unknown parameter 'True'"),
        (GRID | {"defenses": {"FineMixing": {"reserve": [2]}}}, "reserve ratio must lie"),
        (GRID | {"defenses": {"FineTuning": None}, "cell": {"clean_per_class": 0}}, "it needs: clean data"),
        ({"attack": {"name": "BadWord"}}, "lacks the key 'suspect'"),
        (GRID | {"suspect": {"train": 3}}, "lacks the key 'task'"),
        (GRID | {"attack": "BadWord"}, "'attack' of the grid must be a mapping or a list of mappings, not 'BadWord'"),
        (GRID | {"seeds": 3}, "'seeds' of the grid must be a list of whole numbers of 0 or more, not 3"),
        (GRID | {"seeds": [-1]}, "'seeds' of the grid must be a list"),
        (GRID | {"thresholds": ["x"]}, "'thresholds' of the grid must be a list of numbers"),
        (GRID | {"control": "yes please"}, "'control' of the grid must be true, false, 'defended' or 'alone'"),
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
    with pytest.raises(PurifyError, match="block 1, must be a mapping"):
        load_grid(tmp_path / "list.yml")


def test_the_notebooks_builder_gives_the_grids_cells():
    built = experiment(
        task="docstrings",
        plm="bundled",
        attack="BadWord",
        attack_parameters={"trigger": "cf"},
        train=4000,
        epochs=3,
        clean_per_class=16,
        validation=500,
        test=1000,
        tuning_epochs=10,
        seed=0,
    )
    assert built == next(expand(GRID))


def test_what_is_planned_loads_no_attack_defense_or_measure_that_is_not_named():
    code = """
import sys
from purify.grid import Cell, Suspect
from purify.attacks import ATTACKS
Cell(Suspect("docstrings", ATTACKS.named("BadWord"))).suspect.build_attack()
kinds = ("purify.attacks.", "purify.defenses.", "purify.measures.")
print(*sorted(name for name in sys.modules if name.startswith(kinds)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        *("purify.attacks.base", "purify.attacks.words", "purify.defenses.base", "purify.measures.base")
    ]


def test_every_class_is_where_the_registry_says_and_can_be_imported_from_its_package():
    for registry, package in ((ATTACKS, attacks), (DEFENSES, defenses), (MEASURES, measures)):
        for name, cls in registry.classes.items():
            assert cls.__name__ == name
            assert getattr(package, name) is cls
        assert [cls for family in registry.families.values() for cls in family] == list(registry.classes.values())
        assert "None" not in registry.classes
        with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
            package.Nothing  # noqa: B018
