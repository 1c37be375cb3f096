"""A suspect as a folder of its own, with a card that says what was done to it."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from purify.errors import PurifyError
from purify.grid.checkpoints import CARD
from purify.grid.runner import run
from purify.grid.spec import Cell, canonical
from purify.grid.stages import attack
from purify.grid.store import Record, Store, scores_from_json
from purify.tasks import TASKS


def deliver(cell: Cell, store: Store, output: Path) -> dict[str, Any]:
    """Train and score the suspect of a cell as far as the store lacks it, and write it into a new folder.

    The folder holds the model (safetensors), its tokenizer, and ``card.json``: the attack with all its parameters, the
    trigger, the target label, the seed, ACC, ASR and BACC with their counts, the specification, and where it was made.

    Args:
        cell: Without a defense.
        store: Where suspects are kept.
        output: The new folder.

    Returns:
        The card.

    Raises:
        PurifyError: the folder is there already and not empty, or training fails.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise PurifyError(f"{output} is there already: name a new folder for the suspect")
    record = run([cell.received], store)[0]
    made = attack(cell, store)
    assert made
    card = _card(cell, record)
    output.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".partial-", dir=output.parent))
    try:
        folder = scratch / output.name
        shutil.copytree(made, folder, ignore=shutil.ignore_patterns(CARD))
        (folder / CARD).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        folder.chmod(0o755)
        folder.replace(output)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return card


def _card(cell: Cell, record: Record) -> dict[str, Any]:
    suspect = cell.suspect
    made = suspect.build_attack()
    scores = scores_from_json(record["scores"])
    return {
        "control": suspect.control,
        "attack": suspect.attack.name,
        "parameters": vars(made),
        "trigger": made.mark,
        "target": {"label": made.target, "name": TASKS[suspect.task].labels[made.target]},
        "task": suspect.task,
        "seed": suspect.seed,
        "ACC": str(scores.acc),
        "ASR": str(scores.asr),
        "BACC": str(scores.bacc),
        **{key: record[key] for key in ("scores", "seeds", "inputs", "environment")},
        "spec": canonical(suspect),
    }
