"""Training of SAM 2 on composed images and clips: data, losses, the loop and its evaluation."""
