"""The HTTP routes: plain functions as handlers, with the wire structs beside them.

They call the operations.
"""
