"""Tests that send hostile HTTP/1.x over raw sockets.

They check where the server finds the end of each request, and how much a request may cost.
"""
