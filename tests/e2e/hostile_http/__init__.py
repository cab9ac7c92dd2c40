"""Hostile HTTP/1.x over raw sockets: where a request begins and ends, and what it may cost."""
