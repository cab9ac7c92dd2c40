"""Every SQL statement, above the one function that runs it; a module a noun.

Locks are taken on `reservations` first, then on `files`. A transition is one statement whose WHERE names the state, and the
lease where a worker makes it: None means that somebody else was first, which is no error by itself.
"""
