"""The HTTP/1.1 server below the application: framing, limits, and refusals before routing."""
