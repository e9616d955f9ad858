"""The figures on policies of a track's memory: what known masks must score."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.quality.memory_policies import Areas, judge, row


def test_an_object_that_goes_twice_and_is_found_again_once() -> None:
    true = [100, 100, 100, 0, 0, 100, 100, 0, 100, 100]
    found = [0, 100, 50, 99, 0, 0, 100, 10, 100, 100]
    common = [0, 100, 50, 0, 0, 0, 100, 0, 49, 49]
    judged = judge(Areas(found, true, common))
    assert (judged.absent, judged.false) == (3, 1)  # 10 pixels are a sliver
    assert (judged.waits, judged.missed) == ([1, 2], 1)
    assert judged.overlap == (1 + 0.5 + 0 + 1 + 2 * 49 / 151) / 6  # the first frame is given
    worse = replace(judged, overlap=judged.overlap - 0.2)
    text = row("leaving", "careful", [judged, judged], [judged, worse])
    assert text[:5] == ["leaving", "2", "careful", "0.525", "+0.100 ± 0.100"]
    assert text[5:] == ["2 of 6", "2 of 4", "1.5"]
