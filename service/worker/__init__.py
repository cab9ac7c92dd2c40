"""What a worker does with due files: claim, verify, sweep."""
