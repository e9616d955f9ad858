"""The demo's sample clip: drawn alike every time, and true to its masks."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np

from demo.clip import FRAMES, FRAMES_PER_SECOND, HEIGHT, OBJECTS, WIDTH, sample_clip
from demo.projects import VIDEO_PROJECT

# What lossy compression may change, of 255, on average over a frame.
DIFFERENCE = 8.0


def test_every_object_is_whole_on_every_frame() -> None:
    clip = sample_clip()
    assert len(clip.frames) == FRAMES
    edge = np.ones((HEIGHT, WIDTH), dtype=bool)
    edge[1:-1, 1:-1] = False
    for each in OBJECTS:
        areas = clip.masks[each.name].sum(axis=(1, 2))
        assert areas.min() > 0.02 * WIDTH * HEIGHT
        assert not (clip.masks[each.name] & edge).any()
    bud, bee = (clip.masks[each.name] for each in OBJECTS)
    assert not (bud & bee).any()


def test_it_is_the_same_every_time() -> None:
    first = sample_clip()
    again = sample_clip.__wrapped__()
    assert all((a == b).all() for a, b in zip(first.frames, again.frames, strict=True))


def test_pages_and_video_show_the_frames(tmp_path: Path) -> None:
    clip = sample_clip()
    pages = [cv2.imread(str(file))[:, :, ::-1] for file in clip.write_pages(tmp_path)]
    clip.write_video(tmp_path / "clip.mp4")
    with av.open(str(tmp_path / "clip.mp4")) as container:
        rate = container.streams.video[0].average_rate
        video = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for shown in (pages, video):
        assert len(shown) == FRAMES
        for found, drawn in zip(shown, clip.frames, strict=True):
            assert np.abs(found.astype(float) - drawn).mean() < DIFFERENCE
    assert rate == FRAMES_PER_SECOND
    assert f'framerate="{rate}"' in VIDEO_PROJECT.label_config
