"""Frames of videos and of frame sequences, by number and exactly.

``VideoFrames`` decodes a video file, ``ImageSequence`` loads the pages of a frame sequence; both
give ``len()`` and ``frames[i]``, uint8 RGB [H, W, 3], as the tracker wants them. Which frame Label
Studio means by a number is the business of ``backend.labelstudio.timing``.
"""

from backend.video.containers import VideoLimits
from backend.video.errors import VideoError
from backend.video.frames import VideoFrames
from backend.video.sequence import ImageSequence
from backend.video.table import FrameTable

__all__ = ["FrameTable", "ImageSequence", "VideoError", "VideoFrames", "VideoLimits"]
