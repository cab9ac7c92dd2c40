"""The worker: it claims due files, verifies them, and sweeps what is left behind."""
