"""The Label Studio ML backend around SAM 2: HTTP, media, and when and where the model runs."""

__version__ = "0.1.0"
"""Of the whole project; the package, the image, the logs and the answers take it from here."""
