"""What is wrong with a set-up, and what to do about it: one line for each finding."""
