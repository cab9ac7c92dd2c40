"""The log line and the count of a file that became final."""

import structlog

from service.model import File
from service.telemetry.metrics import OUTCOMES

log = structlog.get_logger()


def report_transition(file: File) -> None:
    reason = str(file.rejection_reason or "")
    OUTCOMES.labels(str(file.state), reason).inc()
    log.info(
        "transition",
        file_id=str(file.id),
        owner=file.owner,
        state=str(file.state),
        reason=reason or None,
        bytes=file.size,
    )
