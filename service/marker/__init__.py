"""The marker: a counter in the vault and in the database, by which a restored database is found.

A database that was restored to an earlier state names too few objects. The sweeper would delete
objects of files that were `ready` later, and a worker would expire files whose bytes are in the
vault. Nothing of that kind is therefore done unless the database agrees with the vault.

The vault has an object `assay-marker`, and the database one row. Both have the id of the
deployment, a counter, and the identity of the database: its system identifier, the oid of `files`
and its timeline. A dump that is restored has another one of the first two. A restore to a point in
time and a failover begin another timeline. A restored copy of the disk has the same identity and a
lower counter.

Check, at the start of an API or a worker, every CHECK_SECONDS, and when work begins:

1. Read the row and the object.
2. Compare them. Work is allowed if the row has the identity of the database, the object has the
   deployment of the row, and its counter is not above that of the row.
   - The object does not exist, and the row was never raised: work is allowed. The raise writes it.
   - The object does not exist otherwise: the vault was emptied, restored or replaced. No work is
     allowed.
   - Work is not allowed: read the row again, and compare once more. Another process may have raised
     both between the two reads.
   - The store or the database is unavailable: the last result counts for KEPT_SECONDS.
3. If work is allowed, and the last raise was about a minute ago, raise.

Raise, under a session-level advisory lock, so that no two raises write the object in the wrong
order:

1. Read and compare again. If work is not allowed, stop.
   - Another session has the lock: stop. It raises.
2. If the object does not exist, write it with the counter 0.
3. Increment the counter in the row, and commit.
4. Write the object with this counter.
   - The process dies, or the store does not respond: the counter in the row is higher, which is
     allowed.

Each statement that claims files, dooms reservations or takes leftovers compares the row once more,
with the counter that the process has last read in the vault (`agrees_with_vault`). A database that
is restored between two checks is found in this way. It is not found if it was restored from a copy
of its disk that is not older than the last check.

`assay reconcile` makes the database agree with the vault again.

The model of this protocol is tests/model/restored.py.
"""

from service.marker.document import MARKER_KEY
from service.marker.guard import Guard, Standing, guarded

__all__ = ["MARKER_KEY", "Guard", "Standing", "guarded"]
