"""Fine-tuning on the annotations of a Label Studio project."""
