"""Training of the demo weights: pictures, composed images and clips, the loop, evaluation."""
