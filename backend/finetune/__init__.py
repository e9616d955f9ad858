"""Fine-tuned weights in the service: their registry, the jobs that make them, their pick-up."""
