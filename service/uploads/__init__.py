"""Uploads: declaring a file, signing URLs, recording arrivals, and streaming bytes to the vault."""
