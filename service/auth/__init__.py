"""Authorization: API keys with scopes, and tokens."""
