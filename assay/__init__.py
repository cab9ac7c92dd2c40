"""The Python client of Assay.

    from assay import Client

    with Client("https://files.example.com", key) as client:
        file = client.upload("photo.jpg")
        client.download(file.id, "copy.jpg")

All errors are classes of `assay.errors` and derive from AssayError.
"""

from assay.client import Client
from assay.errors import AssayError
from assay.files import File, Link, Rejection
from assay.progress import Progress

__all__ = ["AssayError", "Client", "File", "Link", "Progress", "Rejection"]
