"""What the doctor says of labels that the training did not understand."""

from __future__ import annotations

from pathlib import Path

from backend.insight.findings.case import ProjectCase
from backend.insight.findings.labels import check_unread
from backend.label_studio.bulk import Project as StudioProject
from backend.label_studio.label_config import parse_label_config
from backend.ledger import Outcome
from tests.backend.workplaces import SERVER, open_workplace

CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="tag" toName="image"><Label value="Red cell"/></BrushLabels>
<KeyPointLabels name="point" toName="image"><Label value="Red cell"/></KeyPointLabels></View>"""


def test_regions_of_a_label_that_is_gone_are_counted_with_what_to_do(tmp_path: Path) -> None:
    with open_workplace(tmp_path) as work:
        known = work.ledger.projects.ensure(SERVER, 7, 1, label_config=CONFIG)
        case = ProjectCase(work, StudioProject(7, "urine", 1, CONFIG, "", "", 1, 0, {}), known)
        case.config = parse_label_config(CONFIG)
        assert [finding.severity for finding in check_unread(case)] == ["ok"]  # the points

        opened = work.ledger.rounds.start(known.id, "train", "labels", "collect", {})
        assert opened is not None
        [part] = work.ledger.parts.of_round(opened.id)
        taken = work.ledger.parts.take(part.id, "worker")
        assert taken is not None
        regions = [("label", "Cell", 41), ("read", "", 3)]
        outcome = Outcome(result={"regions": regions}, next_payloads=())
        work.ledger.parts.finish(taken, outcome, next_stage=None)

        [gone, points] = check_unread(case)
    assert gone.what.startswith("41 regions carry the label 'Cell', which the labeling config")
    assert "aliases" in gone.fix
    assert "point" in points.what
