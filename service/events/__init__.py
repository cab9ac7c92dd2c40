"""The feed of the history and its subscribers."""
