"""What the results explorer shows is what the protocol says."""

import hashlib
import json
from itertools import product
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from purify import PurifyError
from purify.grid import load_grid, select
from purify.grid.spec import fingerprint
from purify.report import explorer, protocol
from purify.report.comparison import FINE_DROPS
from purify.report.tables import AS_RECEIVED

ROOT = Path(__file__).parents[1]
CONDITIONS = ["task=qnli", "attack=BadWord", "attack=BadSent", "clean_per_class=16", "clean_per_class=32"]


@pytest.fixture(scope="module")
def frame():
    """A task of which some records are shipped and some are not."""
    return protocol.tables_frame("tables", CONDITIONS)


@pytest.fixture(scope="module")
def data(frame):
    return json.loads(json.dumps(explorer.explorer_data(frame)))


def numbers(row):
    return [row["validation"], *(row[f"{score}{end}"] for score in ("acc", "asr") for end in ("", "_low", "_high"))]


def test_at_every_drop_it_shows_what_the_protocol_chooses(frame, data):
    names = [method["name"] for method in data["methods"]]
    for row in protocol.at_drops(frame, FINE_DROPS).to_dict("records"):
        suspect = data["suspects"]["|".join(str(row[column]) for column in explorer.SUSPECT)]
        choice, within, points = suspect["methods"][names.index(row["defense"])]
        step = data["drops"].index(row["ΔACC"])
        reserve, *shown = points[int(choice[step], 36)]
        assert reserve == (None if row["reserve"] != row["reserve"] else row["reserve"])
        assert [f"{number:.1f}" for number in shown] == [f"{number:.1f}" for number in numbers(row)]
        assert (step >= within) == row["within"]


def test_every_record_of_a_suspect_is_there_in_the_order_of_its_reserve_ratio(frame, data):
    assert data["axes"]["attack"] == ["BadWord", "BadSent"]
    shown = 0
    for suspect in data["suspects"].values():
        for _, _, points in filter(None, suspect["methods"]):
            assert points == sorted(points, key=lambda point: point[0] or 0)
            shown += len(points)
        received, control = suspect["references"]
        assert received[5] > control[5]
        assert suspect["rows"][:2] == [500, 1000]
    assert shown == (~frame["defense"].isin([AS_RECEIVED, "clean control"])).sum()


def test_what_is_not_run_is_not_in_the_data(frame, data):
    every = {"|".join(map(str, key)) for key in product(*data["axes"].values())}
    lacking = every - set(data["suspects"])
    there = frame[frame["defense"] == AS_RECEIVED][explorer.SUSPECT].itertuples(index=False)
    assert lacking == every - {"|".join(map(str, key)) for key in there}
    some = explorer.explorer_data(frame[frame["defense"] != "FineMixing"])
    assert len(some["methods"]) == len(data["methods"]) - 1
    alone = frame[(frame["seed"] == 0) | (frame["defense"] != "FineMixing")]
    methods = explorer.explorer_data(alone)["suspects"]["qnli|BadWord|64|1"]["methods"]
    assert [method is None for method in methods].count(True) == 1


def test_missing_records_are_counted_from_the_files(frame):
    cells = select(load_grid(ROOT / "book" / "grids" / "tables.yml"), CONDITIONS)
    table = explorer.missing_table(frame, conditions=CONDITIONS).set_index("seed")
    for seed in (0, 1, 2):
        wanted = [c for c in cells if c.suspect.seed == seed and c.policy is None and not c.suspect.control]
        there = [cell for cell in wanted if (ROOT / "results" / f"{fingerprint(cell)}.json").is_file()]
        assert table["records"][seed] == f"{len(there)} of {len(wanted)}"
    lost = frame[~((frame["seed"] == 0) & (frame["attack"] == "BadSent") & (frame["reserve"] == 0.8))]
    assert (
        explorer.missing_table(lost, conditions=CONDITIONS).set_index("seed")["not there"][0] == "BadSent with 32, 64"
    )
    nothing = explorer.missing_table(frame[frame["seed"] != 0], conditions=CONDITIONS).set_index("seed")
    assert tuple(nothing.loc[0, ["suspects", "not there"]]) == ("0 of 4", "all")


def test_the_plain_table_has_the_numbers_of_the_main_table(frame):
    heads, *rows = explorer.plain_rows(frame, 5.0)
    own = frame[(frame["seed"] == 0) & (frame["clean"] == 64)]
    for place, score in enumerate(("acc", "asr")):
        table = protocol.main_table(protocol.at_drops(own, [5.0]), score).set_index("attack")
        for row in rows:
            cells = dict(zip(heads, row, strict=True))
            if (cells["clean"], cells["seed"]) == ("64", "0"):
                scores = cells["FinePurifying"].rstrip("*").rpartition(": ")[2].split(" / ")
                assert scores[place] == table["FinePurifying"][cells["attack"]]
    assert len(rows) == (frame["defense"] == AS_RECEIVED).sum()


def test_the_page_opens_as_it_is_told_and_escapes_what_it_is_given(frame):
    own = frame[frame["attack"] == "BadWord"].assign(attack="</script><b>")
    page = BeautifulSoup(explorer.page(own, 2.0).data, "html.parser")
    assert not page.find("b")
    assert {"</script><b>"} == {
        key.split("|")[1] for key in json.loads(page.find(id="explorer-data").string)["suspects"]
    }
    assert page.select_one("input[name=drop]")["value"] == str(FINE_DROPS.index(2.0))
    assert page.select_one("select[name=clean] [selected]")["value"] == "64"


def test_several_clean_models_are_refused(frame):
    with pytest.raises(PurifyError, match="one plm, and there are bundled, other"):
        explorer.explorer_data(frame.assign(plm=["other" if seed else "bundled" for seed in frame["seed"]]))


def test_the_charting_library_is_the_released_one():
    """Chart.js 4.5.1, as its authors built it: the file `dist/chart.umd.min.js` of the npm package."""
    file = ROOT / "purify" / "report" / "assets" / "chart.umd.min.js"
    assert (
        hashlib.sha256(file.read_bytes()).hexdigest()
        == "48444a82d4edcb5bec0f1965faacdde18d9c17db3063d042abada2f705c9f54a"
    )
