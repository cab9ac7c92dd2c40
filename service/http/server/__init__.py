"""The HTTP/1.1 server below the application: framing, limits, and refusals before a route is known."""
