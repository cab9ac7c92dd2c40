"""Metrics, logs, and the heap's settings."""
