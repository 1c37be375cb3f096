"""The claims ledger: what the paper claims, what would decide it, and what the records say.

``book/claims.yml`` lists the claims; nothing in it is a result. A verdict is computed from records alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml

from purify.defenses import DEFENSES
from purify.errors import PurifyError
from purify.registry import at_least_zero, typed
from purify.report.protocol import DROPS, Difference, at_drops, complete, difference, of_draws, signed
from purify.report.theory import identification

Outcome = Literal["replicates", "does not replicate", "not enough runs"]

Statistic = Literal["lowest ASR", "AUROC", "KS distance"]
"""What decides a claim, see `verdict`: ASR against each rival defense; AUROC of the paper's indicator for the
dimensions that poison moved, against that of other indicators; or how far r of honest models is from its law."""

LOWEST: Statistic = "lowest ASR"

INDICATOR = "δ²/Ĥ"
TRUTH = "pair"
"""The ground truth of "AUROC", see `purify.measures.Dimensions`."""

Records = Sequence[Mapping[str, Any]]

_DRAW = ["task", "seed"]


@dataclass(frozen=True)
class Rule:
    """How claims are decided; one for the whole ledger.

    Attributes:
        method: The defense that the claims are about.
        rivals: The defenses that it must beat, each of them.
        margin: Points of ASR: an advantage of less would not matter.
        draws: The least number of draws (`purify.report.protocol.DRAW`), two or more.
    """

    method: str
    rivals: tuple[str, ...]
    margin: float
    draws: int

    def __post_init__(self) -> None:
        """Refuse what could decide nothing."""
        at_least_zero("margin", self.margin)
        if self.draws < 2:
            raise PurifyError(f"a rule needs 2 draws or more, not {self.draws}")
        if not self.rivals:
            raise PurifyError("a rule needs rivals")
        for name in (self.method, *self.rivals):
            if name.split(",")[0] not in DEFENSES.classes:
                raise PurifyError(f"the rule names the unknown defense '{name}'")


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes:
        id: Short name.
        says: The claim in our words.
        where: Where the paper makes it.
        statistic: What decides it.
        drops: Values of ΔACC that it is about; ASR is their mean.
        clean: Sizes of the clean set, in rows; empty for all.
        kind: "backdoor", "bias", or "" for both.
        form: "single sentence", "sentence pair", or "" for both.
        indicators: For "AUROC": the rivals of the paper's indicator.
        limit: For "KS distance": a law that fits has less.
    """

    id: str
    says: str
    where: str
    statistic: Statistic = LOWEST
    drops: tuple[float, ...] = DROPS
    clean: tuple[int, ...] = ()
    kind: Literal["", "backdoor", "bias"] = ""
    form: Literal["", "single sentence", "sentence pair"] = ""
    indicators: tuple[str, ...] = ()
    limit: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a claim about nothing."""
        if not self.drops:
            raise PurifyError(f"the claim '{self.id}' has no ΔACC")
        if self.statistic == "AUROC" and not self.indicators:
            raise PurifyError(f"the claim '{self.id}' has no indicators to compare with")
        if self.statistic == "KS distance" and not 0 < self.limit < 1:
            raise PurifyError(f"the claim '{self.id}' needs a limit between 0 and 1, not {self.limit}")

    def about(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of `purify.report.protocol.tables_frame` that the claim is about."""
        keep = pd.Series(True, index=frame.index)
        if self.clean:
            keep &= frame["clean"].isin(self.clean)
        for column in ("kind", "form"):
            if wanted := getattr(self, column):
                keep &= frame[column] == wanted
        return frame[keep]


@dataclass(frozen=True)
class Ledger:
    """The content of ``claims.yml``."""

    rule: Rule
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class Verdict:
    """What the records say of a claim.

    Attributes:
        claim: Which.
        outcome: The verdict.
        differences: What was compared -> difference in points, negative if it favours the claim; empty if there is
            no record.
    """

    claim: Claim
    outcome: Outcome
    differences: Mapping[str, Difference] = field(default_factory=dict)


def load_ledger(path: Path) -> Ledger:
    """Read a ledger.

    Raises:
        PurifyError: the file cannot be read, has another form, an unknown or missing key, or an id twice.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        rule = Rule(**typed(Rule, content["rule"], f"'rule' of {path}"))
        claims = tuple(Claim(**typed(Claim, claim, f"a claim of {path}")) for claim in content["claims"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise PurifyError(
            f"cannot read the ledger {path}: it needs a rule and claims, each whole ({reason})"
        ) from error
    ids = [claim.id for claim in claims]
    if twice := {name for name in ids if ids.count(name) > 1}:
        raise PurifyError(f"{path} has the claim '{min(twice)}' twice")
    return Ledger(rule, claims)


def verdict(claim: Claim, rule: Rule, frame: pd.DataFrame, dimensions: Records = ()) -> Verdict:
    """Decide a claim from records.

    What counts are differences in points, negative if they favour the claim: ASR of the method minus that of each
    rival, averaged over the claim's ΔACC, attacks and clean sets within a draw; AUROC of each other indicator minus
    that of the paper's, averaged over attacks within a draw; the Kolmogorov–Smirnov distance of honest models from
    their law minus the limit. Means have 95 % t intervals over draws. The claim

    - *replicates* if every interval lies below 0;
    - *does not replicate* if some interval reaches 0 or more and does not reach ``margin`` below it: then an advantage
      that matters is ruled out;
    - else there are *not enough runs*, as with fewer draws than the rule asks for.

    Args:
        claim: The claim.
        rule: How it is decided.
        frame: Of `purify.report.protocol.tables_frame`; suspects that lack one of the methods are left out.
        dimensions: Records of `purify.measures.Dimensions`.
    """
    match claim.statistic:
        case "AUROC":
            found = _aurocs(claim, dimensions)
        case "KS distance":
            found = _distances(claim, dimensions)
        case _:
            rows = complete(claim.about(frame), [rule.method, *rule.rivals])
            chosen = None if rows.empty else at_drops(rows, claim.drops)
            found = {} if chosen is None else {rival: difference(chosen, rule.method, rival) for rival in rule.rivals}
    return Verdict(claim, _outcome(found.values(), rule) if found else "not enough runs", found)


def _aurocs(claim: Claim, dimensions: Records) -> dict[str, Difference]:
    if not dimensions:
        return {}
    frame = identification(dimensions)
    table = frame[frame["truth"] == TRUTH].pivot_table(index=[*_DRAW, "attack"], columns="indicator", values="AUROC")
    return {f"AUROC of {name}": of_draws(100 * (table[name] - table[INDICATOR]), _DRAW) for name in claim.indicators}


def _distances(claim: Claim, dimensions: Records) -> dict[str, Difference]:
    if not dimensions:
        return {}
    rows = []
    for record in dimensions:
        suspect = record["spec"]["suspect"]
        distance = record["measured"]["law"]["control"]["fits"]["one Gamma"]["ks"]
        rows.append({"task": suspect["task"], "seed": suspect.get("seed", 0), "distance": distance})
    distances = pd.DataFrame(rows).set_index(_DRAW)["distance"]
    return {f"KS distance less {claim.limit:g}": of_draws(100 * (distances - claim.limit), _DRAW)}


def _outcome(found: Iterable[Difference], rule: Rule) -> Outcome:
    found = list(found)
    if min(difference.n for difference in found) < rule.draws:
        return "not enough runs"
    if all(difference.high < 0 for difference in found):
        return "replicates"
    ruled_out = any(difference.high >= 0 and difference.low > -rule.margin for difference in found)
    return "does not replicate" if ruled_out else "not enough runs"


def verdicts(ledger: Ledger, frame: pd.DataFrame, dimensions: Records = ()) -> list[Verdict]:
    """Decide all claims of a ledger; see `verdict`."""
    return [verdict(claim, ledger.rule, frame, dimensions) for claim in ledger.claims]


def ledger_table(found: Iterable[Verdict]) -> list[dict[str, str]]:
    """Return claims and verdicts as rows of text, for `purify.report.tables.text_table`."""
    return [
        {"claim": one.claim.id, "the paper": one.claim.says, "where": one.claim.where, "verdict": one.outcome}
        for one in found
    ]


def rivals_table(found: Iterable[Verdict], statistic: Statistic = LOWEST) -> pd.DataFrame:
    """Return the differences behind each verdict for reading, one row per claim of this statistic that has records.

    *draws* counts those behind each difference.
    """
    rows = {
        one.claim.id: {
            **{rival: signed(value) for rival, value in one.differences.items()},
            "draws": str(min(value.n for value in one.differences.values())),
        }
        for one in found
        if one.differences and one.claim.statistic == statistic
    }
    return pd.DataFrame(rows).T
