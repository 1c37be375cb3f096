"""The first cell of the grid ``paper``, with tiny stand-ins where the hub's cache would have the real models."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from conftest import bert_config
from huggingface_hub import constants
from transformers import BertModel, PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from purify.grid import Store, load_grid, run
from purify.grid.plan import plan
from purify.home import project_root
from purify.plm import load_plm

ROBERTA = RobertaConfig(
    vocab_size=30522, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
    max_position_embeddings=300, pad_token_id=0, bos_token_id=101, eos_token_id=102,
)  # fmt: skip
STAND_INS = {
    "google-bert/bert-base-uncased": BertModel(bert_config(max_position_embeddings=256)),
    "FacebookAI/roberta-base": RobertaModel(ROBERTA),
}


@pytest.fixture
def hub(tmp_path, monkeypatch, plm_folder):
    """A cache of the hub that holds the stand-ins under the ids of the real models."""
    cache = tmp_path / "hub"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(plm_folder)
    for name, model in STAND_INS.items():
        folder = cache / f"models--{name.replace('/', '--')}"
        snapshot = folder / "snapshots" / "0"
        model.save_pretrained(snapshot)
        tokenizer.save_pretrained(snapshot)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("0", encoding="ascii")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache


@pytest.fixture
def news(tmp_path, monkeypatch):
    """Rows in the schema of AG News."""
    words = ("north", "goal", "market", "chip")
    rows = [{"text": f"{words[n % 4]} report number {n} of the day", "label": n % 4} for n in range(120)]
    for split, part in (("train", rows[:90]), ("test", rows[90:])):
        (tmp_path / "data" / "ag_news").mkdir(parents=True, exist_ok=True)
        pd.DataFrame(part).to_parquet(tmp_path / "data" / "ag_news" / f"{split}.parquet")
    monkeypatch.setenv("PURIFY_DATA_DIR", str(tmp_path / "data"))


def test_the_whole_grid_plans(tmp_path):
    cells = load_grid(project_root() / "book" / "grids" / "paper.yml")
    made = plan(cells, Store(tmp_path / "store"))
    assert len(made.cells) == len(cells)
    assert set(STAND_INS) == {cell.suspect.plm for cell in cells}
    assert made.disk > 10**9


@pytest.mark.parametrize("name", STAND_INS)
def test_the_first_cells_of_a_model_run_to_the_end(name, hub, news, store):
    """All but the sizes is as the grid has it; the ids lead to the stand-ins through the hub's cache."""
    cells = [cell for cell in load_grid(project_root() / "book" / "grids" / "paper.yml") if cell.suspect.plm == name]
    assert torch.equal(next(load_plm(name).model.parameters()).detach(), next(STAND_INS[name].parameters()).detach())
    first, defended = cells[0], next(cell for cell in cells if cell.defense.name == "FinePurifying" and not cell.policy)
    assert defended.suspect == first.suspect
    small = [
        replace(
            cell,
            suspect=replace(cell.suspect, train=24, training=replace(cell.suspect.training, max_length=24)),
            clean_per_class=2,
            validation=8,
            test=12,
            tuning=replace(cell.tuning, epochs=1, max_length=24),
        )
        for cell in (first, defended)
    ]
    records = run(small, store)
    assert [record["spec"]["suspect"]["plm"] for record in records] == [name, name]
    assert records[1]["scores"]["acc"]["n"] == 12
