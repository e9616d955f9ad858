"""Why the frames of a video could not be had."""

from __future__ import annotations

from backend.expected import ExpectedError


class VideoError(ExpectedError):
    """A video cannot be opened or a frame of it cannot be decoded.

    The message is a plain sentence for the annotator: what is wrong and, where something can be
    done, what. It holds no path and no address.
    """
