"""Label Studio's JSON: label configs, prompts, results. No HTTP, no model, no torch."""
