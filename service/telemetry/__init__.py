"""Metrics, logs, and the settings of the heap."""
