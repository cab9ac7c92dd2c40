"""Downloads: streams from the vault, and signed links."""
