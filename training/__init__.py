"""Training of SAM 2: the losses, prompts and unrolled network that both trainings share."""
