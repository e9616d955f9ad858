"""What is wrong with a set-up, and what to do about it: one line for each finding.

``python -m backend doctor`` prints it, ``GET /diagnostics`` answers with the same as JSON.
"""
