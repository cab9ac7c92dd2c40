"""The SQL statements, each above the one function that runs it. A module is named by a noun.

Every process locks rows of `reservations` before rows of `files`, so that no two processes wait for
each other. A transition is one statement. Its WHERE clause names the state, and the lease if a
worker makes the transition. None means that no row matched, because another process was first. This
is not an error by itself.
"""
