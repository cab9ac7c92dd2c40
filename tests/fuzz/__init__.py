"""Fuzzers that send seeded mutations to running servers, so that findings can be repeated."""
