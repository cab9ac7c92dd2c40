"""The metrics that are updated when something happens. service/telemetry/gauges.py has those that
are read from the database.
"""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

REQUESTS: Final = Counter(
    "assay_requests", "Requests that were answered.", ["route", "method", "status"]
)
ARRIVALS: Final = Counter(
    "assay_arrivals",
    "Arrivals of uploads: by the client's complete, the store's event, or found by the schedule.",
    ["source"],
)
LAST_EVENT_NAME: Final = "assay_last_event_timestamp_seconds"
LAST_EVENT: Final = Gauge(
    LAST_EVENT_NAME, "When the store's last event arrived.", multiprocess_mode="mostrecent"
)
OUTCOMES: Final = Counter("assay_outcomes", "Files that became final.", ["state", "reason"])
VERIFICATION_SECONDS: Final = Histogram(
    "assay_verification_seconds",
    "Seconds from claim to commit.",
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000),
)
VERIFIED_BYTES: Final = Counter("assay_verified_bytes", "Bytes that were hashed and committed.")
STORE_RETRIES: Final = Counter("assay_store_retries", "Claims released because of the store.")
STORE_PROBES: Final = Counter("assay_store_probes", "Probes of the store by workers.", ["outcome"])
FAILED_READS: Final = Counter(
    "assay_failed_reads", "Failed reads of an incoming object that counted towards its rejection."
)
FOREIGN_OBJECTS: Final = Counter(
    "assay_foreign_objects",
    "Events for an object in incoming whose key Assay has not generated.",
)
EVENT_SUBSCRIBERS: Final = Gauge(
    "assay_event_subscribers", "Open event streams.", multiprocess_mode="livesum"
)
EVENTS_HELD_BACK: Final = Gauge(
    "assay_events_held_back",
    "1 while events wait for an older transaction that is still running in the database server.",
    multiprocess_mode="livemax",
)
STOPPED: Final = Gauge(
    "assay_stopped",
    "1 while nothing is verified or deleted, because the database does not agree with the vault.",
    multiprocess_mode="livemax",
)
SWEPT: Final = Counter("assay_swept", "Leftovers that the sweeper removed.", ["what"])
SCRUBBED: Final = Counter(
    "assay_scrubbed", "Files whose object the scrub has read again.", ["result"]
)
SCRUBBED_BYTES: Final = Counter("assay_scrubbed_bytes", "Bytes that the scrub has read again.")
