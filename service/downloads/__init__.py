"""Ways out of the vault: streams and signed links."""
