"""What a stranger's checkpoint may not do: every refusal, and mutated files by the thousand."""

import json
import os
import shutil
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from purify import PurifyError
from purify.gate import INDEX, WEIGHTS, inspect

CONFIG = {
    "model_type": "bert",
    "hidden_size": 4,
    "vocab_size": 6,
    "num_hidden_layers": 1,
    "id2label": {"0": "a", "1": "b"},
}
TENSORS = {"bert.embeddings.word": np.zeros((6, 4), np.float32), "classifier.weight": np.ones((2, 4), np.float16)}


@pytest.fixture
def folder(tmp_path):
    return made(tmp_path / "model")


def made(folder, tensors=TENSORS, **config):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    save_file(tensors, folder / WEIGHTS)
    return folder


def sharded(folder, places):
    (folder / WEIGHTS).rename(folder / "a.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))
    return folder


def with_header(folder, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data)
    return folder


def test_a_sound_checkpoint_is_described_without_reading_a_tensor(folder):
    found = inspect(folder)
    assert {name: (stored.dtype, stored.shape) for name, stored in found.items()} == {
        "bert.embeddings.word": ("F32", (6, 4)),
        "classifier.weight": ("F16", (2, 4)),
    }
    assert sum(stored.numel for stored in found.values()) == 32


def test_shards_and_adapters(folder):
    places = dict.fromkeys(TENSORS, "a.safetensors")
    assert inspect(sharded(folder, places)).keys() == TENSORS.keys()
    (folder / INDEX).unlink()
    (folder / "a.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "config.json").rename(folder / "adapter_config.json")
    assert inspect(folder).keys() == TENSORS.keys()


def test_the_hubs_own_links_are_followed_and_no_others(tmp_path):
    snapshot = tmp_path / "models--x" / "snapshots" / "abc"
    blobs = tmp_path / "models--x" / "blobs"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    source = made(tmp_path / "model")
    for name in ("config.json", WEIGHTS):
        shutil.move(source / name, blobs / name)
        (snapshot / name).symlink_to(os.path.relpath(blobs / name, snapshot))
    assert inspect(snapshot).keys() == TENSORS.keys()
    secret = tmp_path / "secret.safetensors"
    shutil.copy(blobs / WEIGHTS, secret)
    (snapshot / WEIGHTS).unlink()
    (snapshot / WEIGHTS).symlink_to(secret)
    with pytest.raises(PurifyError, match="a link that leads out of the checkpoint"):
        inspect(snapshot)


@pytest.mark.parametrize(
    "name",
    ["../a.safetensors", "/etc/passwd", "sub/a.safetensors", "", "..", "a\\b", "a.bin", "b.safetensors", "é" * 150],
)
def test_an_index_leads_nowhere_else(folder, name):
    with pytest.raises(PurifyError, match=r"leads out of the checkpoint|which is no safetensors file there"):
        inspect(sharded(folder, dict.fromkeys(TENSORS, name)))


@pytest.mark.parametrize(
    "index", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}', '{"weight_map": {}}', "{", "\xff"]
)
def test_an_index_that_is_none(folder, index):
    sharded(folder, {})
    (folder / INDEX).write_text(index, encoding="latin-1")
    with pytest.raises(PurifyError, match="the checkpoint is damaged"):
        inspect(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "last.ckpt"])
def test_pickles_are_refused_with_the_way_out(folder, name):
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(b"\x80\x04.")
    with pytest.raises(PurifyError, match=r"can run code when it is opened.*safe_serialization=True"):
        inspect(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_its_own_is_refused(folder, name):
    content = CONFIG if name == "config.json" else {}
    (folder / name).write_text(json.dumps({**content, "auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(PurifyError, match="asks for code of its own"):
        inspect(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 10**7},
        {"num_hidden_layers": "12"},
        {"num_hidden_layers": True},
        {"vocab_size": 10**9},
        {"vocab_size": 10**7},
        {"max_position_embeddings": 10**7},
        {"hidden_size": -1},
        {"hidden_size": 4096},
        {"num_hidden_layers": 900, "hidden_size": 128},
        {"intermediate_size": 10**7},
        {"num_labels": 10**7},
        {"id2label": {str(k): "x" for k in range(10_000)}, "hidden_size": 512},
        {"id2label": [1]},
        {"pad_token_id": 10**30},
        {"layer_norm_eps": float("inf")},
    ],
)
def test_sizes_that_the_file_cannot_back_are_refused(tmp_path, change):
    with pytest.raises(PurifyError, match="no real model has that"):
        inspect(made(tmp_path / "model", **change))


def test_files_that_are_too_large_or_no_json(folder):
    (folder / "config.json").write_text("[" * 200_000)
    with pytest.raises(PurifyError, match=r"config\.json is no JSON"):
        inspect(folder)
    (folder / "config.json").write_text('"text"')
    with pytest.raises(PurifyError, match="holds no JSON object"):
        inspect(folder)
    (folder / "config.json").write_text(" " * (1 << 20) + "{}")
    with pytest.raises(PurifyError, match="larger than 1 MiB"):
        inspect(folder)
    (folder / "config.json").unlink()
    with pytest.raises(PurifyError, match=r"no readable config\.json"):
        inspect(folder)
    with pytest.raises(PurifyError, match="there is no folder"):
        inspect(folder / "nothing")


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234", "has 4 bytes of data"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234", "the bytes that its shape asks for"),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}, b"1234", "the bytes that its shape asks for"),
        ({"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}, b"1234", "the bytes that its shape asks for"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": ["0", 4]}}, b"1234", "the bytes that its shape asks for"),
        ({"a": {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}}, b"1234", "does not describe 'a' soundly"),
        ({"a": {"dtype": "U8", "shape": [4]}}, b"1234", "does not describe 'a' soundly"),
        ({"a": [1]}, b"1234", "does not describe 'a' soundly"),
        ({"a\x1b[2J": 3}, b"", r"does not describe 'a\?\[2J' soundly"),
        (
            {
                "a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
                "b": {"dtype": "U8", "shape": [4], "data_offsets": [2, 6]},
            },
            b"123456",
            "overlap or leave holes",
        ),
        ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [2, 4]}}, b"1234", "overlap or leave holes"),
        ([], b"", "no JSON object"),
        (b"{", b"", "no JSON"),
        (b"\xff\xfe", b"", "no JSON"),
        (b"[" * 5000, b"", "no JSON"),
    ],
)
def test_malformed_headers(folder, header, data, message):
    with pytest.raises(PurifyError, match=message):
        inspect(with_header(folder, header, data))


@pytest.mark.parametrize("content", [b"", b"123", struct.pack("<Q", 1 << 40) + b"{}", struct.pack("<Q", 3) + b"{}"])
def test_headers_that_are_cut_off(folder, content):
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(PurifyError, match="no sound safetensors file"):
        inspect(folder)


mutations = st.lists(
    st.tuples(
        st.floats(0, 1), st.sampled_from(["flip", "drop", "double", "insert"]), st.binary(min_size=1, max_size=8)
    ),
    min_size=1,
    max_size=4,
)


def mutated(content, changes):
    """Flip, drop, double or insert a few bytes."""
    for place, how, new in changes:
        at = int(place * len(content))
        match how:
            case "flip":
                content = content[:at] + new + content[at + len(new) :]
            case "drop":
                content = content[:at] + content[at + len(new) :]
            case "double":
                content = content[:at] + content[at : at + 16] + content[at:]
            case "insert":
                content = content[:at] + new + content[at:]
    return content


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", INDEX])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=mutations)
def test_mutated_files_are_read_or_refused_with_a_sentence(tmp_path_factory, name, changes):
    folder = made(tmp_path_factory.mktemp("fuzz") / "model")
    if name == INDEX:
        sharded(folder, dict.fromkeys(TENSORS, "a.safetensors"))
    content = (folder / name).read_bytes()
    head = 8 + struct.unpack("<Q", content[:8])[0] if name == WEIGHTS else len(content)
    (folder / name).write_bytes(mutated(content[:head], changes) + content[head:])
    sentence = ""
    try:
        inspect(folder)
    except PurifyError as error:
        sentence = str(error)
    assert len(sentence) < 1000
    assert "\n" not in sentence
    shutil.rmtree(folder.parent)
