"""The Label Studio ML backend around SAM 2: HTTP, media, and when and where the model runs."""
