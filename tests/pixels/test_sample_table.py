"""The table of frames from the index of an MP4 file is the one that its packets give."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from backend.pixels.containers import open_container, scan
from backend.pixels.frame_table import FrameTable
from backend.pixels.mp4_index import table_from_index
from backend.pixels.video_limits import VideoError, VideoLimits
from tests.pixels.clips import B_FRAMES, CLIPS, X265, steady, trim, uneven, write_clip
from tests.pixels.in_process import video_frames

LIMITS = VideoLimits()
FAST_START = {"movflags": "faststart"}
MORE = {
    "faststart.mp4": {"times": steady(60, 25), "muxer_options": FAST_START},
    "quicktime.mov": {"times": steady(60, 25), "codec_options": B_FRAMES},
    "with_sound.mov": {"times": steady(75, 25), "codec_options": B_FRAMES, "silence": Fraction(3)},
    "open_group.mp4": {"times": steady(60, 25), "codec": "libx265", "codec_options": X265},
    "open_gop.mp4": {
        "times": steady(60, 25),
        "codec_options": {**B_FRAMES, "x264-params": "open-gop=1:bframes=3"},
    },
    "negative_offsets.mp4": {
        "times": steady(60, 25),
        "codec_options": B_FRAMES,
        "muxer_options": {"movflags": "negative_cts_offsets"},
    },
    "uneven_b_frames.mp4": {"times": uneven(80), "codec_options": B_FRAMES},
    "late_b_frames.mp4": {"times": steady(60, 25, Fraction(3, 2)), "codec_options": B_FRAMES},
    "single.mp4": {"times": steady(1, 25)},
    "two.mp4": {"times": steady(2, 25)},
    "intra.mov": {"times": steady(30, 25), "codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "prores.mov": {"times": steady(20, 25), "codec": "prores_ks", "pix_fmt": "yuv422p10le"},
}
IN_MP4 = [name for name in CLIPS if name.endswith((".mp4", ".mov"))]


def both(source: Path | io.BytesIO) -> tuple[FrameTable | None, FrameTable]:
    """The tables from the index and from the packets."""
    file = source.open("rb") if isinstance(source, Path) else source
    container, stream = open_container(file, LIMITS)
    found = table_from_index(file, container, stream, LIMITS)
    container.close()
    container, stream = open_container(file, LIMITS)
    scanned = scan(container, stream, LIMITS)
    container.close()
    return found, scanned


def assert_equal(found: FrameTable | None, scanned: FrameTable) -> None:
    assert found is not None
    for name in ("pts", "key_pts", "key_dts"):
        np.testing.assert_array_equal(getattr(found, name), getattr(scanned, name))
    for name in ("time_base", "origin", "last_duration", "missing"):
        assert getattr(found, name) == getattr(scanned, name)


@pytest.mark.parametrize("name", [name for name in IN_MP4 if name != "fragmented.mp4"])
def test_equals_the_scan(name: str, clip: Callable[[str], Path]) -> None:
    assert_equal(*both(clip(name)))


@pytest.mark.parametrize("name", MORE)
def test_equals_the_scan_of_rarer_files(name: str, tmp_path: Path) -> None:
    assert_equal(*both(write_clip(tmp_path / name, **MORE[name])))


@pytest.mark.parametrize("moved", [Fraction(1, 25), Fraction(13, 25), Fraction(2)])
def test_equals_the_scan_of_trimmed_files(moved: Fraction, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", times=steady(75, 25), codec_options=B_FRAMES)
    assert_equal(*both(trim(path, moved)))


@pytest.mark.parametrize("name", ["fragmented.mp4", "b_frames.mkv", "vp8.webm", "transport.ts"])
def test_other_files_are_left_to_the_scan(name: str, clip: Callable[[str], Path]) -> None:
    assert both(clip(name))[0] is None


@pytest.mark.parametrize("share", [0.95, 0.7, 0.5])
def test_equals_the_scan_of_a_file_cut_short(share: float, tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "a.mp4", times=steady(75, 25), codec_options=B_FRAMES, muxer_options=FAST_START
    )
    content = path.read_bytes()
    found, scanned = both(io.BytesIO(content[: int(len(content) * share)]))
    assert_equal(found, scanned)
    assert scanned.missing > 0


def _box(content: bytes, kind: bytes) -> int:
    return content.index(kind) + 4


@pytest.mark.parametrize(
    ("kind", "offset", "value"),
    [
        (b"ctts", 4, 2**31), (b"ctts", 8, 2**31 - 1), (b"ctts", 4, 0), (b"ctts", 12, 77),
        (b"stsz", 8, 2**31), (b"stsz", 8, 0), (b"stsc", 4, 0), (b"stsc", 8, 9),
        (b"stsc", 12, 2**30),
        (b"stco", 4, 2**30), (b"stco", 8, 3), (b"stts", 8, 5), (b"tkhd", 12, 9),
        (b"ctts", -8, 8), (b"stco", -8, 2**31), (b"stbl", -8, 0), (b"minf", -8, 4),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_left_to_the_scan(
    kind: bytes, offset: int, value: int, clip: Callable[[str], Path]
) -> None:
    """Never a table of its own: the scan's, or none."""
    content = bytearray(clip("b_frames.mp4").read_bytes())
    struct.pack_into(">I", content, _box(bytes(content), kind) + offset, value)
    try:
        found, scanned = both(io.BytesIO(bytes(content)))
    except VideoError:
        return
    if found is not None:
        assert_equal(found, scanned)


def test_positions_beyond_4_gb(clip: Callable[[str], Path]) -> None:
    """Large files have their positions in ``co64`` instead of ``stco``."""
    content = bytearray(clip("b_frames.mp4").read_bytes())
    movie = content.index(b"moov") - 4  # at the end, so that nothing moves that has a position
    narrow = content.index(b"stco", movie) - 4
    length, count = struct.unpack_from(">I8xI", content, narrow)
    positions = struct.unpack_from(f">{count}I", content, narrow + 16)
    wide = struct.pack(f">I4sII{count}Q", 16 + 8 * count, b"co64", 0, count, *positions)
    content[narrow : narrow + length] = wide
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        at = content.index(kind, movie) - 4
        size = struct.unpack_from(">I", content, at)[0] + len(wide) - length
        struct.pack_into(">I", content, at, size)
    found, scanned = both(io.BytesIO(bytes(content)))
    assert_equal(found, scanned)
    assert len(scanned) == 60


class Counting(io.BytesIO):
    """Notes which bytes are read."""

    read_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        self.read_bytes += len(found)
        return found


@pytest.mark.parametrize("options", [{}, {"muxer_options": FAST_START}])
def test_the_first_frame_takes_little_of_the_file(tmp_path: Path, options: dict[str, str]) -> None:
    noise = np.random.default_rng(1)

    def noisy(picture: np.ndarray) -> np.ndarray:
        return noise.integers(0, 255, picture.shape, np.uint8)

    path = write_clip(
        tmp_path / "a.mp4", times=steady(150, 25), size=(384, 216), transform=noisy, **options
    )
    file = Counting(path.read_bytes())
    with video_frames(file, read_ahead=0) as frames:
        assert len(frames) == 150
        frames[0]
    assert len(file.getvalue()) > 8 * 2**20
    assert file.read_bytes < 2 * 2**20


def test_limit_of_frames_holds(clip: Callable[[str], Path]) -> None:
    with pytest.raises(VideoError, match="more than the allowed 10 frames"):
        video_frames(clip("25.mp4"), limits=VideoLimits(max_frames=10))


class Unreliable(io.BytesIO):
    """Fails once, when told to."""

    fail = False

    def read(self, size: int | None = -1, /) -> bytes:
        if self.fail:
            self.fail = False
            raise ConnectionError("the storage does not answer")
        return super().read(size)


def test_a_failure_of_the_file_is_no_damage_of_the_video(clip: Callable[[str], Path]) -> None:
    """Else the last good frame would be taken for all that follow."""
    file = Unreliable(clip("groups.mp4").read_bytes())
    with video_frames(clip("groups.mp4"), read_ahead=0) as reference:
        expected = [frame.copy() for frame in reference]
    with video_frames(file, read_ahead=0) as frames:
        for index in range(len(frames)):
            file.fail = index % 5 == 4
            try:
                picture = frames[index]
            except ConnectionError:
                picture = frames[index]
            file.fail = False
            np.testing.assert_array_equal(picture, expected[index])
