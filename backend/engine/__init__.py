"""When and where the model runs: one inference thread, priorities, embedding cache."""
