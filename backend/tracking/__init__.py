"""Propagation through frames: what to track, the jobs that do it, and what they found."""
