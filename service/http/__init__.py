"""HTTP functions that the routes share: representations, conditions, bodies, errors.

The server is in `server`.
"""
