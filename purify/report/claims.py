"""The claims ledger: what the paper claims, what would decide it, and what the records say.

``book/claims.yml`` lists the claims; nothing in it is a result. A verdict is computed from records alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pandas as pd
import yaml

from purify.defenses import DEFENSES
from purify.errors import PurifyError
from purify.registry import at_least_zero, typed
from purify.report.protocol import DROPS, Difference, at_drops, complete, difference, signed

Outcome = Literal["replicates", "does not replicate", "not enough runs"]

Statistic = Literal["lowest ASR", "not measured"]
"""What decides a claim. "lowest ASR": paired differences of ASR against each rival, see `verdict`. "not measured": no
record holds what would decide it; the claim stands in the ledger all the same."""

LOWEST: Statistic = "lowest ASR"


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
        missing: For "not measured": what would have to be run.
    """

    id: str
    says: str
    where: str
    statistic: Statistic = LOWEST
    drops: tuple[float, ...] = DROPS
    clean: tuple[int, ...] = ()
    kind: Literal["", "backdoor", "bias"] = ""
    form: Literal["", "single sentence", "sentence pair"] = ""
    missing: str = ""

    def __post_init__(self) -> None:
        """Refuse a claim about nothing."""
        if not self.drops:
            raise PurifyError(f"the claim '{self.id}' has no ΔACC")

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
        differences: Rival -> difference in ASR; empty if there is no common suspect.
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


def verdict(claim: Claim, rule: Rule, frame: pd.DataFrame) -> Verdict:
    """Decide a claim from records.

    Against each rival, the difference in ASR is averaged over the claim's ΔACC, attacks and clean sets within a draw;
    its mean has a 95 % t interval over draws. The claim

    - *replicates* if every interval lies below 0;
    - *does not replicate* if some interval reaches 0 or more and does not reach ``margin`` below it: then an advantage
      over that rival that matters is ruled out;
    - else there are *not enough runs*, as with fewer draws than the rule asks for.

    Args:
        claim: The claim.
        rule: How it is decided.
        frame: Of `purify.report.protocol.tables_frame`; suspects that lack one of the methods are left out.
    """
    if claim.statistic != LOWEST:
        return Verdict(claim, "not enough runs")
    rows = complete(claim.about(frame), [rule.method, *rule.rivals])
    if rows.empty:
        return Verdict(claim, "not enough runs")
    chosen = at_drops(rows, claim.drops)
    found = {rival: difference(chosen, rule.method, rival) for rival in rule.rivals}
    return Verdict(claim, _outcome(found.values(), rule), found)


def _outcome(found: Iterable[Difference], rule: Rule) -> Outcome:
    found = list(found)
    if min(difference.n for difference in found) < rule.draws:
        return "not enough runs"
    if all(difference.high < 0 for difference in found):
        return "replicates"
    ruled_out = any(difference.high >= 0 and difference.low > -rule.margin for difference in found)
    return "does not replicate" if ruled_out else "not enough runs"


def verdicts(ledger: Ledger, frame: pd.DataFrame) -> list[Verdict]:
    """Decide all claims of a ledger."""
    return [verdict(claim, ledger.rule, frame) for claim in ledger.claims]


def ledger_table(found: Iterable[Verdict]) -> list[dict[str, str]]:
    """Return claims and verdicts as rows of text, for `purify.report.tables.text_table`."""
    return [
        {"claim": one.claim.id, "the paper": one.claim.says, "where": one.claim.where, "verdict": one.outcome}
        for one in found
    ]


def rivals_table(found: Iterable[Verdict]) -> pd.DataFrame:
    """Return the difference in ASR to every rival for reading, one row per claim that has records.

    *draws* counts those behind each difference.
    """
    rows = {
        one.claim.id: {
            **{rival: signed(value) for rival, value in one.differences.items()},
            "draws": str(min(value.n for value in one.differences.values())),
        }
        for one in found
        if one.differences
    }
    return pd.DataFrame(rows).T
