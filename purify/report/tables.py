"""Tables from records: one tidy frame, the choice of ρ, and the summary over seeds."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from purify.grid.spec import NONE
from purify.grid.store import scores_from_json
from purify.metrics import mean_interval
from purify.selection import choose_reserve

SCORES = ("acc", "asr", "bacc", "validation")
CONTROL = "clean control"
AS_RECEIVED = "as received"


def as_frame(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row per record: task, seed, defense, reserve, and each score in percent with n and interval."""
    rows = []
    for record in records:
        spec = record["spec"]
        suspect = spec["suspect"]
        defense = spec.get("defense", {"name": NONE})
        parameters = dict(map(tuple, defense.get("parameters", [])))
        name = defense["name"]
        if name == NONE:
            name = CONTROL if suspect.get("control") else AS_RECEIVED
        row = {
            "task": suspect["task"],
            "attack": suspect["attack"]["name"],
            "seed": suspect.get("seed", 0),
            "defense": name,
            "reserve": parameters.get("reserve", np.nan),
            "seconds": record["seconds"],
        }
        scores = scores_from_json(record["scores"])
        for score in SCORES:
            proportion = getattr(scores, score)
            low, high = proportion.interval()
            row |= {score: proportion.percent, f"{score}_n": proportion.n, f"{score}_low": low, f"{score}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def at_drop(frame: pd.DataFrame, max_drop: float) -> pd.DataFrame:
    """Return one row per seed and defense, the reserve ratio chosen at ΔACC ≤ ``max_drop``.

    The choice looks at clean validation accuracy alone (`purify.selection.choose_reserve`), against that
    of the suspect as received. ``within`` says whether any ratio met the threshold. The suspect as received
    and the clean control stand in the result unchanged.
    """
    chosen = []
    for (_, seed, defense), group in frame.groupby(["task", "seed", "defense"], sort=False):
        if defense in (AS_RECEIVED, CONTROL):
            chosen.append(group.iloc[0].to_dict() | {"within": True})
            continue
        received = frame[(frame["seed"] == seed) & (frame["defense"] == AS_RECEIVED)]
        by_reserve = group.assign(reserve=group["reserve"].fillna(1.0))
        accuracy = dict(zip(by_reserve["reserve"], by_reserve["validation"], strict=True))
        choice = choose_reserve(accuracy, received["validation"].iloc[0], max_drop)
        row = group.iloc[int((by_reserve["reserve"] == choice.reserve).to_numpy().argmax())]
        chosen.append(row.to_dict() | {"within": choice.within})
    return pd.DataFrame(chosen)


def summary(frame: pd.DataFrame, drops: Iterable[float] = (2, 5)) -> pd.DataFrame:
    """Return mean and 95 % interval of ACC, ASR and BACC for each defense and ΔACC.

    With several seeds the interval is the t interval over seeds; with one it is the Wilson interval of
    the test rows. ``met`` counts the seeds whose threshold could be met.
    """
    rows = []
    for drop in drops:
        for defense, group in at_drop(frame, drop).groupby("defense", sort=False):
            row: dict[str, Any] = {
                "ΔACC": drop,
                "defense": defense,
                "seeds": len(group),
                "met": int(group["within"].sum()),
            }
            row["ρ"] = "/".join(f"{value:g}" for value in group["reserve"] if not np.isnan(value)) or "–"
            for score in ("acc", "asr", "bacc"):
                mean, low, high = mean_interval(list(group[score]))
                if len(group) == 1:
                    low, high = group[f"{score}_low"].iloc[0], group[f"{score}_high"].iloc[0]
                row |= {score: mean, f"{score}_low": low, f"{score}_high": high}
            rows.append(row)
    return pd.DataFrame(rows)
