"""The object store, by one identity: the only place that imports the store's SDK.

`ObjectStore.bucket(name)` gives a `Bucket`; its coroutines each run one request in a thread, its plain methods in the caller's own.
Nothing that writes is ever sent twice. All that can go wrong is a `StoreError`: the tree is in `errors`.
"""

from service.object_store.bucket import Bucket, ListedObject, StoredCopy, StoredObject, StoredPart, is_condition
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
