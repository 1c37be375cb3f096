"""The claims ledger: verdicts follow the records, whatever they say."""

import pytest
from test_protocol import defended, record

from purify import PurifyError
from purify.home import project_root
from purify.report.claims import Claim, Rule, ledger_table, load_ledger, rivals_table, verdict, verdicts
from purify.report.protocol import at_drops, complete, tables_frame
from purify.report.tables import as_frame

RULE = Rule("FinePurifying", ("FineTuning", "FineMixing"), margin=5.0, draws=4)
CLAIM = Claim("lowest", "the lowest ASR", "somewhere", drops=(2.0,))


def frame_of(gains, kind="backdoor"):
    """One suspect per gain: how many points less of the attack Fine-purifying leaves than Fine-mixing."""
    records = []
    for seed, gain in enumerate(gains):
        records += [
            record(defended(seed, 16, None), 900, 100, 90),
            record(defended(seed, 16, "FineTuning"), 900, 99, 90),
            record(defended(seed, 16, "FineMixing", reserve=0.2), 880, 50, 89),
            record(defended(seed, 16, "FinePurifying", reserve=0.5), 890, 50 - gain, 89),
        ]
    return as_frame(records).assign(clean=64, kind=kind, form="single sentence")


@pytest.mark.parametrize(
    ("gains", "outcome"),
    [
        ([10, 12, 8, 11], "replicates"),
        ([10, 12, 8], "not enough runs"),  # too few suspects
        ([-10, -12, -8, -11], "does not replicate"),
        ([1, -1, 2, -2], "does not replicate"),  # 0, give or take less than the margin
        ([40, -30, 35, -20], "not enough runs"),  # an advantage that matters is not ruled out
        ([0, 0, 0, 0], "does not replicate"),
    ],
)
def test_the_verdict_follows_the_intervals(gains, outcome):
    found = verdict(CLAIM, RULE, frame_of(gains))
    assert found.outcome == outcome
    assert found.differences["FineMixing"].n == len(gains)


def test_every_rival_must_be_beaten():
    frame = frame_of([10, 12, 8, 11])
    frame.loc[frame["defense"] == "FineTuning", "asr"] = 10
    found = verdict(CLAIM, RULE, frame)
    assert found.outcome == "does not replicate"


def test_a_claim_is_judged_on_what_it_is_about():
    assert verdict(Claim("b", "", "", kind="bias"), RULE, frame_of([10] * 4)).outcome == "not enough runs"
    assert verdict(Claim("b", "", "", kind="bias"), RULE, frame_of([10] * 4, "bias")).outcome == "replicates"
    assert verdict(Claim("b", "", "", clean=(8,)), RULE, frame_of([10] * 4)).outcome == "not enough runs"
    assert verdict(Claim("b", "", "", form="sentence pair"), RULE, frame_of([10] * 4)).differences == {}


def test_a_suspect_without_a_rival_does_not_count():
    frame = frame_of([10, 12, 8, 11])
    frame = frame[~((frame["defense"] == "FineTuning") & (frame["seed"] == 0))]
    assert verdict(CLAIM, RULE, frame).outcome == "not enough runs"


def dimensions(lead, distance=0.12, seeds=4):
    """Records in which the paper's indicator leads another by so many points of AUROC; seeds differ a little."""
    return [
        {
            "spec": {
                "suspect": {
                    "task": "ag_news",
                    "attack": {"name": attack},
                    "train": 8,
                    **({"seed": seed} if seed else {}),
                },
                "measure": {"name": "Dimensions"},
            },
            "measured": {
                "flagged": [0.05, 1.0],
                "indicators": (
                    found := {
                        name: {
                            truth: {"auroc": value + 0.001 * seed * (name == "other"), "recall": [0.1, 1.0]}
                            for truth in ("pair", "effect")
                        }
                        for name, value in (("δ²/Ĥ", 0.7 + lead / 100), ("other", 0.7))
                    }
                ),
                "honest": {"indicators": found},
                "law": {"control": {"fits": {"one Gamma": {"ks": distance + 0.001 * seed}}}},
            },
        }
        for seed in range(seeds)
        for attack in ("BadWord", "BiasSent")
    ]


SHARP = Claim("sharp", "sharper", "somewhere", statistic="AUROC", indicators=("other",))
LAW = Claim("law", "a law", "theory", statistic="KS distance", limit=0.05)


@pytest.mark.parametrize(
    ("claim", "records", "outcome", "mean"),
    [
        (SHARP, dimensions(10), "replicates", -9.85),
        (SHARP, dimensions(-10), "does not replicate", 10.15),
        (SHARP, dimensions(10, seeds=3), "not enough runs", -9.9),
        (LAW, dimensions(0, 0.12), "does not replicate", 7.15),
        (LAW, dimensions(0, 0.01), "replicates", -3.85),
        (LAW, dimensions(0, seeds=2), "not enough runs", 7.05),
    ],
)
def test_claims_about_the_theory(claim, records, outcome, mean):
    found = verdict(claim, RULE, frame_of([10] * 4), records)
    assert found.outcome == outcome
    (difference,) = found.differences.values()
    assert difference.mean == pytest.approx(mean)
    assert difference.n == len(records) // 2


def test_without_records_there_is_no_verdict():
    both = [verdict(SHARP, RULE, frame_of([10] * 4)), verdict(CLAIM, RULE, frame_of([10, 12, 8, 11]))]
    assert both[0].outcome == "not enough runs"
    assert [row["verdict"] for row in ledger_table(both)] == ["not enough runs", "replicates"]
    table = rivals_table(both)
    assert list(table.index) == ["lowest"]
    assert table.loc["lowest", "draws"] == "4"
    assert table.loc["lowest", "FineMixing"].startswith("-10.2 [-13.0")
    assert rivals_table(both, "AUROC").empty
    sharp = verdict(SHARP, RULE, frame_of([10] * 4), dimensions(10))
    assert rivals_table([sharp], "AUROC").loc["sharp", "AUROC of other"].startswith("-9.8 [-10")


def test_the_projects_ledger_is_computed_from_what_is_shipped():
    ledger = load_ledger(project_root() / "book" / "claims.yml")
    frame = tables_frame()
    found = verdicts(ledger, frame)
    assert {one.claim.id for one in found} >= {
        "lowest-at-1",
        "lowest-with-8",
        "lowest-biases",
        "lowest-pairs",
        "gamma-law",
        "sharper-detection",
    }
    methods = [ledger.rule.method, *ledger.rule.rivals]
    by_hand = at_drops(complete(frame, methods), [5.0]).query("defense in ['FinePurifying', 'FineMixing']")
    by_hand = by_hand.pivot_table(index=["task", "seed"], columns="defense", values="asr")
    mean = next(one for one in found if one.claim.id == "lowest-at-5").differences["FineMixing"].mean
    assert mean == pytest.approx((by_hand["FinePurifying"] - by_hand["FineMixing"]).mean())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("claims: []", "needs a rule and claims"),
        ("- 1", "needs a rule and claims"),
        ("rule: [method]\nclaims: []", "needs a rule and claims"),
        ("rule: {method: FineTuning, rivals: [], margin: 5, draws: 4}\nclaims: []", "a rule needs rivals"),
        ("rule: {method: FineMixng, rivals: [Wanda], margin: 5, draws: 4}\nclaims: []", "unknown defense 'FineMixng'"),
        ("rule: {method: FineTuning, rivals: [Wanda], margin: -5, draws: 4}\nclaims: []", "margin must be 0 or more"),
        ("rule: {method: FineTuning, rivals: [Wanda], margin: 5, draws: 1}\nclaims: []", "needs 2 draws or more"),
        (
            "rule: {method: FineTuning, rivals: [Wanda], margin: 5, draws: 4}\n"
            "claims: [{id: x, says: s, where: w, drops: []}]",
            "the claim 'x' has no ΔACC",
        ),
        (
            "rule: {method: FineTuning, rivals: [Wanda], margin: 5, draws: 4}\nclaims: [{id: x}]",
            "needs a rule and claims, each whole",
        ),
        ("rule: {meth: M}\nclaims: []", "unknown key 'meth'"),
        (
            "rule: {method: FineTuning, rivals: [Wanda], margin: 5, draws: 4}\n"
            "claims: [{id: x, says: s, where: w, statistic: AUROC}]",
            "the claim 'x' has no indicators to compare with",
        ),
        (
            "rule: {method: FineTuning, rivals: [Wanda], margin: 5, draws: 4}\n"
            "claims: [{id: x, says: s, where: w, statistic: KS distance}]",
            "the claim 'x' needs a limit between 0 and 1, not 0.0",
        ),
        (
            "rule: {method: FineTuning, rivals: [Wanda], margin: 5, draws: many}\nclaims: []",
            "must be a whole number, not 'many'",
        ),
        (
            "rule: {method: FineTuning, rivals: [Wanda], margin: 5, draws: 4}\n"
            "claims: [{id: x, says: s, where: w}, {id: x, says: s, where: w}]",
            "has the claim 'x' twice",
        ),
        (
            "rule: {method: FineTuning, rivals: [Wanda], margin: 5, draws: 4}\n"
            "claims: [{id: x, says: s, where: w, kind: odd}]",
            "must be one of '', 'backdoor', 'bias', not 'odd'",
        ),
    ],
)
def test_bad_ledgers(text, message, tmp_path):
    (tmp_path / "claims.yml").write_text(text, encoding="utf-8")
    with pytest.raises(PurifyError, match=message):
        load_ledger(tmp_path / "claims.yml")
