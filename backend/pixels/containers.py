"""Opening a video file for reading, with the few formats and decoders that are wanted.

FFmpeg knows some hundreds of formats, among them playlists that make it open further files and
addresses. Only plain containers and common codecs are let through, the file is read through a
Python object, and no protocol is allowed for anything further.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from backend.pixels.errors import VideoError

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


@dataclass(frozen=True)
class VideoLimits:
    """What is refused before it costs memory or time.

    Attributes:
        max_pixels: width times height of a frame.
        max_frames: frames in the file.
        max_duration: seconds.
    """

    max_pixels: int = 8192 * 4320
    max_frames: int = 1_000_000
    max_duration: float = 24 * 3600.0


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
    check_pixels(codec.width, codec.height, limits)
    if container.duration is not None and container.duration / av.time_base > limits.max_duration:
        raise VideoError(too_long(container.duration / av.time_base, limits))
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


def check_pixels(width: int, height: int, limits: VideoLimits) -> None:
    """Raises VideoError for frames larger than the limit."""
    if width * height > limits.max_pixels:
        raise VideoError(
            f"The video's frames of {width} x {height} pixels are larger than the allowed "
            f"{limits.max_pixels} pixels."
        )


def too_long(seconds: float, limits: VideoLimits) -> str:
    """The sentence for a video beyond ``max_duration``."""
    return f"The video lasts {seconds:.0f} s; the limit is {limits.max_duration:.0f} s."


def packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet[VideoStream]]:
    """The packets of the stream from the current position, up to the end or to where the file
    can be read no further. The last may be the empty one that drains the decoder."""
    found = container.demux(stream)
    while True:
        try:
            packet = next(found, None)
        except av.FFmpegError:  # what is lost is counted from the table, not here
            return
        except IndexError:  # PyAV 18 at the end of a file in whose middle a stream has appeared
            return
        if packet is None:
            return
        yield packet
