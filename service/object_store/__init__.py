"""The object store, accessed as one identity.

    administration  identities, policies and rules, by the SDK    store  the store and its threads
                                                                  bucket  the operations
                                    client                                sign, send once, check
    signing (presign: upload URLs)  errors (documents: XML)  transport (connections, response_heads)
                                    messages                              requests and responses

`ObjectStore.bucket(name)` returns a `Bucket`, and operations use the store only through it. Each of
its coroutines runs one request in a thread, and its plain methods run in the caller's thread. A
request that writes is never sent twice. Every failure is a `StoreError`, whose tree is in `errors`.
Signing and the mapping of errors do not depend on the transport, so that another transport can be
added.

See docs/decisions/0009-own-s3-client.md.
"""

from service.object_store.bucket import Bucket, is_condition
from service.object_store.errors import (
    ObjectChanged,
    ObjectMissing,
    ObjectUnreadable,
    RequestRefused,
    SentTooLate,
    StoreError,
    StoreUnavailable,
    UploadMissing,
)
from service.object_store.objects import ListedObject, StoredCopy, StoredObject, StoredPart
from service.object_store.reader import ObjectReader
from service.object_store.store import ObjectStore

__all__ = [
    "Bucket",
    "ListedObject",
    "ObjectChanged",
    "ObjectMissing",
    "ObjectReader",
    "ObjectStore",
    "ObjectUnreadable",
    "RequestRefused",
    "SentTooLate",
    "StoreError",
    "StoreUnavailable",
    "StoredCopy",
    "StoredObject",
    "StoredPart",
    "UploadMissing",
    "is_condition",
]
