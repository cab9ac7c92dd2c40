"""The stores' fixtures, and the service's own over them."""

from tests.running import resources, root_incoming, settings
from tests.stores import deployment, fresh_deployment, incoming, known_identities, object_store, running_stores, signer, store, vault

__all__ = [
    "deployment",
    "fresh_deployment",
    "incoming",
    "known_identities",
    "object_store",
    "resources",
    "root_incoming",
    "running_stores",
    "settings",
    "signer",
    "store",
    "vault",
]
