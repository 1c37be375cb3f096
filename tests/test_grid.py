"""The runner, on a tiny model and the embedded corpus."""

import logging
from dataclasses import replace

import pandas as pd
import pytest
import torch
from runs import table

from purify import PurifyError
from purify.defenses import DEFENSES
from purify.grid import Cell, Named, Policy, Store, Suspect, execute, run, splits_of, suspect_model, variants
from purify.grid import bench as bench_module
from purify.grid import checks as checks_module
from purify.grid import stages as stages_module
from purify.grid.checkpoints import is_made
from purify.grid.plan import plan, units
from purify.grid.runner import Options
from purify.grid.schedule import Job, Outcome, Schedule, State
from purify.grid.spec import canonical, fingerprint
from purify.grid.store import scores_from_json
from purify.grid.upkeep import verify
from purify.plm import save_checkpoint, weights_digest
from purify.report.export import export_records
from purify.training import Training

QUICK = Training(epochs=1, batch_size=8, max_length=24, precision="fp32")
DEFENSES_TRIED = {"FineTuning": None, "FineMixing": {"reserve": [0.5]}, "FinePurifying": {"reserve": [0.3, 0.8]}}


@pytest.fixture
def cell(plm_folder) -> Cell:
    suspect = Suspect("docstrings", Named("BadWord"), plm=str(plm_folder), train=16, training=QUICK)
    return Cell(suspect, clean_per_class=1, validation=8, test=12, tuning=QUICK)


def test_a_grid_is_run_once_and_read_afterwards(cell, store, monkeypatch):
    cells = variants(cell, DEFENSES_TRIED, thresholds=[5])
    records = run(cells, store)
    assert [record["spec"].get("defense", {}).get("name") for record in records] == [
        None,
        "FineTuning",
        "FineMixing",
        "FineMixing",
        "FinePurifying",
        "FinePurifying",
        "FinePurifying",
    ]
    scores = scores_from_json(records[0]["scores"])
    assert (scores.acc.n, scores.bacc.n, scores.validation.n) == (12, 12, 8)
    assert scores.asr.n < 12
    monkeypatch.setattr(stages_module, "bench", None)  # nothing may be computed any more
    assert run(cells, store) == records


def test_a_record_says_how_it_was_made(cell, store):
    purifying = replace(cell, defense=DEFENSES.named("FinePurifying", reserve=0.3))
    (record,) = run([purifying], store)
    assert record["spec"] == canonical(purifying)
    assert record["seeds"] == {"experiment": 0, "test rows": 0}
    assert "numpy" in record["inputs"]["source"]
    assert record["inputs"]["rows"] == splits_of(cell).digest
    assert set(record["stages"]) == {"attack", "fisher", "purify", "evaluate"}
    environment = record["environment"]
    assert environment["precision"] == "fp32"
    assert {"torch", "transformers", "purify-lm"} <= set(environment["packages"])
    assert environment["peak_memory_mib"] > 100


def test_the_same_spec_gives_the_same_scores(cell, store, tmp_path):
    cells = variants(cell, DEFENSES_TRIED)
    run(cells, store)
    other = Store(tmp_path / "other")
    for one in reversed(cells):  # another order, other things done before in this process
        torch.rand(3)
        run([one], other)
    assert table(store, tmp_path / "a.csv") == table(other, tmp_path / "b.csv")


def test_each_stage_is_kept_on_its_own(cell, store, monkeypatch):
    purifying = replace(cell, defense=DEFENSES.named("FinePurifying", reserve=0.3))

    def interrupted(self, model):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bench_module.Bench, "predictions", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run([purifying], store)
    stages = (cell.suspect, purifying.fisher, purifying.purification)
    assert all(is_made(stage, store) for stage in stages)
    assert store.recorded() == set()
    assert store.leases.holders() == {}
    bench_module.bench.cache_clear()  # as in a new process
    for name in ("train", "measure"):
        monkeypatch.setattr(bench_module.Bench, name, None)  # made already
    monkeypatch.setattr("purify.defenses.FinePurifying.apply", None)
    (record,) = run([purifying], store)
    assert set(record["stages"]) == {"attack", "fisher", "purify", "evaluate"}
    assert not is_made(purifying.purification, store)  # it has been scored
    assert is_made(cell.suspect, store)


def test_cleaned_checkpoints_are_kept_when_asked_for(cell, store):
    tuned = replace(cell, defense=Named("FineTuning"))
    execute([tuned], store, options=Options(keep_models=True))
    assert is_made(tuned.purification, store)
    larger = replace(tuned, test=14)  # shares the cleaned checkpoint
    (record,) = run([larger], store)
    assert record["seconds"] == store.get(tuned)["seconds"]


def test_what_is_damaged_is_made_again(cell, store, tmp_path, caplog):
    cells = variants(cell, DEFENSES_TRIED)
    run(cells, store)
    before = table(store, tmp_path / "a.csv")
    weights = store.folder.local / "suspects" / fingerprint(cell.suspect) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    record = store.folder.local / "records" / f"{fingerprint(cells[2])}.json"
    record.write_text(record.read_text()[:-5])
    bench_module.bench.cache_clear()
    run(cells, store)
    assert "model.safetensors is not what was written" in caplog.text
    assert f"{record.name} is damaged" in caplog.text
    assert table(store, tmp_path / "b.csv") == before
    assert not any(fault for _, fault in verify(store))


def test_a_policy_takes_the_smallest_ratio_that_is_accurate_enough(cell, store):
    mixing = replace(cell, defense=Named("FineMixing"), policy=Policy(100, (0.2, 0.9)))
    (record,) = run([mixing], store)
    assert record["chosen"] == {"reserve": 0.2, "within": True, "record": fingerprint(mixing.at(0.2))}
    assert record["scores"] == store.get(mixing.at(0.2))["scores"]
    assert store.get(mixing.at(0.9)) is None  # there was no need
    (strict,) = run([replace(mixing, policy=Policy(0, (0.2, 0.9)))], store)
    tried = [record for record in map(store.get, (mixing.at(0.2), mixing.at(0.9))) if record]
    best = max(record["scores"]["validation"]["k"] for record in tried)
    assert strict["chosen"]["within"] == (best >= store.get(cell)["scores"]["validation"]["k"])
    assert strict["scores"]["validation"]["k"] == best


def test_a_cell_that_fails_is_recorded_and_the_rest_goes_on(cell, store, monkeypatch, caplog):
    cells = variants(cell, DEFENSES_TRIED, thresholds=[5])

    def apply(self, resources):
        raise ZeroDivisionError("by chance")

    with monkeypatch.context() as patch:
        patch.setattr("purify.defenses.FineMixing.apply", apply)
        report = execute(cells, store)
        with pytest.raises(PurifyError, match=r"2 of 7 cells failed; the first is .*ZeroDivisionError: by chance"):
            run(cells, store)
    failed = [cell for cell in cells if cell.defense.name == "FineMixing"]
    assert list(report.failed) == failed
    assert report.failed[failed[0]] == "ZeroDivisionError: by chance"
    assert "because this failed" in report.failed[failed[1]]
    assert len(store.recorded()) == 5
    (failure,) = store.failures().values()
    assert "raise ZeroDivisionError" in failure["traceback"]
    assert execute(cells, store).failed == {}  # tried again
    assert store.failures() == {}


def test_a_suspect_that_fails_fails_its_cells(cell, store, monkeypatch):
    other = replace(cell, suspect=replace(cell.suspect, seed=1))
    original = bench_module.Bench.train

    def train(self, folder):
        if self.cell.suspect.seed == 0:
            raise PurifyError("no luck")
        original(self, folder)

    monkeypatch.setattr(bench_module.Bench, "train", train)
    report = execute([*variants(cell, DEFENSES_TRIED), other], store)
    assert len(report.failed) == 5
    assert all("no luck" in error for error in report.failed.values())
    assert store.get(other)


def test_a_cell_with_impossible_sizes_fails_alone(cell, store):
    report = execute([replace(cell, clean_per_class=10**6), cell], store)
    (error,) = report.failed.values()
    assert error.endswith("rows, too few for 1000000 clean ones per class")
    assert store.get(cell)


def test_jobs_wait_for_what_they_need_depth_first(cell, store):
    second = replace(cell, suspect=replace(cell.suspect, seed=1))
    cells = [*variants(cell, {"FinePurifying": {"reserve": [0.3]}}), second]
    schedule = Schedule(cells, store)
    assert str(schedule.take()).startswith("attack of")
    assert str(schedule.take()).startswith("attack of")  # of the second; nothing else can be done
    assert schedule.take() is None
    first, other = sorted(schedule.running, key=lambda job: job.cell.suspect.seed)
    schedule.finish(other, Outcome(State.BUSY))
    assert schedule.take() is None
    schedule.finish(first, Outcome(State.DONE))
    received, fisher = schedule.take(), schedule.take()
    assert (received.kind, fisher.kind) == ("score", "fisher")
    assert schedule.take() is None
    schedule.finish(fisher, Outcome(State.FAILED, "why"))
    assert list(schedule.failed) == [cells[1]]
    schedule.retry_busy()
    assert schedule.take() == other
    schedule.finish(received, Outcome(State.DONE))
    schedule.finish(other, Outcome(State.DONE))
    schedule.finish(schedule.take(), Outcome(State.DONE))
    assert schedule.finished
    assert schedule.done == 2


def test_progress_is_in_the_log(cell, store):
    run(variants(cell, {"FineTuning": None}), store)
    log = (store.folder.local / "grid.log").read_text(encoding="utf-8")
    assert "0 done, 0 running, 0 failed of 2, ETA ? | begin: 3 stages to run" in log
    assert "2 done, 0 running, 0 failed of 2, ETA 0:00:00 | done: docstrings" in log


def test_a_plan_runs_nothing_and_counts_what_is_left(cell, store):
    cells = [*variants(cell, DEFENSES_TRIED), replace(cell, suspect=replace(cell.suspect, control=True))]
    before = plan(cells, store)
    assert (before.done, before.suspects, before.fishers, before.measured) == (0, 2, 1, False)
    assert before.seconds > 0
    assert before.disk > plan(cells[:2], store).disk
    assert plan(cells, store, keep_models=True).disk > before.disk
    assert not store.folder.names()
    run(cells[:2], store)
    after = plan(cells, store)
    assert (after.done, after.suspects, after.fishers, after.measured) == (2, 1, 1, True)
    run(cells, store)
    assert plan(cells, store).seconds == plan(cells, store).disk == 0
    assert units(Job("attack", cells[-1])) < units(Job("attack", cell))  # a control has no poisoned copies


def test_what_is_not_on_this_machine_is_named_before_anything_runs(cell, store, tmp_path, monkeypatch):
    monkeypatch.setenv("PURIFY_DATA_DIR", str(tmp_path))
    imdb = replace(cell, suspect=replace(cell.suspect, task="imdb"))
    with pytest.raises(PurifyError, match=r"PURIFY_DATA_DIR has no imdb/train\.parquet"):
        run([imdb], store)
    gone = replace(cell, suspect=replace(cell.suspect, plm=str(tmp_path / "gone")))
    with pytest.raises(PurifyError, match=r"gone' is no folder with a config\.json"):
        run([gone], store)
    odd = replace(cell, suspect=replace(cell.suspect, plm="models/bert/base"))
    with pytest.raises(PurifyError, match=r"'models/bert/base' is neither a folder with a config\.json nor a hub id"):
        run([odd], store)
    assert plan([odd], store).disk > 10**6
    further = [DEFENSES.named("ModelMerging", other=str(tmp_path / "gone")), DEFENSES.named("ONION", lm="./gone")]
    for named in further:
        with pytest.raises(PurifyError, match=rf"the model of {named.name} '.*gone' is no folder with a config\.json"):
            run([replace(cell, defense=named)], store)
    monkeypatch.setattr(checks_module.constants, "HF_HUB_OFFLINE", True)
    hub = replace(cell, suspect=replace(cell.suspect, plm="someone/some-model"))
    with pytest.raises(PurifyError, match="'someone/some-model' is not in the hub's cache and the hub is switched off"):
        run([hub], store)
    assert not store.folder.names()


def test_a_record_knows_the_content_of_a_second_model_not_its_path_alone(cell, store, plm, tmp_path):
    merging = replace(cell, defense=DEFENSES.named("ModelMerging", other=str(tmp_path)))
    digests = []
    for seed in (1, 2):
        save_checkpoint(plm.classifier(4, seed=seed), plm.tokenizer, tmp_path)
        (record,) = run([merging], Store(tmp_path / f"store {seed}"))
        digests.append(record["inputs"][f"model {tmp_path}"])
    assert len(set(digests)) == 2
    assert digests[-1] == weights_digest(str(tmp_path))


def test_results_from_other_rows_are_said(cell, store, caplog):
    (record,) = run([cell], store)
    caplog.set_level(logging.WARNING)
    run([cell], store)
    assert not caplog.records
    store.put(cell, record | {"inputs": record["inputs"] | {"rows": "0" * 16}})
    run([cell], store)
    assert f"results on 'docstrings' in the store were made from other rows (digest {'0' * 16})" in caplog.text


def test_the_control_is_trained_without_the_poison(cell, store):
    control = replace(cell, suspect=replace(cell.suspect, control=True))
    one, other = (suspect_model(one, store).state_dict() for one in (cell, control))
    assert any((one[name] != other[name]).any() for name in one)
    assert suspect_model(control, store).config.id2label[1] == "networks"
    run([control, replace(control, suspect=replace(control.suspect, attack=Named("BadSent")))], store)
    assert len((store.folder / "suspects").names()) == 2


def test_a_store_by_url(cell, tmp_path):
    """Everything through another file system than the local one."""
    store = Store(f"memory://{tmp_path.name}")
    cells = variants(cell, DEFENSES_TRIED)
    run(cells, store)
    bench_module.bench.cache_clear()
    local = Store(tmp_path / "local")
    run(cells, local)
    assert table(store, tmp_path / "a.csv") == table(local, tmp_path / "b.csv")


def test_an_export_is_one_tidy_table(cell, store, tmp_path):
    cells = variants(cell, {"FineMixing": {"reserve": [0.5]}}, thresholds=[5])
    with pytest.raises(PurifyError, match="no record to export"):
        export_records(store, None, tmp_path / "x.csv")
    run(cells, store)
    assert export_records(store, None, tmp_path / "x.csv") == export_records(store, cells, tmp_path / "x.parquet") == 3
    csv, parquet = pd.read_csv(tmp_path / "x.csv"), pd.read_parquet(tmp_path / "x.parquet")
    assert list(csv["hash"]) == list(parquet["hash"]) == sorted(map(fingerprint, cells))
    assert list(csv.columns) == list(parquet.columns)
    assert csv.set_index("hash").loc[fingerprint(cells[1]), "reserve"] == 0.5
    assert (csv["acc"] == 100 * csv["acc_k"] / csv["acc_n"]).all()
    with pytest.raises(PurifyError, match=r"must end in \.csv or \.parquet"):
        export_records(store, None, tmp_path / "x.txt")
