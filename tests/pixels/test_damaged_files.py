"""Files that are cut short, damaged or no videos at all."""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from backend.pixels.video_limits import VideoError, VideoLimits
from tests.pixels.clips import number_of, steady, write_clip
from tests.pixels.in_process import video_frames

Clip = Callable[[str], Path]


def packet_places(path: Path) -> list[tuple[int, int]]:
    """Position and size of each packet of the video in a file."""
    with av.open(str(path)) as container:
        return [(p.pos or 0, p.size) for p in container.demux(video=0) if p.size]


@pytest.fixture(scope="session")
def index_first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 frames, the index of the file at its beginning."""
    path = tmp_path_factory.mktemp("index_first") / "clip.mp4"
    return write_clip(path, times=steady(50, 25), muxer_options={"movflags": "faststart"})


@pytest.mark.parametrize("whole", [1, 20, 36, 49])
def test_mp4_cut_short(whole: int, index_first: Path) -> None:
    """The end is missing from the middle of a frame on: the frames before are all right."""
    position, size = packet_places(index_first)[whole]
    file = io.BytesIO(index_first.read_bytes()[: position + size // 2])
    with video_frames(file) as frames:
        assert [number_of(frame) for frame in frames] == list(range(whole))
        assert frames.missing == 50 - whole
        assert frames.notice is not None
        assert f"{50 - whole} of 50 frames" in frames.notice


def test_webm_cut_short(clip: Clip) -> None:
    path = clip("vp8.webm")
    position, _ = packet_places(path)[41]
    with video_frames(io.BytesIO(path.read_bytes()[:position])) as frames:
        assert [number_of(frame) for frame in frames] == list(range(41))
        assert frames.missing == 19


def test_cut_short_among_b_frames(clip: Clip) -> None:
    """Frames are stored out of order, so the cut leaves holes before the end."""
    path = clip("b_frames.mkv")
    position, _ = packet_places(path)[40]
    with video_frames(io.BytesIO(path.read_bytes()[:position])) as frames:
        numbers = [round(time * 25) for time in frames.times]
        assert [number_of(frame) for frame in frames] == numbers
        assert 38 <= len(numbers) <= 40
        assert 60 - len(numbers) - 3 <= frames.missing <= 60 - len(numbers)


def test_mp4_without_index(clip: Clip) -> None:
    data = clip("25.mp4").read_bytes()
    with pytest.raises(VideoError, match=r"no usable index.*cut short"):
        video_frames(io.BytesIO(data[: len(data) // 2]))


@pytest.mark.parametrize("lost", [30, 24])
def test_damage_inside(lost: int, clip: Clip) -> None:
    """A frame (24 is a key frame) is overwritten: frames keep their numbers, other groups are
    untouched, and the same picture comes whatever was read before."""
    path = clip("25.mp4")
    data = bytearray(path.read_bytes())
    position, size = packet_places(path)[lost]
    data[position : position + size] = bytes(size)
    with video_frames(io.BytesIO(bytes(data)), read_ahead=0, max_bytes=0) as frames:
        forward = [np.array(frame) for frame in frames]
        assert len(forward) == 75
        whole = [*range(lost), *range(36, 75)]
        assert [number_of(forward[index]) for index in whole] == whole
        assert number_of(forward[lost]) == lost - 1  # the picture before stays on screen
        for index in (lost, 74, lost, 0):
            assert np.array_equal(frames[index], forward[index])


@pytest.mark.parametrize(
    "name", ["b_frames.mp4", "fragmented.mp4", "odd.webm", "transport.ts", "mpeg4_b_frames.avi"]
)
def test_any_damage_gives_frames_or_a_sentence(name: str, clip: Clip) -> None:
    """Changed, lost and added bytes anywhere: whole frames come out, or VideoError."""
    whole = clip(name).read_bytes()
    rng = np.random.default_rng(len(whole))
    opened = 0
    for _ in range(40):
        data = bytearray(whole)
        places = rng.integers(0, len(data), rng.choice([1, 10, 100]))
        for place in places:
            data[place] = rng.integers(256)
        cut = rng.integers(0, len(data))
        del data[cut : cut + rng.choice([0, 1, 200])]
        try:
            with video_frames(io.BytesIO(bytes(data)), limits=VideoLimits(1 << 20, 1000)) as frames:
                for index in (0, len(frames) - 1, len(frames) // 2):
                    assert frames[index].shape == (frames.height, frames.width, 3)
                opened += 1
        except VideoError as error:
            assert str(error).endswith((".", ".mp4"))
    assert opened > 0


def test_nothing_to_decode(clip: Clip) -> None:
    path = clip("25.mp4")
    data = bytearray(path.read_bytes())
    for position, size in packet_places(path):
        data[position : position + size] = bytes(size)
    with pytest.raises(VideoError, match="cannot be decoded"):
        video_frames(io.BytesIO(bytes(data)))


def test_changing_picture_size(tmp_path: Path) -> None:
    big = write_clip(tmp_path / "big.ts", times=steady(25, 25, 1))
    small = write_clip(tmp_path / "small.ts", times=steady(25, 25, 2), size=(96, 64))
    with video_frames(io.BytesIO(big.read_bytes() + small.read_bytes())) as frames:
        assert number_of(frames[20]) == 20
        with pytest.raises(VideoError, match=r"frame \d+ from 192 x 108 to 96 x 64"):
            frames[len(frames) - 1]


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"#EXTM3U\n#EXTINF:3,\n{clip}\n#EXT-X-ENDLIST\n", "playlist"),
        (b"ffconcat version 1.0\nfile '{clip}'\n", "playlist"),
        (b"\n\n#EXTM3U\n#EXTINF:3,\n{clip}\n", "playlist"),
        (b"<?xml version='1.0'?><MPD><BaseURL>{clip}</BaseURL></MPD>", "playlist"),
        (b"", "not a"),
        (b"file '{clip}'\n", "not a"),
        (b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 1 RTP/AVP 96\r\n", "not a"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a"),
        (b"1\n00:00:00,000 --> 00:00:01,000\nHello\n", "not a"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(64), "not a"),
        (bytes(5000), "not a"),
    ],
)
def test_no_video(start: bytes, message: str, clip: Clip) -> None:
    data = start.replace(b"{clip}", str(clip("25.mp4")).encode())
    with pytest.raises(VideoError, match=message) as refused:
        video_frames(io.BytesIO(data))
    assert str(clip("25.mp4")) not in str(refused.value)


@pytest.mark.parametrize("suffix", [".m3u8", ".ffconcat", ".txt"])
def test_playlists_by_path(suffix: str, clip: Clip, tmp_path: Path) -> None:
    path = tmp_path / f"list{suffix}"
    path.write_text(f"#EXTM3U\n#EXTINF:3,\n{clip('25.mp4')}\n#EXT-X-ENDLIST\n")
    with pytest.raises(VideoError, match="playlist"):
        video_frames(path)


def test_sound_only(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 48000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(VideoError, match="no video"):
        video_frames(path)


def test_codec_that_is_not_wanted(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.avi", times=steady(5, 25), codec="utvideo")
    with pytest.raises(VideoError, match="coded as utvideo"):
        video_frames(path)


def test_b_frames_in_avi(tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "clip.avi",
        times=steady(30, 25),
        codec_options={"bf": "2", "preset": "medium"},
        time_base=Fraction(1, 25),
    )
    with pytest.raises(VideoError, match=r"B-frames.*AVI"):
        video_frames(path)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (VideoLimits(max_pixels=192 * 108 - 1), "192 x 108"),
        (VideoLimits(max_frames=74), "more than the allowed 74 frames"),
        (VideoLimits(max_duration=2.9), "lasts 3 s"),
    ],
)
def test_limits(limits: VideoLimits, message: str, clip: Clip) -> None:
    with pytest.raises(VideoError, match=message):
        video_frames(clip("25.mp4"), limits=limits)
    with video_frames(clip("25.mp4"), limits=VideoLimits(192 * 108, 75, 3.0)) as frames:
        assert len(frames) == 75
