"""What is refused before anything runs: cells that cannot run at all, and cells that cannot run here."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache

from purify.attacks import ATTACKS
from purify.defenses import DEFENSES
from purify.errors import PurifyError
from purify.grid.spec import NONE, Cell, Suspect
from purify.home import BUNDLED
from purify.measures import MEASURES
from purify.tasks import DATA_DIR, TASKS, rows_digest


def refuse(cells: Iterable[Cell], where: str) -> None:
    """Refuse cells that contradict themselves, on every machine.

    Raises:
        PurifyError: an unknown task, a target label or text that the task lacks, an empty split, or a defense
            without what it needs.
    """
    suspects: set[Suspect] = set()
    for cell in cells:
        if cell.suspect not in suspects:
            suspects.add(cell.suspect)
            _refuse_suspect(cell.suspect, where)
        if min(cell.validation, cell.test, cell.suspect.train) < 1:
            raise PurifyError(f"{where} asks for an empty split: train, validation and test must be at least 1")
        if cell.defense.name != NONE:
            _refuse_defense(cell, where)
        if cell.measure and "Fisher" in MEASURES.classes[cell.measure.name].needs and cell.clean_per_class < 1:
            raise PurifyError(
                f"{where} gives {cell.measure.name} no clean rows (clean_per_class is 0), and it needs some"
            )


def _refuse_defense(cell: Cell, where: str) -> None:
    """Refuse a defense without its clean rows, or that wants training data where an attack on weights has none."""
    needs = DEFENSES.classes[cell.defense.name].needs
    if cell.clean_per_class < 1 and "clean data" in needs:
        raise PurifyError(
            f"{where} gives {cell.defense.name} no clean rows (clean_per_class is {cell.clean_per_class}), "
            f"and it needs: {', '.join(needs)}"
        )
    if "training data" in needs and not cell.suspect.control and not cell.suspect.build_attack().only_data:
        raise PurifyError(
            f"{where} asks for {cell.defense.name}, which needs the training data, but {cell.suspect.attack.name} is "
            "an attack on the weights: there is no training data to give"
        )


def _refuse_suspect(suspect: Suspect, where: str) -> None:
    if suspect.task not in TASKS:
        raise PurifyError(f"{where} has the unknown task '{suspect.task}': choose one of {', '.join(TASKS)}")
    task = TASKS[suspect.task]
    attack = suspect.build_attack()
    if attack.target >= len(task.labels):
        raise PurifyError(
            f"the target label {attack.target} is out of range: task '{task.name}' has labels 0 to "
            f"{len(task.labels) - 1}"
        )
    if suspect.seed < 0:
        raise PurifyError(f"the seed must be 0 or more, not {suspect.seed}")
    if attack.side and not task.is_pair:
        raise PurifyError(f"side=1 puts the trigger into the second text, but task '{task.name}' has one text per row")


def unavailable(cells: Iterable[Cell]) -> list[str]:
    """Return one sentence for each thing that the cells need and this machine does not have."""
    tasks, models = {}, {}  # in their order, each once
    for cell in cells:
        suspect = cell.suspect
        tasks[suspect.task] = True
        models[suspect.plm, "clean model"] = True
        if not suspect.control and suspect.attack.name in ATTACKS.classes:
            models |= {(name, f"model of {suspect.attack.name}"): True for name in suspect.build_attack().models}
        if defense := cell.build_defense():
            models |= {(name, f"model of {cell.defense.name}"): True for name in defense.models}
    missing = [*map(_missing_rows, tasks), *(_missing_model(*model) for model in models)]
    return [sentence for sentence in missing if sentence]


def refuse_unavailable(cells: Iterable[Cell]) -> None:
    """Refuse cells that need what this machine does not have.

    Raises:
        PurifyError: names all of it.
    """
    if missing := unavailable(cells):
        raise PurifyError("; ".join(missing))


def other_rows(origins: Iterable[tuple[str, str]]) -> list[str]:
    """Return one sentence for each task whose stored results were made from other rows than those at hand.

    Args:
        origins: Pairs of a task and the digest of its rows. Tasks whose rows are not on this machine are left out.
    """
    found = []
    for task, digest in sorted(origins):
        here = TASKS[task].rows is not None or os.environ.get(DATA_DIR)
        if here and not _missing_rows(task) and rows_digest(task, os.environ.get(DATA_DIR)) != digest:
            found.append(
                f"results on '{task}' in the store were made from other rows (digest {digest}) than those at hand"
            )
    return found


def _missing_rows(name: str) -> str | None:
    task = TASKS[name]
    if task.rows is not None:
        return None
    folder = os.environ.get(DATA_DIR)
    if not folder:
        if constants.HF_HUB_OFFLINE and not (Path(constants.HF_HOME) / "datasets").is_dir():
            return f"the rows of '{name}' are not here and the hub is switched off: set {DATA_DIR}"
        return None
    absent = [path for path in _files(Path(folder) / name) if not path.is_file()]
    return f"{DATA_DIR} has no {absent[0].relative_to(folder)}" if absent else None


def _files(folder: Path) -> Iterator[Path]:
    yield from (folder / f"{split}.parquet" for split in ("train", "test"))


def _missing_model(name: str, what: str) -> str | None:
    if name == BUNDLED or (Path(name) / "config.json").is_file():
        return None
    if Path(name).is_absolute() or name.startswith((".", "~")) or Path(name).is_dir():
        return f"the {what} '{name}' is no folder with a config.json"
    try:
        cached = try_to_load_from_cache(name, "config.json")
    except ValueError:
        return f"the {what} '{name}' is neither a folder with a config.json nor a hub id"
    if constants.HF_HUB_OFFLINE and cached is None:
        return f"the {what} '{name}' is not in the hub's cache and the hub is switched off (HF_HUB_OFFLINE)"
    return None
