"""Queues, pools, and on whose behalf a thread works."""
