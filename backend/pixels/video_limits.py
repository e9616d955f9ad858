"""What is refused of a video before it costs memory or time, and how that is said."""

from __future__ import annotations

from dataclasses import dataclass

from backend.expected import ExpectedError


class VideoError(ExpectedError):
    """A video cannot be opened or a frame of it cannot be decoded.

    The message is a plain sentence for the annotator: what is wrong and, where something can be
    done, what. It holds no path and no address.
    """


@dataclass(frozen=True)
class VideoLimits:
    """The largest video that is read; every check raises ``VideoError``.

    Attributes:
        max_pixels: width times height of a frame.
        max_frames: frames in the file.
        max_duration: seconds.
    """

    max_pixels: int = 8192 * 4320
    max_frames: int = 1_000_000
    max_duration: float = 24 * 3600.0

    def check_size(self, width: int, height: int) -> None:
        if width * height > self.max_pixels:
            raise VideoError(
                f"The video's frames of {width} x {height} pixels are larger than the allowed "
                f"{self.max_pixels} pixels."
            )

    def check_count(self, frames: int) -> None:
        if frames > self.max_frames:
            raise VideoError(f"The video has more than the allowed {self.max_frames} frames.")

    def check_duration(self, seconds: float) -> None:
        if seconds > self.max_duration:
            raise VideoError(
                f"The video lasts {seconds:.0f} s; the limit is {self.max_duration:.0f} s."
            )


DEFAULT_LIMITS = VideoLimits()
