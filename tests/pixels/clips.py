"""Small clips whose every frame carries its own number, made with PyAV."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

BITS = 12
WIDTH, HEIGHT = 192, 108


def numbered(number: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """A grey picture with ``number`` in the top half as black (0) and white (1) cells, highest bit
    at the left, and a red corner at the bottom left: uint8 RGB [height, width, 3]."""
    picture = np.full((height, width, 3), 128, np.uint8)
    edges = np.linspace(0, width, BITS + 1).astype(int)
    for bit in range(BITS):
        white = number >> (BITS - 1 - bit) & 1
        picture[: height // 2, edges[bit] : edges[bit + 1]] = 255 * white
    picture[height * 3 // 4 :, : width // 4] = (255, 0, 0)
    return picture


def number_of(picture: NDArray[np.uint8]) -> int:
    """The number in a picture of ``numbered``; -1 if it is not one, or not upright."""
    height, width = picture.shape[:2]
    edges = np.linspace(0, width, BITS + 1).astype(int)
    rows = slice(height // 8, height * 3 // 8)
    number = 0
    for left, right in itertools.pairwise(edges):
        quarter = (right - left) // 4
        level = picture[rows, left + quarter : right - quarter].mean()
        if 70 < level < 185:
            return -1
        number = number * 2 + int(level > 128)
    corner = picture[height * 7 // 8, width // 8].astype(int)
    return number if corner[0] > corner[1:].max() + 80 else -1


def write_clip(
    path: Path,
    *,
    times: Iterable[Fraction],
    codec: str = "libx264",
    size: tuple[int, int] = (WIDTH, HEIGHT),
    rotation: float = 0,
    hflip: bool = False,
    transform: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
    pix_fmt: str = "yuv420p",
    codec_options: dict[str, str] | None = None,
    muxer_options: dict[str, str] | None = None,
    muxer: str | None = None,
    time_base: Fraction = Fraction(1, 90000),
    gop: int = 12,
    silence: Fraction | None = None,
) -> Path:
    """Write a clip whose frame k, shown at ``times[k]`` seconds, carries the number k.

    Args:
        path: where; the suffix names the container unless ``muxer`` does.
        times: presentation times, ascending.
        rotation, hflip: the display matrix of the stream (degrees counterclockwise).
        transform: applied to each picture before it is encoded.
        size: width and height of the pictures before ``transform``.
        gop: distance of the key frames.
        silence: seconds of silent sound from time 0 beside the pictures.
    """
    times = list(times)
    options = {"g": str(gop), **(codec_options or {})}
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    rate = 1 / (sum(gaps, Fraction(0)) / len(gaps)) if gaps else Fraction(25)
    if codec == "libx264":
        options = {"preset": "ultrafast", "crf": "18", "bf": "0", **options}
    with av.open(str(path), "w", format=muxer, options=muxer_options or {}) as container:
        stream = container.add_stream(codec, rate=rate.limit_denominator(1001), options=options)
        sample = numbered(0, *size)
        stream.height, stream.width = (sample if transform is None else transform(sample)).shape[:2]
        stream.pix_fmt = pix_fmt
        stream.time_base = time_base
        stream.codec_context.time_base = time_base
        stream.gop_size = gop
        if rotation or hflip:
            stream.set_display_rotation(rotation, hflip=hflip)
        sound = container.add_stream("aac", rate=48000) if silence else None
        if sound is not None and silence is not None:
            sound.layout = "mono"
            _write_silence(container, sound, silence)
        for number, time in enumerate(times):
            picture = numbered(number, *size)
            if transform is not None:
                picture = np.ascontiguousarray(transform(picture))
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.time_base = time_base
            frame.pts = round(time / time_base)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def _write_silence(
    container: av.container.OutputContainer, sound: av.AudioStream, length: Fraction
) -> None:
    for start in range(0, int(length * 48000), 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        for packet in sound.encode(frame):
            container.mux(packet)
    for packet in sound.encode(None):
        container.mux(packet)


def steady(count: int, rate: Fraction | int, start: Fraction | int = 0) -> list[Fraction]:
    """The times of ``count`` frames at a constant ``rate``, from ``start`` seconds on."""
    return [Fraction(start) + number / Fraction(rate) for number in range(count)]


def trim(path: Path, start: Fraction) -> Path:
    """Move the beginning of an MP4 clip to ``start`` seconds by its edit list, in place."""
    data = bytearray(path.read_bytes())
    entry = data.index(b"elst") + 12  # after version, flags and the number of entries
    length, media_time = struct.unpack(">Ii", data[entry : entry + 8])
    movie_scale = struct.unpack(">I", data[(at := data.index(b"mvhd") + 16) : at + 4])[0]
    media_scale = struct.unpack(">I", data[(at := data.index(b"mdhd") + 16) : at + 4])[0]
    moved = (length - round(start * movie_scale), media_time + round(start * media_scale))
    struct.pack_into(">Ii", data, entry, *moved)
    path.write_bytes(data)
    return path


def uneven(count: int) -> list[Fraction]:
    """Times of ``count`` frames whose distances vary between 11 and 100 ms."""
    gaps = (1001, 5000, 2002, 9000, 3000, 3000, 1001)
    return list(
        itertools.islice(
            itertools.accumulate(
                (Fraction(gap, 90000) for gap in itertools.cycle(gaps)), initial=Fraction(0)
            ),
            count,
        )
    )


B_FRAMES = {"preset": "medium", "bf": "3"}
VP9 = {"codec": "libvpx-vp9", "codec_options": {"deadline": "realtime", "cpu-used": "8"}}
X265 = {"preset": "ultrafast", "x265-params": "keyint=12:open-gop=1:bframes=3:log-level=none"}


def _turned(turns: int) -> dict[str, Any]:
    return {"rotation": 90 * turns, "transform": lambda picture: np.rot90(picture, -turns)}


def _noisy(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Noise beside the red corner, for files larger than one read of the file."""
    noisy = picture.copy()
    height, width = picture.shape[:2]
    area = noisy[height * 3 // 5 :, width // 3 :]
    area[:] = np.random.default_rng(int(picture[0].sum())).integers(0, 255, area.shape, np.uint8)
    return noisy


CLIPS: dict[str, dict[str, Any]] = {
    **{
        f"{name}.mp4": {"times": steady(int(3 * rate), rate)}
        for name, rate in {
            "23.976": Fraction(24000, 1001),
            "24": Fraction(24),
            "25": Fraction(25),
            "29.97": Fraction(30000, 1001),
            "30": Fraction(30),
            "50": Fraction(50),
            "60": Fraction(60),
        }.items()
    },
    "vfr.mp4": {"times": uneven(60)},
    "b_frames.mp4": {"times": steady(60, 30), "codec_options": B_FRAMES},
    "b_frames.mkv": {"times": steady(60, 25), "codec_options": B_FRAMES},
    "offset.mp4": {"times": steady(60, 25, Fraction(1, 2))},
    "offset_with_sound.mp4": {"times": steady(60, 25, Fraction(1, 2)), "silence": Fraction(3)},
    "offset.webm": {"times": steady(60, 25, Fraction(1, 2)), **VP9},
    "trimmed.mp4": {"times": steady(60, 25), "codec_options": B_FRAMES, "trim": Fraction(17, 25)},
    "fragmented.mp4": {
        "times": steady(60, 25),
        "muxer_options": {"movflags": "frag_keyframe+empty_moov"},
    },
    "turned_90.mp4": {"times": steady(30, 25), **_turned(1)},
    "turned_180.mp4": {"times": steady(30, 25), **_turned(2)},
    "turned_270.mp4": {"times": steady(30, 25), **_turned(3)},
    "mirrored.mp4": {
        "times": steady(30, 25),
        "hflip": True,
        "transform": lambda picture: picture[:, ::-1],
    },
    "odd.webm": {"times": steady(40, 25), "size": (191, 107), **VP9},
    "long_group.mp4": {
        "times": steady(120, 25),
        "gop": 1000,
        "size": (384, 216),
        "transform": _noisy,
        "codec_options": {"sc_threshold": "0", "bf": "2"},
    },
    "groups.mp4": {
        "times": steady(120, 25),
        "size": (384, 216),
        "transform": _noisy,
        "codec_options": {"sc_threshold": "0", "bf": "2"},
    },
    "open_group.mkv": {"times": steady(60, 25), "codec": "libx265", "codec_options": X265},
    "vp8.webm": {
        "times": steady(60, 25),
        "codec": "libvpx",
        "codec_options": {"auto-alt-ref": "1", "lag-in-frames": "16"},
    },
    "transport.ts": {"times": steady(60, 25, 10), "codec_options": B_FRAMES},
    "mpeg4_b_frames.avi": {
        "times": steady(60, 25),
        "codec": "mpeg4",
        "codec_options": {"bf": "2"},
        "time_base": Fraction(1, 25),
    },
    "still_pictures.avi": {
        "times": steady(30, 25),
        "codec": "mjpeg",
        "pix_fmt": "yuvj420p",
        "time_base": Fraction(1, 25),
    },
}


def make_clip(name: str, folder: Path) -> Path:
    """Write the clip ``name`` of ``CLIPS`` into a folder."""
    wanted = dict(CLIPS[name])
    start = wanted.pop("trim", None)
    path = write_clip(folder / name, **wanted)
    return path if start is None else trim(path, start)


def first_number(name: str) -> int:
    """The number the first frame of a clip of ``CLIPS`` carries."""
    return round(CLIPS[name].get("trim", 0) * 25)
