import re
import xml.etree.ElementTree as ET

import pytest

from purify.report import landing
from purify.report.effects import shipped
from purify.report.tables import as_frame, summary


@pytest.fixture(scope="module")
def records():
    return landing.records()


def test_the_sentences_have_the_numbers_of_the_records(records):
    runs = as_frame(shipped("companion", ["task=ag_news", "attack=BadWord", "clean_per_class=16"]))
    stored = summary(runs, [landing.DROP]).set_index("defense")
    text = landing.glance(*records, "glance")
    for defense in ("as received", "clean control", "FinePurifying"):
        for score in ("acc", "asr"):
            assert f"{stored.loc[defense, score]:.1f}" in text
    assert f"Means of {stored.loc['FinePurifying', 'seeds']} models" in text
    changed = records[0].assign(acc=12.3, asr=45.6)
    other = landing.glance(changed, records[1], "glance")
    assert "ACC 12.3 and ASR 45.6 %" in other
    assert not re.search(r"8\d\.\d", other)


def test_the_panels_are_pictures_for_light_and_dark_pages(records):
    files = landing.panels(*records)
    text = landing.glance(*records, "glance")
    assert len(files) == 6
    for name, content in files.items():
        assert ET.fromstring(content).tag.endswith("svg")
        assert f'src="glance/{name}"' in text
    assert files["poisoned-light.svg"] != files["poisoned-dark.svg"]
    assert landing.panels(*records) == files  # no page changes without a cause
    assert text.count('alt="') == 6
