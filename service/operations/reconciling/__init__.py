"""Reconciliation: the database is made to agree with the vault after one of them was restored.

While they disagree (service/marker/__init__.py), nothing is verified, expired or deleted. Clients
can declare, upload and download meanwhile.

1. Take the marker's lock for the whole run, on a connection of its own, and read both markers.
   - Another session has the lock: end. It raises the marker, or reconciles.
   - The vault has no marker, or that of another deployment: end, unless the administrator has said
     that this is the right vault.
2. Old reservations. An object may have been committed under such a key in a state of the database
   that is lost. Wait until their leases have expired.
   - *There is no object:* the sweeper deletes the reservation later.
   - *The file is unproved or damaged:* adopt the object, as below.
   - *The row of the file is lost, or the object cannot be read:* delete the reservation, so that
     the sweeper does not delete the object. Step 3 finds it.
   - *The file is `ready` with another object:* judge that one, as in step 3. If the file becomes
     `damaged`, its bytes may have been sent again under this key: adopt the object.
   - *The file is final:* the sweeper deletes the object later.
   - *The holder extends its lease:* it lives, and commits or gives up by itself.
3. List the vault, and merge the list with the rows in the order of keys, in constant memory
   (merging.py).
   - *A row without an object, an object with another ETag or size than in the row, or of a
     `damaged` file:* judge it (service/worker/rereading.py). The row gets its ETag, or the file
     becomes `damaged` or `ready`.
   - *An object that no row names, of a `ready` file:* as in step 2.
   - *An object that no row names, of an unproved or damaged file:* adopt it.
   - *An object that no row names, of a file without a row:* adopt it, if the administrator has said
     so, under the recorded owner or a given one. Otherwise report it.
   - *Any other object that no row names:* report it.

   If files without a row are adopted, this step runs twice: first for objects with a recorded
   digest, and then for the others. A file may have two objects, if its owner has sent the bytes of
   a damaged file again. Only the digest shows which of them has the right bytes.
4. Set the marker, in the row and then in the vault. The connection of step 1 does this: it is lost
   if the database was restored again meanwhile.

Adoption (adopting.py) of an object that no reservation names:

1. Hash the object, and compare it with the recorded digest. Then ask for it once more.
   - *The bytes differ, or the object cannot be read or is gone:* report it.
2. By one transaction: reserve the key, look whether a row names it, and commit the file from the
   reservation. For a damaged file, the bytes must be those that were proved.
   - *A row or a reservation names the key by now, or the file is final:* report it. The transaction
     has changed nothing.

If the run is interrupted, no reservation is left by which the sweeper would delete the object. The
scrub of orphans may have doomed the key before step 2, which then finds its reservation. It keeps
that for COPY_GRACE, so that an object which was there at the end of step 1 cannot be gone without
it.

Adoption of an object of an old reservation: take over the reservation, and extend its lease while
the object is hashed. Commit the file from it. If that is refused, delete the reservation and report
the object. If the run is interrupted, the sweeper treats the reservation as that of any process
that died.

An object that exists is not written again: one request at most was ever sent to its key. A late
request can only create an object that this run does not see. No row names it then, and
`assay scrub --orphans` finds it.

A deletion that was requested before the database was restored must have ended. Workers are
therefore stopped while a database is restored.

The run may be interrupted and repeated. The model of this protocol is tests/model/restored.py.
"""

from service.operations.reconciling.adopting import Adoption
from service.operations.reconciling.running import CannotReconcile, Found, Options, reconcile

__all__ = ["Adoption", "CannotReconcile", "Found", "Options", "reconcile"]
