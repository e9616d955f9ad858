"""Masks out, and videos as frame sequences."""
