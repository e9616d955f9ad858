"""Frames of videos and of frame sequences, by number and exactly.

``VideoFrames`` decodes a video file, ``ImageSequence`` loads the pages of a frame sequence; both
give ``len()`` and ``frames[i]``, uint8 RGB [H, W, 3], as the tracker wants them. Which frame Label
Studio means by a number is the business of ``backend.labelstudio.timing``.
"""

from backend.pixels.containers import VideoLimits
from backend.pixels.errors import VideoError
from backend.pixels.frame_table import FrameTable
from backend.pixels.pages import ImageSequence
from backend.pixels.videos import VideoFrames

__all__ = ["FrameTable", "ImageSequence", "VideoError", "VideoFrames", "VideoLimits"]
