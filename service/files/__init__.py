"""Files as their owners see them: lookup, waiting, lists, changes, deletion and validation."""
