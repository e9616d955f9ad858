"""Attacks by the content of a file that should be a video."""

from __future__ import annotations

import functools
import io
import random
import struct
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from backend.pixels.video_limits import VideoError
from tests.hostile.arena import Arena
from tests.hostile.corpus import Attack
from tests.pixels.clips import steady, write_clip

PLAYLIST = "This is a playlist, not a video"
NO_VIDEO = "This is not a .* video, or it is damaged"
UNUSABLE = (
    f"{NO_VIDEO}|no usable index|holds no frames|cannot be decoded|no video in it|timestamp|"
    "too long|more memory|limit|allowed|could not be read|changes its picture size"
)


@functools.lru_cache
def _clip(suffix: str, **options: object) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"clip{suffix}"
        return write_clip(path, times=steady(50, 25), **options).read_bytes()  # type: ignore[arg-type]


def _mp4() -> bytes:
    return _clip(".mp4")


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind + body


def _patched(data: bytes, kind: bytes, offset: int, new: bytes) -> bytes:
    """Bytes at ``offset`` after the name of a box, the first of that name, replaced."""
    at = data.index(kind) + 4 + offset
    return data[:at] + new + data[at + len(new) :]


def _lasts_for_ages() -> bytes:
    """The movie header says three weeks."""
    return _patched(_mp4(), b"mvhd", 16, struct.pack(">I", 2**31 - 1))


def _frames_last_for_ages() -> bytes:
    """Each frame says that it is shown for days."""
    return _patched(_mp4(), b"stts", 12, struct.pack(">I", 2**31 - 1))


def _four_billion_frames() -> bytes:
    data = _patched(_mp4(), b"stts", 8, struct.pack(">I", 2**32 - 1))
    return _patched(data, b"stsz", 4, struct.pack(">II", 1, 2**32 - 1))


def _four_billion_chunks() -> bytes:
    return _patched(_mp4(), b"stco", 4, struct.pack(">I", 2**32 - 1))


def _nested_boxes() -> bytes:
    inner = b""
    for _ in range(20_000):
        inner = _box(b"moov", inner)
    return _box(b"ftyp", b"isom\0\0\0\0isom") + inner


def _external_reference(where: bytes) -> bytes:
    """The pictures are said to lie in another file (``dref``, ISO 14496-12)."""
    data = _mp4()
    at = data.index(b"url ", data.index(b"dref"))
    return data[: at + 4] + b"\0\0\0\0" + data[at + 8 :] + _box(b"free", where)


def _huge_pictures() -> bytes:
    """Motion JPEG: the container says 64 x 48, the pictures are 6000 x 6000."""
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (6000, 6000)).save(stream, "JPEG")
    return _avi(64, 48, [stream.getvalue()] * 3)


def _avi(width: int, height: int, pictures: list[bytes], frames: int = 3) -> bytes:
    def chunk(kind: bytes, *parts: bytes) -> bytes:
        body = b"".join(parts)
        return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)

    main = struct.pack("<14I", 40_000, 0, 0, 16, frames, 0, 1, 0, width, height, 0, 0, 0, 0)
    head = struct.pack("<4s4sIHHIIIIIIII4H", b"vids", b"MJPG", 0, 0, 0, 0, 1, 25, 0, frames, 0, 0,
                       0, 0, 0, width, height)  # fmt: skip
    form = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, b"MJPG", 0, 0, 0, 0, 0)
    streams = chunk(b"LIST", b"strl", chunk(b"strh", head), chunk(b"strf", form))
    header = chunk(b"LIST", b"hdrl", chunk(b"avih", main), streams)
    movie = chunk(b"LIST", b"movi", *(chunk(b"00dc", picture) for picture in pictures))
    return chunk(b"RIFF", b"AVI ", header, movie)


def _avi_claims() -> bytes:
    return _avi(10_000, 10_000, [b"\xff\xd8\xff\xd9"])


def _many_streams() -> bytes:
    """A transport stream whose table names a thousand streams, and goes on so."""
    stream = io.BytesIO()
    for number in range(3000):
        section = bytes([0x02, 0xB0, 0, 0, 1, 0xC1, 0, 0, 0xE1, 0, 0xF0, 0])
        for entry in range(30):
            pid = 0x100 + (number * 30 + entry) % 7000
            section += bytes([0x1B, 0xE0 | pid >> 8, pid & 255, 0xF0, 0])
        section = section[:1] + struct.pack(">H", 0xB000 | len(section) + 1) + section[3:]
        packet = b"\x47\x50\x20" + bytes([0x10 | number % 16]) + b"\0" + section + bytes(4)
        stream.write(packet[:188].ljust(188, b"\xff"))
    return stream.getvalue()


def _many_tracks() -> bytes:
    """An MP4 with its one track three thousand times."""
    data = _mp4()
    at = data.index(b"trak") - 4
    size = struct.unpack(">I", data[at : at + 4])[0]
    moov = data.index(b"moov") - 4
    (moov_size,) = struct.unpack(">I", data[moov : moov + 4])
    track = data[at : at + size]
    grown = struct.pack(">I", moov_size + size * 3000)
    return data[:moov] + grown + data[moov + 4 : at + size] + track * 3000 + data[at + size :]


def _ebml(identifier: bytes, body: bytes, size: int | None = None) -> bytes:
    length = len(body) if size is None else size
    return identifier + (length | 1 << 56).to_bytes(8, "big") + body


def _nested_matroska() -> bytes:
    head = _ebml(b"\x1a\x45\xdf\xa3", _ebml(b"\x42\x82", b"matroska"))
    inner = b""
    for _ in range(3000):
        inner = _ebml(b"\x12\x54\xc3\x67", inner)  # Tags
    return head + _ebml(b"\x18\x53\x80\x67", inner)


def _matroska_of_exabytes() -> bytes:
    head = _ebml(b"\x1a\x45\xdf\xa3", _ebml(b"\x42\x82", b"matroska"))
    return head + _ebml(b"\x18\x53\x80\x67", _ebml(b"\x16\x54\xae\x6b", b"", 2**55), 2**55)


def _matroska_lasts() -> bytes:
    data = _clip(".mkv")
    at = data.index(b"\x44\x89\x88")
    return data[: at + 3] + struct.pack(">d", 1e300) + data[at + 11 :]


def _too_many_frames() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mkv"
        times = [Fraction(number, 1000) for number in range(5_100)]
        write_clip(path, times=times, size=(32, 32), time_base=Fraction(1, 1000), gop=5_000)
        return path.read_bytes()


def _stream_of(codec: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.avi"
        return write_clip(path, times=steady(3, 25), codec=codec).read_bytes()


REFUSED: dict[str, tuple[Callable[[Arena], bytes], str]] = {
    "HLS playlist": (
        lambda a: f"#EXTM3U\n#EXTINF:3,\n{a.forbidden.url}/x.ts\n".encode(),
        PLAYLIST,
    ),
    "HLS playlist of files": (lambda a: b"#EXTM3U\n#EXTINF:3,\n/etc/passwd\n", PLAYLIST),
    "HLS playlist after blank lines": (
        lambda a: b"\n\n\n#EXTM3U\n#EXTINF:3,\n/etc/passwd\n",
        PLAYLIST,
    ),
    "HLS playlist after a byte order mark": (
        lambda a: b"\xef\xbb\xbf#EXTM3U\n#EXTINF:3,\n/etc/passwd\n",
        f"{PLAYLIST}|{NO_VIDEO}",
    ),
    "HLS key to steal a file": (
        lambda a: f'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{a.forbidden.url}"\nfile:///x\n'.encode(),
        PLAYLIST,
    ),
    "ffconcat script": (lambda a: b"ffconcat version 1.0\nfile '/etc/passwd'\n", PLAYLIST),
    "concat script": (lambda a: b"file '/etc/passwd'\n", NO_VIDEO),
    "DASH manifest": (
        lambda a: f"<?xml version='1.0'?><MPD><BaseURL>{a.forbidden.url}</BaseURL></MPD>".encode(),
        PLAYLIST,
    ),
    "DASH manifest without a declaration": (
        lambda a: b"<MPD><BaseURL>file:///etc/</BaseURL></MPD>",
        PLAYLIST,
    ),
    "Smooth Streaming manifest": (
        lambda a: b"<SmoothStreamingMedia MajorVersion='2'/>",
        f"{NO_VIDEO}|{PLAYLIST}",
    ),
    "PLS playlist": (lambda a: b"[playlist]\nFile1=/etc/passwd\n", PLAYLIST),
    "SDP session": (
        lambda a: b"v=0\r\nc=IN IP4 127.0.0.1\r\nm=video 1 RTP/AVP 96\r\n",
        NO_VIDEO,
    ),
    "RTSP address": (lambda a: b"RTSPtextRTSP://127.0.0.1/x", NO_VIDEO),
    "FFmpeg metadata": (lambda a: b";FFMETADATA1\n[CHAPTER]\nSTART=0\n", NO_VIDEO),
    "subtitles": (lambda a: b"1\n00:00:00,000 --> 00:00:01,000\nHello\n", NO_VIDEO),
    "picture": (lambda a: b"\x89PNG\r\n\x1a\n" + bytes(100), NO_VIDEO),
    "animated GIF": (lambda a: b"GIF89a" + bytes(100), NO_VIDEO),
    "raw H.264 without a container": (lambda a: b"\0\0\0\1\x67" + bytes(500), NO_VIDEO),
    "sound": (lambda a: b"RIFF\x24\0\0\0WAVEfmt " + bytes(64), NO_VIDEO),
    "NUT": (lambda a: b"nut/multimedia container\0" + bytes(500), NO_VIDEO),
    "web page": (lambda a: b"<!doctype html><video src=x>", NO_VIDEO),
    "nothing": (lambda a: b"", NO_VIDEO),
    "zeros": (lambda a: bytes(1 << 20), NO_VIDEO),
    "MP4 of frames of days": (lambda a: _frames_last_for_ages(), "the limit is 3600 s"),
    "MP4 of four billion frames": (lambda a: _four_billion_frames(), UNUSABLE),
    "MP4 of boxes in boxes": (lambda a: _nested_boxes(), UNUSABLE),
    "MP4 of 3000 tracks": (lambda a: _many_tracks(), UNUSABLE),
    "MP4 without its index": (lambda a: _mp4()[: len(_mp4()) // 2], "no usable index"),
    "MP4 box of negative size": (
        lambda a: _box(b"ftyp", b"isom\0\0\0\0") + b"\0\0\0\1moov" + b"\xff" * 8 + bytes(100),
        UNUSABLE,
    ),
    "transport stream of 3000 streams": (lambda a: _many_streams(), UNUSABLE),
    "transport stream of nothing": (lambda a: (b"\x47\x1f\xff\x10" + bytes(184)) * 3000, UNUSABLE),
    "AVI of 100 megapixels": (lambda a: _avi_claims(), "larger than the allowed 4000000 pixels"),
    "AVI whose pictures are larger than it says": (lambda a: _huge_pictures(), UNUSABLE),
    "Matroska of Tags in Tags": (lambda a: _nested_matroska(), UNUSABLE),
    "Matroska of exabytes": (lambda a: _matroska_of_exabytes(), UNUSABLE),
    "Matroska of too many frames": (lambda a: _too_many_frames(), "more than the allowed 5000"),
    "codec that is not wanted": (lambda a: _stream_of("utvideo"), "coded as utvideo"),
    "Ogg without end": (
        lambda a: (b"OggS" + bytes(22) + b"\x01\xff" + bytes(255)) * 4000,
        UNUSABLE,
    ),
    "FLV of tags of 16 MB": (
        lambda a: b"FLV\x01\x05\0\0\0\x09\0\0\0\0" + b"\x09\xff\xff\xff" + bytes(100_000),
        "coded as something unknown",
    ),
}  # fmt: skip

PLAYED: dict[str, tuple[Callable[[Arena], bytes], str]] = {
    "MP4 that says its pictures lie in another file": (
        lambda a: _external_reference(b"file:///etc/passwd"),
        f"plays 50 frames|{UNUSABLE}",
    ),
    "MP4 that says its pictures lie on another host": (
        lambda a: _external_reference(f"{a.forbidden.url}/x".encode()),
        f"plays 50 frames|{UNUSABLE}",
    ),
    "MP4 whose header says three weeks": (
        lambda a: _lasts_for_ages(),
        "plays 50 frames|the limit is 3600 s",
    ),
    "MP4 of four billion chunks": (
        lambda a: _four_billion_chunks(),
        f"plays 50 frames|{UNUSABLE}",
    ),
    "Matroska that lasts for ever": (
        lambda a: _matroska_lasts(),
        f"plays 50 frames|{UNUSABLE}",
    ),
    "MP4 with a playlist behind it": (
        lambda a: _mp4() + f"\n#EXTM3U\n{a.forbidden.url}/x.ts\n".encode(),
        "plays 50 frames",
    ),
}


def attacks() -> list[Attack]:
    """See the module."""
    found = [_attack(name, make, says) for name, (make, says) in REFUSED.items()]
    found += [_attack(name, make, says, True) for name, (make, says) in PLAYED.items()]
    for suffix in (".mp4", ".mkv", ".ts", ".avi", ".webm"):
        codec = "libvpx" if suffix == ".webm" else "libx264"
        found.append(
            Attack("video", f"{suffix[1:]}, damaged in four ways", _damaged(suffix, codec),
                   f"plays|{UNUSABLE}", harmless=True, seconds=60)
        )  # fmt: skip
    return found


def _attack(name: str, make: Callable[[Arena], bytes], says: str, harmless: bool = False) -> Attack:
    def run(arena: Arena) -> str:
        return arena.video(arena.serve(make(arena)))

    return Attack("video", name, run, says, harmless, seconds=12)


def _damaged(suffix: str, codec: str) -> Callable[[Arena], str]:
    def run(arena: Arena) -> str:
        whole, chance, told = _clip(suffix, codec=codec), random.Random(suffix), ""
        for _ in range(4):
            body = bytearray(whole)
            for _ in range(chance.choice((10, 100))):
                body[chance.randrange(len(body))] = chance.randrange(256)
            try:
                told = arena.video(arena.serve(bytes(body)))
            except VideoError as error:
                told = str(error)
        return told

    return run
