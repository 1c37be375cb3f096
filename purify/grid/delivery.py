"""A suspect as a folder of its own, with a card that says what was done to it."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from purify.errors import PurifyError
from purify.grid.bench import bench
from purify.grid.checkpoints import CARD, read_card
from purify.grid.environment import environment
from purify.grid.folder import Folder
from purify.grid.spec import Cell, canonical
from purify.grid.stages import attack
from purify.grid.store import Store, scores_to_json
from purify.tasks import TASKS


def deliver(cell: Cell, store: Store, output: Path) -> dict[str, Any]:
    """Train the suspect of a cell if the store lacks it, score it, and write it into a new folder.

    The folder holds the model (safetensors), its tokenizer, and ``card.json``: the attack with all its parameters, the
    trigger, the target label, the seed, ACC, ASR and BACC of these very weights with their counts, the specification,
    and where it was trained and where scored.

    Args:
        cell: Without a defense.
        store: Where suspects are kept.
        output: The new folder.

    Returns:
        The card.

    Raises:
        PurifyError: the folder is there already, it cannot be written, or training fails.
    """
    output = output.absolute()
    _refuse(output)
    made = attack(cell, store)
    assert made
    output.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".partial-", dir=output.parent))
    try:
        folder = scratch / output.name
        shutil.copytree(made, folder, ignore=shutil.ignore_patterns(CARD))
        card = _card(cell, store, made)
        (folder / CARD).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        folder.chmod(0o755)
        folder.replace(output)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return card


def _refuse(output: Path) -> None:
    """Refuse a folder that cannot be made, before anything is trained."""
    if os.path.lexists(output):
        raise PurifyError(f"{output} is there already: name a new folder for the suspect")
    above = next(folder for folder in output.parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise PurifyError(f"{output} cannot be made: {above} is no folder that can be written to")


def _card(cell: Cell, store: Store, made: Path) -> dict[str, Any]:
    suspect = cell.suspect
    attacker = suspect.build_attack()
    work = bench(cell.received, store)
    scores = work.scores(work.predictions(work.resources.suspect))
    trained = read_card(Folder(str(made)))
    return {
        "control": suspect.control,
        "attack": suspect.attack.name,
        "parameters": vars(attacker),
        "trigger": attacker.mark,
        "target": {"label": attacker.target, "name": TASKS[suspect.task].labels[attacker.target]},
        "task": suspect.task,
        "seed": suspect.seed,
        "ACC": str(scores.acc),
        "ASR": str(scores.asr),
        "BACC": str(scores.bacc),
        "scores": scores_to_json(scores),
        "inputs": trained["inputs"],
        "trained": trained["environment"],
        "scored": environment(cell.tuning.precision),
        "spec": canonical(suspect),
    }
