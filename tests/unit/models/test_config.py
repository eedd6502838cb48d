"""Which fields of a config.json count, and how they are compared."""

import json

from pytest_tenpak.metrics.measurement import Provenance
from pytest_tenpak.models.config import computing_fields


def test_configs_are_compared_by_what_can_change_a_figure(tmp_path):
    """Nested fields too; where a model came from does not count."""
    old = {"rope_parameters": {"rope_theta": 10000.0}, "_name_or_path": "a", "transformers_version": "5"}
    recorded = []
    for theta, version in ((10000.0, "5"), (500000.0, "6")):
        new = {**old, "rope_parameters": {"rope_theta": theta}, "transformers_version": version}
        (tmp_path / "config.json").write_text(json.dumps(new))
        recorded.append(Provenance({}, {}, computing_fields(tmp_path)))
    said = ["config rope_parameters.rope_theta 10000.0 → 500000.0"]
    assert recorded[0].differences(recorded[1]) == said
    assert Provenance({}, {}).differences(recorded[1]) == [], "files from before it was recorded say nothing"
