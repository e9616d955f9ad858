"""The benchmark of clicks compares the same masks."""

import pytest

from benchmarks.speed.click_latency import HEAD, measure, serve_photos


@pytest.mark.slow
@pytest.mark.instruction_set
def test_a_click_gives_the_usual_mask(tmp_path):
    base = serve_photos(tmp_path, 1)
    row = dict(zip(HEAD, measure("demo", 1, tmp_path, base), strict=True))
    assert float(row["IoU"]) > 0.999
    for name in ("first click, ms", "further click, ms", "usual way, ms"):
        assert float(row[name]) > 0
