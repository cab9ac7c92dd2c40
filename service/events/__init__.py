"""Event streams: the feed of the history, and its subscribers."""
