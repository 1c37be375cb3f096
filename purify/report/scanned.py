"""What a scan or a cleaning found, as plain data, as a page, and as lines for a terminal: one source for all three."""

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from purify.case import files_digest
from purify.cleaning import CAUTIOUS, RESERVE, Cleaned, Judged
from purify.gamma import EDGES
from purify.gate import printable, shown, weight_files
from purify.metrics import Proportion
from purify.output import SCHEMA
from purify.plm import folder_of
from purify.probe import Flips
from purify.report.templates import render
from purify.scanning import ALONE, Scan
from purify.survey import TOP

_TESTS = {
    "farthest word": "drift of the farthest word, in units of the tenth",
    "one word": "share of predictions that one far word changes to one class, beyond its meaning",
    "several words": "share that several far words together change to one class, beyond their meaning",
}


def describe(scan: Scan, data: str, cleaned: Cleaned | None = None, *, options: Sequence[str] = ()) -> dict[str, Any]:
    """Return the content of ``report.json``.

    Every string that comes from the model or the user is shortened and without control characters.

    Args:
        scan: What was found.
        data: The name of the file with the clean examples.
        cleaned: What was done about it, if anything.
        options: Of the scan, that the recommended command needs, too.

    Returns:
        ``schema``, ``made`` (program and time), ``suspect``, ``clean_model``, ``clean_examples``, ``verdict`` (alarm,
        score, statistics with their limits), ``words`` and ``together`` (``changed`` of ``among`` predictions, and the
        share that is ``expected`` of their meaning), ``suspicious``, ``drift`` (distance, counts of
        dimensions, Gamma law, histogram of log₁₀ r, places), ``recommendation``, and after cleaning ``cleaning``.
        Shares lie in [0, 1]; every count k is of n.
    """
    case, found = scan.case, scan.survey
    reserve = RESERVE if scan.alarm else CAUTIOUS
    parts = ["purify", "clean", case.name, "--data", data, *options, "-o", "cleaned"]
    if case.found == "named by you":
        parts[3:3] = ["--clean", case.clean.name]
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "made": {"by": f"purify {version('purify-lm')}", "at": datetime.now(UTC).isoformat(timespec="seconds")},
        "suspect": {
            "name": shown(case.name),
            "sha256": case.digest,
            "architecture": shown(case.model.config.model_type),
            "adapter": case.adapter,
            "classes": [shown(label) for label in case.labels.values()],
        },
        "clean_model": {"name": shown(case.clean.name), "sha256": _digest(case.clean.name), "found": case.found},
        "clean_examples": {"file": shown(data), "accuracy": _counted(scan.accuracy)},
        "verdict": {
            "tested": scan.tested,
            "alarm": scan.alarm,
            "score": _short(scan.score),
            "honest_models": scan.law.models,
            "honest_source": scan.law.source,
            "false_alarms_at_most": _short(scan.law.false_alarms(len(scan.statistics))),
            "statistics": [
                {"name": name, "means": _TESTS[name], "value": _short(value), "limit": _short(scan.law.limits[name])}
                for name, value in scan.statistics.items()
            ],
        },
        "words": [
            {
                "word": shown(one.word.word),
                "times": _short(one.word.times),
                "abnormal": one.abnormal,
                **_asked(one.flips, case.labels),
            }
            for place, one in enumerate(scan.words)
            if place < ALONE or one.abnormal or one.flips.among
        ],
        "together": [{"words": count, **_asked(flips, case.labels)} for count, flips in scan.together.items()],
        "suspicious": [shown(word.word) for word in scan.suspicious],
        "drift": {
            "distance": _short(found.distance),
            "dimensions": found.dimensions,
            "moved": found.moved,
            "judged": found.judged,
            "unvouched": found.unvouched,
            "law": {key: _short(value) for key, value in vars(found.law).items()} if found.law else None,
            "automatic_reserve": _short(found.law.reserve) if found.law else None,
            "ks": _short(found.ks),
            "histogram": {"low": EDGES[0], "high": EDGES[1], "counts": list(found.histogram)},
            "top": TOP,
            "places": [
                {**vars(place), "share": _short(place.abnormal / max(1, place.moved))} for place in found.places
            ],
        },
        "recommendation": {"reserve": reserve, "command": printable(shlex.join(parts))},
    }
    return report | ({"cleaning": _cleaning(cleaned)} if cleaned else {})


def verdict(report: Mapping[str, Any]) -> str:
    """Say in two sentences what was found, and what it means."""
    found = report["verdict"]
    if not found["tested"]:
        why = "An adapter moves no word embedding" if report["suspect"]["adapter"] else "No word embedding moved"
        return (
            f"{why}, and the tests of a scan are about words: nothing could be tested. That is no proof of innocence."
        )
    honest = f"the highest of {found['honest_models']} honest models"
    if found["alarm"]:
        words = ", ".join(f"'{word}'" for word in report["suspicious"])
        named = f" Look at {words}." if words else ""
        return f"Abnormal: {found['score']:.2f} times {honest}, which score at most 1.{named}"
    return (
        f"Nothing abnormal was found: {found['score']:.2f} times {honest}. That is no proof of innocence: attacks that "
        "leave no mark on words, or that hide their drift, are not seen."
    )


def page(report: Mapping[str, Any]) -> str:
    """Return ``report.html``: one file that needs no other, and escapes every string of the report."""
    bars = _bars(report["drift"]["histogram"])
    return render("scanned.html.j2", report=report, verdict=verdict(report), bars=bars, **_map(report))


def card(report: Mapping[str, Any]) -> str:
    """Return the model card, ``README.md``, of a cleaned model."""
    done, suspect = report["cleaning"], report["suspect"]
    before, after = (done[when]["accuracy"]["percent"] for when in ("before", "after"))
    words = ", ".join(re.sub(r"[^\w#' -]", "?", word) for word in done["unlearned"]) or "none"
    seen = "held-out clean examples" if done["held_out"] else "the clean examples that it was fine-tuned on"
    return f"""---
library_name: transformers
tags: [purified]
---

# A purified classifier

Made by {report["made"]["by"]} on {report["made"]["at"]} from a suspicious checkpoint.

| | |
| --- | --- |
| suspect | sha256 {suspect["sha256"]}, {suspect["architecture"]} |
| clean model | sha256 {report["clean_model"]["sha256"]} |
| scan | score {report["verdict"]["score"]}, {"alarm" if report["verdict"]["alarm"] else "no alarm"} |
| reserve ratio ρ | {done["reserve"]} of the judged dimensions; {100 * done["kept"]:.0f} % of all are kept |
| words unlearned | {words} |
| fine-tuned on | {done["trained_on"]} clean examples, {done["training"]["epochs"]} epochs |
| accuracy on {done["judged_on"]} {seen} | {before:.1f} % before, {after:.1f} % after |

What was found and done is in `report.html`, and for programs in `report.json`. A cleaned model is less dangerous, not
proven harmless.
"""


def _cleaning(cleaned: Cleaned) -> dict[str, Any]:
    labels = cleaned.scan.case.labels

    def judged(one: Judged) -> dict[str, Any]:
        return {
            "accuracy": _counted(one.accuracy),
            "words": [{"word": shown(name), **_flips(flips, labels)} for name, flips in one.flips.items()],
            "triggered": _counted(one.triggered) if one.triggered else None,
        }

    return {
        "reserve": cleaned.reserve,
        "kept": _short(cleaned.kept),
        "unlearned": [shown(word) for word in cleaned.unlearned],
        "training": vars(cleaned.training),
        "trained_on": cleaned.trained_on,
        "judged_on": cleaned.judged_on,
        "held_out": cleaned.held_out,
        "before": judged(cleaned.before),
        "after": judged(cleaned.after),
    }


def _digest(clean: str) -> str:
    return files_digest(weight_files(folder_of(clean)))


def _counted(found: Proportion) -> dict[str, Any]:
    low, high = found.interval()
    return {"k": found.k, "n": found.n, "percent": _short(found.percent), "low": _short(low), "high": _short(high)}


def _flips(flips: Flips, labels: Mapping[int, str]) -> dict[str, Any]:
    return {
        "changed": flips.changed,
        "among": flips.among,
        "share": _short(flips.share),
        "to": shown(labels.get(flips.label, flips.label)),
    }


def _asked(flips: Flips, labels: Mapping[int, str]) -> dict[str, Any]:
    """With what the words' meaning explains (`purify.meaning`)."""
    return {**_flips(flips, labels), "expected": _short(flips.expected)}


def _short(value: float) -> float | None:
    """Four digits; what is not finite has no JSON."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _bars(histogram: Mapping[str, Any]) -> list[dict[str, float]]:
    """Rectangles of the histogram in a box of 100 × 100, from the lowest filled bin to the highest."""
    counts = histogram["counts"]
    most = max(counts, default=0) or 1
    width = 100 / max(1, len(counts))
    return [
        {"x": place * width, "y": 100 - 100 * count / most, "width": width * 0.9, "height": 100 * count / most}
        for place, count in enumerate(counts)
        if count
    ]


def _map(report: Mapping[str, Any]) -> dict[str, Any]:
    """Places as a table: rows are layers, columns kinds of parameters."""
    places = report["drift"]["places"]
    kinds = list(dict.fromkeys(place["kind"] for place in places))
    rows: dict[str, dict[str, float]] = {}
    for place in places:
        rows.setdefault(place["where"], {})[place["kind"]] = place["share"]
    return {"kinds": kinds, "rows": rows}
