"""The scrub of orphans: objects that no row and no reservation names.

The sweeper finds leftovers from rows alone. It cannot find an object whose row is lost with a state
of the database, one that a late request of an earlier life has written, or one that was put there
by hand. This scrub lists both buckets, incoming first, and compares each page with the rows. It
holds one page and the next one in memory, and no transaction while it lists.

A row or a reservation names every key before an object is written under it. Rows are therefore read
after their page was listed: an object without a row was not written just now. Only `assay
reconcile` can name such an object later, when it adopts it.

1. Check the guard (service/marker/__init__.py), also before each page.
   - *It is stopped:* end with its reason. The database may name too few objects.
2. Take the next page. It must continue the order of keys (service/operations/listing.py). The page
   after it is requested meanwhile.
   - *It is out of order:* end. Pages before it were in order, and what was found in them stays.
   - *The store refuses, or is unavailable:* end. Keys that were doomed before stay doomed.
   - *It lists an object that is gone:* step 5 does not find it in the vault. In incoming, a
     deletion of nothing does no harm.
   - *It omits objects, or ends early:* they are not found in this run. In incoming, their ages
     begin again.
   - *It has the keys of another bucket:* step 5 does not find them in the vault. In incoming, the
     deletion goes to the same key in the right bucket. No row names that key.
3. Ask by one statement which of the keys are named. The others are orphans.
   - In the vault, a key that is not a UUID is not one of Assay. It is `foreign`.
   - In incoming, a key that PostgreSQL cannot store as text is `foreign`.
4. Compare the age with the grace (`find_grace`). A younger orphan is `young`.
   - In the vault, the age is the time from the object's date to the database's clock when the run
     began. No URL writes to the vault, so that no client can choose this date. The database's clock
     is the one that leases and the sweeper use.
   - In incoming, a client can choose the date. The age is the time since the first run that saw
     the key, by the database's clock. The table `incoming_orphans` has this time. A key that is not
     listed, or is named, is deleted from it when the range of its page has been compared, and after
     the last page of a complete listing.
   Without `--delete`, every other orphan is `deletable`, and this is the end of the page.
5. Vault only: send a HEAD request for each orphan.
   - *It does not exist:* the listing was stale. It is no orphan.
   - *Its metadata name no file of Assay:* it is `foreign`. An administrator has put it there.
   - *Its date is younger than the grace:* it is `young`.
   - *Any other error:* read the marker. If the store answers, the error concerns this object. It is
     `unreadable`, and stays. Otherwise the store is unavailable: end.
6. Doom the keys of the page by one short transaction, which compares the names, the marker, and in
   incoming the ages again (service/queries/orphans.py). In the vault, the reservation is that of
   the object's key. In incoming, it has a fresh vault key, and the key as its `scratch_key`, as the
   reservation of a probe of the store.
   - *A row names the key by now, or the file in the metadata is unproved:* the object is `kept`.
   - *The database was restored since step 1:* nothing is doomed. End.
   - *The response is lost:* end. The next run finds the keys named or not, and goes on.

The sweeper deletes the objects of doomed reservations, and once more after COPY_GRACE.

Two runs may go on at once, and beside `assay reconcile` and uploads. An upload in parts that was
not completed has no object, and is left to the sweeper and to the bucket's lifecycle rule. The
model of this protocol is tests/model/restored.py.
"""

from service.operations.orphans.found import CannotScrub, Found, find_grace
from service.operations.orphans.running import scrub_orphans

__all__ = ["CannotScrub", "Found", "find_grace", "scrub_orphans"]
