"""``make demo``: a real Label Studio with sample photos and this backend, on one machine."""
