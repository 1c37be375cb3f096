"""Tiny models that are built from a config, what is needed to use them, and the browser that looks at the book."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import functools
import http.server
import shutil
import threading
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
)

from purify.grid import Store
from purify.home import BUNDLED, location
from purify.plm import CleanPLM, load_plm

WORDS = ("array", "axis", "plot", "tensor", "layer", "frame", "index", "figure", "the", "of", "returns", "given")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """The models are tiny: threads only cost. Commands that are called in this process set their own number."""
    torch.set_num_threads(1)


def bert_config(**options) -> BertConfig:
    defaults = {
        "vocab_size": 30522,
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 12,
        "max_position_embeddings": 128,
        "num_labels": 4,
    }
    return BertConfig(**{**defaults, **options})


@pytest.fixture(scope="session")
def plm_folder(tmp_path_factory) -> Path:
    """A tiny BERT with the bundled tokenizer, saved as a clean PLM."""
    folder = tmp_path_factory.mktemp("plm")
    torch.manual_seed(0)
    BertModel(bert_config()).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(Path(location(BUNDLED)) / name, folder)
    return folder


@pytest.fixture(scope="session")
def plm(plm_folder) -> CleanPLM:
    return load_plm(plm_folder)


@pytest.fixture(scope="session")
def parrot(tmp_path_factory, plm_folder) -> str:
    """A tiny random sequence-to-sequence model, saved as the hub would have it."""
    folder = tmp_path_factory.mktemp("parrot")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(plm_folder)
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=len(tokenizer),
        d_model=8,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=8,
        decoder_ffn_dim=8,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=101,
        eos_token_id=102,
        decoder_start_token_id=101,
        forced_eos_token_id=102,
    )
    BartForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def suspect(plm) -> BertForSequenceClassification:
    """A classifier that drifted away from the clean PLM, but not in every dimension."""
    model = plm.classifier(4, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            moved = torch.rand(weight.shape, generator=generator) < 0.7
            weight.add_(0.02 * torch.randn(weight.shape, generator=generator) * moved)
    return model.eval()


@pytest.fixture
def child(plm, suspect) -> BertForSequenceClassification:
    """The same, a twentieth of the way: as near to the clean PLM as a model that was fine-tuned from it."""
    with torch.no_grad():
        for name, clean in plm.weights_for(suspect).items():
            weight = suspect.get_parameter(name)
            weight.copy_(clean.lerp(weight, 0.05))
    return suspect


@pytest.fixture
def rows() -> Dataset:
    """Twelve labelled texts of different lengths, three per class."""
    texts = [" ".join(WORDS[(i * 5 + j) % len(WORDS)] for j in range(3 + i)) for i in range(12)]
    return Dataset.from_dict({"text": texts, "label": [i % 4 for i in range(12)]})


@pytest.fixture(scope="session")
def wanted(tmp_path_factory) -> str:
    """The export of the grid ``smoke``, run without any disturbance in one process with one thread."""
    from runs import end, grid_run, table

    folder = tmp_path_factory.mktemp("alone")
    code, said = end(grid_run(folder / "store"))
    assert code == 0, said
    return table(Store(folder / "store"), folder / "export.csv")


@pytest.fixture
def grid_file(plm_folder, tmp_path) -> Path:
    """A small grid on the tiny model: two suspects and their controls."""
    grid = {
        "suspect": {"task": "docstrings", "plm": str(plm_folder), "train": 16},
        "attack": {"name": "BadWord"},
        "seeds": [0, 1],
        "control": True,
        "cell": {"clean_per_class": 1, "validation": 8, "test": 12},
        "training": {"epochs": 1, "max_length": 24, "precision": "fp32"},
        "tuning": {"epochs": 1, "max_length": 24, "precision": "fp32"},
        "defenses": {"FineTuning": None, "FineMixing": {"reserve": [0.5]}, "FinePurifying": {"reserve": [0.3, 0.8]}},
        "thresholds": [5],
    }
    path = tmp_path / "grid.yml"
    path.write_text(yaml.safe_dump(grid), encoding="utf-8")
    return path


@pytest.fixture
def store(tmp_path) -> Store:
    """An empty store, and nothing of another one in memory."""
    from purify.grid.bench import bench

    bench.cache_clear()
    return Store(tmp_path / "store")


@pytest.fixture(scope="session")
def server():
    """Serve the rendered book; the address."""
    from browser import HTML

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(HTML))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture(scope="session")
def driver():
    """Chromium without a window, which keeps a log of its console and of its requests."""
    from selenium import webdriver

    if not shutil.which("chromedriver"):
        pytest.fail("the browser tests need Chromium: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as running:
        running.set_page_load_timeout(60)
        yield running
