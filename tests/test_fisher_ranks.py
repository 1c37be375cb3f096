"""Data parallelism: real processes that talk through gloo."""

import pytest
import torch
from conftest import bert_config
from oracles import assert_same, token_batch
from torch import distributed, multiprocessing
from transformers import BertForSequenceClassification

from purify import PurifyError, fisher_diagonal
from purify.fisher import share

DATA = [token_batch([4, 2, 3][: 1 + i % 3], length=4, seed=i, labels=4) for i in range(5)]


def model():
    torch.manual_seed(0)
    return BertForSequenceClassification(bert_config(vocab_size=30)).double().eval()


def clean():
    return {name: torch.zeros_like(p) for name, p in model().named_parameters() if name.endswith("bias")}


def work(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        parallel = torch.nn.parallel.DistributedDataParallel(model())
        bad = [{**DATA[0], "labels": torch.full_like(DATA[0]["labels"], 9 * rank)}]  # of the second process
        with pytest.raises(PurifyError) as error:
            fisher_diagonal(model(), bad, across_ranks=True)
        found = {
            "whole": fisher_diagonal(parallel, share(DATA), across_ranks=True),
            "points": fisher_diagonal(model(), share(DATA), at=2, clean=clean(), across_ranks=True),
            "idle": fisher_diagonal(model(), share(DATA[:1]), across_ranks=True),  # the second has no batch
            "error": str(error.value),
        }
        torch.save(found, folder / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(work, (folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_two_processes_equal_one(ranks):
    expected = {
        "whole": fisher_diagonal(model(), DATA),
        "points": fisher_diagonal(model(), share(DATA), at=2, clean=clean()),
        "idle": fisher_diagonal(model(), DATA[:1]),
    }
    for what, value in expected.items():
        assert_same(ranks[0][what], value)
        assert all(torch.equal(ranks[0][what][name], ranks[1][what][name]) for name in value)


def test_a_failure_reaches_all(ranks):
    assert "another process" in ranks[0]["error"]
    assert "labels must lie" in ranks[1]["error"]
