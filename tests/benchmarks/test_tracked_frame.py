"""The benchmark of tracked frames compares the same masks."""

import pytest
import torch

from benchmarks.speed.tracked_frame import HEAD, PARTS, part_rows, rows


@pytest.mark.parametrize(
    ("variant", "peers"),
    [
        ("demo", ["sam2"]),
        pytest.param(
            "edgetam",
            ["transformers", "our sam2.1_hiera_tiny", "sam2 sam2.1_hiera_tiny"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_all_track_the_same(variant, peers):
    with torch.inference_mode():
        measured = [
            dict(zip(HEAD, row, strict=True)) for row in rows(variant, [2], ["float32"], 1, 256)
        ]
    assert [row["peer"] for row in measured] == peers
    for row in measured:
        assert (row["variant"], row["objects"]) == (variant, "2")
        assert float(row["times less CPU"]) > 0
        if row["peer"] == peers[0]:
            assert float(row["differing"]) <= 1e-3
        else:
            assert row["differing"] == ""


def test_the_parts_of_a_frame_are_told():
    [row] = part_rows(["demo"], [1], ["bfloat16"])
    assert row[:3] == ["demo", "bfloat16", "1"]
    assert len(row) == 3 + len(PARTS)
    assert sum(map(float, row[3:])) > 0
