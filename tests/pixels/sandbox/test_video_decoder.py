"""Videos decoded in other processes: the same frames, and no fault that spreads."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from backend.media.errors import MediaError, Reason
from backend.pixels.frame_table import pack_table, unpack_table
from backend.pixels.sandbox.video_decoding import RemoteDecoder, open_video
from backend.pixels.video_limits import DEFAULT_LIMITS, VideoError, VideoLimits
from backend.pixels.videos import VideoFrames
from tests.pixels.clips import number_of, steady, write_clip
from tests.pixels.in_process import video_frames
from tests.pixels.sandbox.conftest import FAULTY
from tests.processes import running
from tests.waiting import PATIENCE

Clip = Callable[[str], Path]


def open_path(path: Path, **options: Any) -> VideoFrames:
    return open_video(io.BytesIO(path.read_bytes()), **options)


@pytest.mark.parametrize("name", ["25.mp4", "vp8.webm", "transport.ts", "mpeg4_b_frames.avi"])
def test_same_frames_as_in_this_process(clip: Clip, name: str) -> None:
    with video_frames(clip(name)) as here, open_path(clip(name)) as there:
        assert (there.width, there.height, there.duration) == (
            here.width,
            here.height,
            here.duration,
        )
        assert (there.notice, there.missing) == (here.notice, here.missing)
        assert np.array_equal(there.times, here.times)
        assert len(there) == len(here)
        for index in [0, 1, 2, len(here) - 1, len(here) - 2, 30, 5, *range(10)]:
            assert np.array_equal(there[index], here[index])
            assert not there[index].flags.writeable
        with pytest.raises(IndexError):
            there[len(here)]


def test_a_file_larger_than_its_head_is_read_in_a_row(tmp_path: Path) -> None:
    """The decoder asks for bytes while the next frame has been asked of it already."""
    noise = np.random.default_rng(0).integers(0, 120, (108, 192, 3), np.uint8)

    def noisy(picture: np.ndarray) -> np.ndarray:
        picture[60:78] = noise[60:78]  # between the number and the corner
        return picture

    path = write_clip(
        tmp_path / "a.mp4",
        times=steady(400, 25),
        transform=noisy,
        codec_options={"crf": "0"},
        gop=1,
    )
    assert path.stat().st_size > 2 << 20
    with open_path(path) as frames:
        for number in range(len(frames)):
            assert number_of(frames[number]) == number


def test_a_table_is_handed_on(clip: Clip) -> None:
    with open_path(clip("25.mp4")) as frames:
        table = frames.table
    with open_path(clip("25.mp4"), table=table) as frames:
        assert frames.table is table
        assert number_of(frames[40]) == 40


def test_tables_survive_the_journey(clip: Clip) -> None:
    with video_frames(clip("fragmented.mp4")) as frames:
        table = frames.table
    back = unpack_table(*pack_table(table))
    for name in ("pts", "key_pts", "key_dts"):
        assert np.array_equal(getattr(back, name), getattr(table, name))
    for name in ("time_base", "origin", "last_duration", "missing"):
        assert getattr(back, name) == getattr(table, name)
    header, payload = pack_table(table)
    for broken in ({"lengths": [1, 2]}, {"time_base": [1, 0]}, {"lengths": [10**9, 1, 1]}):
        with pytest.raises((ValueError, ArithmeticError, TypeError)):
            unpack_table({**header, **broken}, payload)


class Counting(io.BytesIO):
    """A file that counts what is read, and breaks off when told to."""

    taken = 0
    broken = False

    def read(self, size: int | None = -1, /) -> bytes:
        if self.broken:
            raise MediaError("The storage is gone.", reason=Reason.UNREACHABLE)
        data = super().read(size)
        self.taken += len(data)
        return data


def test_file_objects_are_read_by_ranges(clip: Clip) -> None:
    """Frames of a file behind three megabytes of something else: only its parts are read."""
    data = clip("25.mp4").read_bytes()
    filler = (8 << 20).to_bytes(4, "big") + b"free" + bytes((8 << 20) - 8)
    at = data.index(b"ftyp") + int.from_bytes(data[:4], "big") - 4
    with video_frames(io.BytesIO(data)) as frames:
        expected = len(frames)
    file = Counting(data[:at] + data[at:] + filler)
    with open_video(file) as frames:
        assert [number_of(frame) for frame in frames] == list(range(expected))
    assert file.taken < 4 << 20
    assert not file.closed


def test_what_the_source_raises_is_raised(clip: Clip) -> None:
    data = clip("25.mp4").read_bytes()
    file = Counting(data + bytes(3 << 20))
    file.broken = True
    with pytest.raises(MediaError, match="storage is gone"):
        open_video(file)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"#EXTM3U\nhttp://127.0.0.1/x.ts\n", "playlist"),
        (b"", "not a MP4"),
        (bytes(100_000), "not a MP4"),
    ],
)
def test_same_errors_as_in_this_process(data: bytes, message: str) -> None:
    with pytest.raises(VideoError, match=message):
        open_video(io.BytesIO(data))


def test_limits_hold(clip: Clip) -> None:
    for limits in (VideoLimits(max_pixels=100), VideoLimits(max_frames=3)):
        with pytest.raises(VideoError, match="allowed"):
            open_path(clip("25.mp4"), limits=limits)


@pytest.fixture
def faulty() -> Iterator[Callable[..., VideoFrames]]:
    opened: list[VideoFrames] = []

    def make(file: BinaryIO, **options: Any) -> VideoFrames:
        patient = {"open_seconds": PATIENCE, "frame_seconds": PATIENCE, "module": FAULTY}
        decoder = RemoteDecoder(file, DEFAULT_LIMITS, None, **{**patient, **options})
        opened.append(VideoFrames(decoder, read_ahead=0))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


FAULTS = {
    "hang": "too long",
    "spin": "too long",
    "crash": "crash",
    "killed": "more memory",
    "eat": "more memory",
    "circle": "too long",
    "exit": "crash",
    "defect": "log says why",
    "lie": "log says why",
    "nonsense": "log says why",
}


def seconds_for(fault: str) -> float:
    """Few only where they are to be used up."""
    return 0.7 if FAULTS[fault] == "too long" else PATIENCE


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_while_opening(faulty: Callable[..., VideoFrames], clip: Clip, fault: str) -> None:
    started = time.monotonic()
    with pytest.raises(VideoError, match=FAULTS[fault]):
        faulty(io.BytesIO(f"{fault}:".encode()), open_seconds=seconds_for(fault))
    assert time.monotonic() - started < PATIENCE


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_at_a_frame(
    faulty: Callable[..., VideoFrames],
    clip: Clip,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The frames before are there, another video does not notice, and the process is gone."""
    monkeypatch.setenv("PYTHONPATH", f"fault-in-frame-10={fault}")
    with open_path(clip("vp8.webm")) as other:
        frames = faulty(io.BytesIO(clip("25.mp4").read_bytes()))
        source = frames._source
        assert isinstance(source, RemoteDecoder)
        pid = source._process.pid
        assert number_of(frames[3]) == 3
        source._frame_seconds = seconds_for(fault)
        with pytest.raises(VideoError, match=FAULTS[fault]):
            frames[10]
        assert not running(pid)
        with pytest.raises(VideoError, match="gone"):
            frames[4]
        assert number_of(other[5]) == 5
        assert number_of(frames[3]) == 3  # still kept


def test_an_unusable_frame_leaves_the_others(tmp_path: Path) -> None:
    """Read in a row, so that it is asked for in advance; then back and forth around it."""
    big = write_clip(tmp_path / "big.ts", times=steady(25, 25, 1))
    small = write_clip(tmp_path / "small.ts", times=steady(25, 25, 2), size=(96, 64))
    whole = io.BytesIO(big.read_bytes() + small.read_bytes())
    with open_video(whole, read_ahead=0) as frames:
        first = next(n for n in range(len(frames)) if number_of_or_none(frames, n) is None)
        assert first >= 24
        for _ in range(2):
            with pytest.raises(VideoError, match="changes its picture size"):
                frames[first]
            assert number_of(frames[3]) == 3
            assert number_of(frames[4]) == 4


def number_of_or_none(frames: VideoFrames, index: int) -> int | None:
    try:
        return number_of(frames[index])
    except VideoError:
        return None


@pytest.mark.parametrize("name", ["b_frames.mp4", "open_group.mkv"])
def test_a_suspended_video_has_no_process_and_the_same_frames(clip: Clip, name: str) -> None:
    with clip(name).open("rb") as file, open_video(file) as frames:
        expected = [frames[index].copy() for index in range(len(frames))]
    with clip(name).open("rb") as file, open_video(file) as frames:
        for index, picture in enumerate(expected):
            np.testing.assert_array_equal(frames[index], picture)
            if index % 20 == 7:
                process = frames._source._process
                frames.suspend()
                assert not process.alive


def test_processes_end_with_the_video(clip: Clip) -> None:
    frames = open_path(clip("25.mp4"))
    source = frames._source
    assert isinstance(source, RemoteDecoder)
    pid = source._process.pid
    frames[0]
    assert running(pid)
    frames.close()
    frames.close()
    assert not running(pid)
    with pytest.raises(VideoError, match="closed"):
        frames[1]
