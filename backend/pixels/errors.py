"""Why the frames of a video could not be had."""

from __future__ import annotations


class VideoError(Exception):
    """A video cannot be opened or a frame of it cannot be decoded.

    The message is a plain sentence for the annotator: what is wrong and, where something can be
    done, what. It holds no path and no address.
    """
