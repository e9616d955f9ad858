"""SAM 2 in PyTorch: tensors in, tensors out.

from sam2model import ImagePredictor, VideoTracker, build_model

predictor = ImagePredictor(build_model("sam2.1_hiera_tiny"))
embedding = predictor.embed(image)
prediction = predictor.predict(embedding, points=[[320, 200]], labels=[1])

masks = AutomaticMaskGenerator(predictor.model).generate(image)

tracker = VideoTracker(predictor.model, frames)
tracker.prompt(0, "dog", points=[[320, 200]])
for answer in tracker.propagate():
    ...
"""

from sam2model.automatic_masks import AutomaticMask, AutomaticMaskGenerator
from sam2model.build import build_model
from sam2model.checkpoints import CheckpointError
from sam2model.image_predictor import ImageEmbedding, ImagePredictor, Prediction
from sam2model.object_memory import KnownMask, ObjectMemory
from sam2model.variants import VARIANTS
from sam2model.video_tracker import FrameMasks, VideoTracker

__all__ = [
    "VARIANTS",
    "AutomaticMask",
    "AutomaticMaskGenerator",
    "CheckpointError",
    "FrameMasks",
    "ImageEmbedding",
    "ImagePredictor",
    "KnownMask",
    "ObjectMemory",
    "Prediction",
    "VideoTracker",
    "build_model",
]
