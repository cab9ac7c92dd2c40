"""Downloads whose bytes nginx sends: the response names the vault object, and nginx reads it.

1. A request has reached the API through nginx if it has the secret of ACCEL_SECRET in the field
   `X-Assay-Accel`. The API checks it like every other: rights, conditions, range.
   - The field is absent or wrong, the request is not a GET, the body has fewer bytes than
     ACCEL_MIN_BYTES, or the file belongs to one of ACCEL_DIRECT_OWNERS: the API sends the bytes.
2. Sign a GET of the object as the reader, an identity that may read the vault and nothing else.
   The signature covers If-Match with the ETag of the row, and Range if the response is a range. It
   is in fields of the response and not in a URL, because nginx writes URLs into its error log.
3. Respond with the signed fields, with the fields of the file under other names, and with
   `X-Accel-Redirect`. (nginx would keep some fields under their own names for every response to
   the request, also for one that reports a failure.) nginx sends the request to the store, and the
   store's body to the client with the fields of the file.
   - The store refuses the request or does not respond: nginx sends the client's request to the API
     again, without the secret. The API then reads the object itself, and reports what is wrong.
   - The store ends the body early: nginx closes the connection, so that the client sees that the
     body is shorter than announced.

The store accepts the signature for 15 minutes. It is valid for one object and one range. A client
never sees it, because nginx removes these fields, and without the secret there are none. The
download is not checked again after it has begun: it goes on when its file is deleted or its key
is revoked (service/downloads/permits.py).
"""

import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from service.http.representation import Span
from service.model import ProvedFile
from service.object_store.signing import EMPTY_SHA256, RequestSigner, object_path
from service.settings import Settings

FIELD: Final = "x-assay-accel"
SIGNED_PREFIX: Final = "X-Assay-Store-"
FILE_PREFIX: Final = "X-Assay-File-"


def is_handed_over(
    settings: Settings, fields: Mapping[str, str], file: ProvedFile, length: int
) -> bool:
    """Return whether nginx sends this body of `length` bytes, as step 1 above says.

    `fields` are those of a request with GET, by lower-case name.
    """
    return (
        settings.accel_secret is not None
        and length >= settings.accel_min_bytes
        and file.owner not in settings.accel_direct_owners
        and hmac.compare_digest(fields.get(FIELD, "").encode(), settings.accel_secret.encode())
    )


def describe_handover(
    settings: Settings,
    reader: RequestSigner,
    file: ProvedFile,
    span: Span | None,
    *,
    described: Mapping[str, str],
) -> dict[str, str]:
    """Return the fields of the response to nginx (steps 2 and 3 above).

    `described` are the fields that the client is to get.
    """
    path = object_path(settings.vault_bucket, str(file.minio_object_name))
    conditions = {"If-Match": f'"{file.vault_etag}"'}
    if span is not None:
        conditions["Range"] = f"bytes={span.start}-{span.start + span.length - 1}"
    signed = reader.sign(
        "GET", path, "", headers=conditions, digest=EMPTY_SHA256, signed_at=datetime.now(UTC)
    )
    location = (settings.accel_redirect or "").rstrip("/")
    return {
        "X-Accel-Redirect": location + path,
        "Content-Length": "0",
        **{SIGNED_PREFIX + name: value for name, value in signed.items()},
        **{FILE_PREFIX + name: value for name, value in described.items()},
    }
