"""Opening a video file, with the few formats and decoders that are wanted, and reading through it.

FFmpeg knows some hundreds of formats, among them playlists that make it open further files and
addresses. Only plain containers and common codecs are let through, the file is read through a
Python object, and no protocol is allowed for anything further.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from backend.pixels.frame_table import FrameTable
from backend.pixels.video_limits import VideoError, VideoLimits

# Containers that browsers play, on whose clock 0 is the file's 0 even if the first frame comes
# later (measured with Chromium 156). Of others the first timestamp, often arbitrary, is 0.
_BROWSER_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "ogg")
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,ogg,flv"
# Names of FFmpeg's decoders, the audio ones only so that opening a file does not stop at them.
_VIDEO_DECODERS = (
    "h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg1video", "mpeg2video", "mpeg4", "mjpeg",
    "theora", "prores", "ffv1",
)  # fmt: skip
_AUDIO_DECODERS = ("aac", "mp3", "mp3float", "opus", "vorbis", "ac3", "flac", "pcm_s16le")
_BUFFER_BYTES = 1 << 18
_MAX_DECODER_THREADS = 4  # each holds frames of its own

_SUPPORTED = "MP4, MOV, WebM, Matroska, AVI, MPEG-TS, Ogg or FLV"
_PLAYLIST_STARTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"[playlist]")


def open_container(file: BinaryIO, limits: VideoLimits) -> tuple[InputContainer, VideoStream]:
    """Open a seekable binary file and choose its video stream.

    Raises:
        VideoError: no supported video, damaged beyond opening, or outside the limits.
    """
    file.seek(0)
    head = file.read(16)
    file.seek(0)
    options = {
        "format_whitelist": _FORMATS,
        "codec_whitelist": ",".join(_VIDEO_DECODERS + _AUDIO_DECODERS),
        "protocol_whitelist": "none",
        "fflags": "+genpts",  # AVI has no presentation times of its own
    }
    try:
        container = av.open(
            file,
            "r",
            container_options=options,
            buffer_size=_BUFFER_BYTES,
            metadata_errors="ignore",
        )
    except av.FFmpegError as error:
        raise VideoError(_unreadable(head, error)) from error
    try:
        return container, _video_stream(container, limits)
    except VideoError:
        container.close()
        raise


def _unreadable(head: bytes, error: av.FFmpegError) -> str:
    if head.lstrip().startswith(_PLAYLIST_STARTS):
        return "This is a playlist, not a video. Give the address of the video file itself."
    if head[4:8] == b"ftyp":
        return (
            "The MP4 file has no usable index: the recording, the upload or the download was cut "
            f"short, or the file is damaged ({error.strerror}). Upload it again."
        )
    return f"This is not a {_SUPPORTED} video, or it is damaged ({error.strerror})."


def _video_stream(container: InputContainer, limits: VideoLimits) -> VideoStream:
    streams = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
    if not streams:
        raise VideoError("The file has no video in it.")
    stream = streams[0]
    for other in container.streams:
        if other is not stream:
            other.discard = av.stream.Discard.all
    codec = stream.codec_context
    name = codec.name if codec is not None else "something unknown"
    if name not in _VIDEO_DECODERS:
        raise VideoError(
            f"The video is coded as {name}, which is not supported. Convert it to H.264: "
            "ffmpeg -i input -c:v libx264 -pix_fmt yuv420p output.mp4"
        )
    limits.check_size(codec.width, codec.height)
    if container.duration is not None:
        limits.check_duration(container.duration / av.time_base)
    if container.format.name == "avi" and name in ("h264", "hevc") and codec.has_b_frames:
        raise VideoError(
            "The AVI file holds B-frames, for whose display times AVI has no place. Convert it to "
            "MP4: ffmpeg -i input.avi -c:v libx264 -pix_fmt yuv420p output.mp4"
        )
    # Before a picture is allocated that is larger than the header says.
    codec.options = {"max_pixels": str(limits.max_pixels)}
    codec.thread_type = "AUTO"
    codec.thread_count = min(codec.thread_count or _MAX_DECODER_THREADS, _MAX_DECODER_THREADS)
    return stream


def packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet[VideoStream]]:
    """The packets of the stream from the current position, up to the end or to where the file
    can be read no further. The last may be the empty one that drains the decoder."""
    # What is lost is counted from the table, not here. PyAV 18 raises IndexError at the end of a
    # file in whose middle a stream has appeared.
    with suppress(av.FFmpegError, IndexError):
        yield from container.demux(stream)


@dataclass
class Seen:
    """What one pass over the packets found, in the order of the file."""

    pts: list[int] = field(default_factory=list)
    keys: dict[int, int] = field(default_factory=dict)  # pts: dts
    damaged_tail: int = 0  # packets at the end of the file that are not all there
    count: int = 0
    last_duration: int = 0


def scan(container: InputContainer, stream: VideoStream, limits: VideoLimits) -> FrameTable:
    """Read all packets of the stream, from the start, and make the table.

    Raises:
        VideoError: no frames, no timestamps, or outside the limits.
    """
    seen = Seen()
    for packet in packets(container, stream):
        pts = packet.pts if packet.pts is not None else packet.dts
        if pts is None:
            if packet.size:
                raise VideoError(
                    "The video has frames without a timestamp, so they cannot be told apart. "
                    "Convert it: ffmpeg -i input -c:v libx264 -pix_fmt yuv420p output.mp4"
                )
            continue
        seen.count += 1
        if packet.is_corrupt:
            seen.damaged_tail += 1
            continue
        seen.damaged_tail = 0
        if packet.is_keyframe:
            seen.keys[pts] = packet.dts if packet.dts is not None else pts
        if packet.is_discard:  # decoded for the sake of later frames, cut off by an edit list
            continue
        seen.pts.append(pts)
        seen.last_duration = packet.duration or 0
        limits.check_count(len(seen.pts))
    return make_table(container, stream, seen, limits)


def make_table(
    container: InputContainer, stream: VideoStream, seen: Seen, limits: VideoLimits
) -> FrameTable:
    """The table of what was seen of a file.

    Raises:
        VideoError: no frames, no timestamps, or outside the limits.
    """
    time_base = stream.time_base
    if time_base is None:
        raise VideoError("The video states no unit of time, so its frames cannot be told apart.")
    limits.check_count(len(seen.pts))
    if not seen.pts:
        raise VideoError("The file holds no frames: it is empty or was cut short at the start.")
    # np.unique would import numpy.ma when first called, and no file can be opened by then.
    pts = np.array(sorted(set(seen.pts)), np.int64)
    # Where nothing is marked, decoding starts at the beginning.
    keys = sorted(seen.keys.items()) or [(int(pts[0]), int(pts[0]))]
    last_duration = seen.last_duration or (int(pts[-1] - pts[-2]) if len(pts) > 1 else 1)
    browser_clock = container.format.name in _BROWSER_FORMATS
    table = FrameTable(
        pts=pts,
        key_pts=np.array([key for key, _ in keys], np.int64),
        key_dts=np.array([dts for _, dts in keys], np.int64),
        time_base=time_base,
        origin=0 if browser_clock else int(pts[0]),
        last_duration=last_duration,
        missing=_missing(container, stream, seen, (int(pts[-1]) + last_duration) * time_base),
    )
    limits.check_duration(table.end - min(0.0, float(table.times[0])))
    return table


def _missing(container: InputContainer, stream: VideoStream, seen: Seen, end: Fraction) -> int:
    """Frames announced but not there: from the index where the container has a complete one,
    else estimated from the duration stated for the stream."""
    if container.format.name.startswith("mov") or stream.frames:
        announced = len(stream.index_entries) or stream.frames
        return max(0, announced - seen.count) + seen.damaged_tail
    stated = _stated_end(stream)
    if stated is None or len(seen.pts) < 2:
        return seen.damaged_tail
    frame = Fraction(max(seen.pts) - min(seen.pts), len(seen.pts) - 1) * (stream.time_base or 1)
    absent = int((stated - end) / frame + Fraction(1, 2)) if frame else 0
    return max(0, absent)


def _stated_end(stream: VideoStream) -> Fraction | None:
    """Matroska's DURATION tag of the stream, ``00:00:02.393000000``, in seconds."""
    parts = stream.metadata.get("DURATION", "").split(":")
    try:
        hours, minutes, seconds = (Fraction(part) for part in parts)
    except (ValueError, ZeroDivisionError):
        return None
    return hours * 3600 + minutes * 60 + seconds
