import os
import re
from pathlib import Path

import torch
from conftest import bert_config
from oracles import token_batch
from transformers import BertForSequenceClassification

from purify.grid import Store, load_grid, records_of, select
from purify.plm import load_plm, load_suspect, save_checkpoint
from purify.report.tables import as_frame, summary

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.S)


def test_the_example_runs_as_it_stands(tmp_path, monkeypatch, capsys, request):
    """On the real bundled model and corpus; the suspect is a classifier that was not trained."""
    example = EXAMPLES[0]
    assert len(example.strip().splitlines()) <= 12
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count())
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    plm = load_plm()
    save_checkpoint(plm.classifier(4, seed=0), plm.tokenizer, Path("suspect"))
    exec(compile(example, "README.md", "exec"), {})
    assert "ρ = 0.6" in capsys.readouterr().out
    load_suspect("cleaned")


def test_the_calls_of_the_fisher_run_as_they_stand():
    torch.manual_seed(0)
    model = BertForSequenceClassification(bert_config(vocab_size=30)).eval()
    weights = {name: torch.zeros_like(p) for name, p in model.named_parameters() if name.endswith("bias")}
    names = {"model": model, "batches": [token_batch([3, 2], length=3)], "weights": weights}
    (example,) = EXAMPLES[1:]
    exec(compile(example, "README.md", "exec"), names)
    assert names["fisher"].keys() == dict(model.named_parameters()).keys()


def test_paths_and_targets_that_the_readme_names_exist():
    for path in re.findall(r"`((?:book|notebooks|purify|tests|results|\.ci)/[^`* ]*)`", README):
        assert (ROOT / path).exists(), path
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([a-z]+)", README):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_the_numbers_on_ag_news_are_those_of_the_records():
    companion = load_grid(ROOT / "book" / "grids" / "companion.yml")
    cells = select(companion, ["task=ag_news", "attack=BadWord", "clean_per_class=16"])
    records = records_of(cells, Store(ROOT / ".purify", (ROOT / "results",)))
    frame = summary(as_frame(records)).set_index(["ΔACC", "defense"])
    rows = re.findall(r"^\| (\d) \| ([\w -]+) \| ([\d.]+) \| ([\d.]+) \|$", README, re.M)
    assert len(rows) == 12
    for drop, defense, acc, asr in rows:
        name = defense.replace("Fine-p", "FineP").replace("Fine-m", "FineM").replace("Fine-t", "FineT")
        stored = frame.loc[(int(drop), name)]
        assert (f"{stored['acc']:.1f}", f"{stored['asr']:.1f}") == (acc, asr), defense
