"""Files as their owners see them: find, wait, list, change, delete; what may be declared."""
