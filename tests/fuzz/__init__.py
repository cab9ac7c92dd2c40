"""Fuzzers: seeded mutations against running servers, with findings that can be repeated."""
