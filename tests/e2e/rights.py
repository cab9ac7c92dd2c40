"""The table of all routes, and the keys that each route accepts."""

from typing import Final, NamedTuple

READ: Final = frozenset({"read"})
WRITE: Final = frozenset({"write"})
EITHER: Final = READ | WRITE
NO_KEY: Final[frozenset[str]] = frozenset()

PAGE_FILE: Final = "/page/main.js"
"""An example of the files of the page."""
SCHEMA_FILE: Final = "/schema/start.js"
"""An example of the paths below `/schema`."""


class Route(NamedTuple):
    """A route and its rights.

    A key with any one of the `scopes` may call the route. If there are none, the route needs no
    key. `token` is True if an upload token may call the route for its own file.
    """

    method: str
    path: str
    scopes: frozenset[str]
    token: bool = False

    @property
    def asked(self) -> str:
        """Return a path for a request, in which `{id}` is the placeholder of the file's id."""
        return (
            self.path.replace("{file_id}", "{id}")
            .replace("{filename}", "a.txt")
            .replace("{token}", "x")
        )


DECLARED: Final = (
    Route("POST", "/files", WRITE),
    Route("GET", "/files", READ),
    Route("POST", "/files/upload", WRITE),
    Route("PUT", "/upload/{filename}", WRITE),
    Route("GET", "/files/{file_id}", READ),
    Route("PATCH", "/files/{file_id}", WRITE),
    Route("DELETE", "/files/{file_id}", WRITE, token=True),
    Route("GET", "/files/{file_id}/metadata", EITHER, token=True),
    Route("GET", "/files/{file_id}/history", READ),
    Route("POST", "/files/{file_id}/links", READ),
    Route("POST", "/files/{file_id}/complete", WRITE, token=True),
    Route("POST", "/files/{file_id}/upload", WRITE, token=True),
    Route("POST", "/files/{file_id}/parts", WRITE, token=True),
    Route("GET", "/files/{file_id}/parts", EITHER, token=True),
    Route("GET", "/events", READ),
    Route("GET", "/health/live", NO_KEY),
    Route("GET", "/health/ready", NO_KEY),
    Route("GET", "/metrics", NO_KEY),
    Route("HEAD", "/webhooks/minio", NO_KEY),
    Route("POST", "/webhooks/minio", NO_KEY),  # needs the store's token; see test_webhook.py
    Route("GET", "/l/{token}", NO_KEY),
    Route("GET", "/l/{token}/{filename}", NO_KEY),
    Route("GET", "/", NO_KEY),
    Route("GET", PAGE_FILE, NO_KEY),
    Route("GET", "/schema", NO_KEY),
    Route("GET", SCHEMA_FILE, NO_KEY),
)
READABLE: Final = [route for route in DECLARED if route.method == "GET"]
ROUTES: Final = (*DECLARED, *(route._replace(method="HEAD") for route in READABLE))
GUARDED: Final = [route for route in ROUTES if route.scopes]
UNGUARDED: Final = [route for route in ROUTES if not route.scopes]
FOR_TOKENS: Final = [route for route in ROUTES if route.token]
NOT_FOR_TOKENS: Final = [route for route in GUARDED if not route.token]

NO_FILE: Final = "01234567-89ab-7def-8123-456789abcdef"
"""A valid id that no file has."""
WITH_BODY: Final = frozenset(
    {("PATCH", "/files/{id}"), ("POST", "/files/{id}/links"), ("POST", "/files/{id}/parts")}
)
"""Requests that need a body. The tests of these routes check access to files of other owners."""
ON_A_FILE: Final = [
    (route.method, route.asked)
    for route in GUARDED
    if "{id}" in route.asked and (route.method, route.asked) not in WITH_BODY
] + [("GET", "/events?file={id}"), ("HEAD", "/events?file={id}")]
"""The method and path of each request without a body that is about one file."""
