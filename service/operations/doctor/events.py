"""Checks of events and workers: one file is uploaded, its event must arrive, and a worker must
prove it.
"""

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

import msgspec

from service.model import UNPROVED, Declaration, Sha256, State, make_id
from service.object_store import StoreUnavailable
from service.object_store.administration import Administration, EventRule
from service.object_store.presign import PresignedPut, Signer
from service.operations.bootstrap import CREATED_EVENTS
from service.operations.doctor.anonymous_requests import Answer, send
from service.operations.doctor.finding import Finding, failed, ok, warning
from service.operations.doctor.probes import URL_SECONDS, internal_signer
from service.operations.doctor.unsigned_headers import ADVICE, describe, list_forms
from service.operations.doctor.url_conditions import BEFORE_STORE, have_other_way
from service.queries import files
from service.queries.inspection import count_announcements, count_arrivals
from service.resources import Resources
from service.settings import Settings
from service.uploads import declaring

OWNER: Final = "assay-doctor"
EVENT_SECONDS: Final = 15.0
WORKER_SECONDS: Final = 15.0
SUPPRESSED_SECONDS: Final = 7.0
"""The time after which a missing event counts as suppressed.

The store's queue adds up to 3 s to every event.
"""
LOOK_SECONDS: Final = 0.1
REPLICATION: Final = "x-minio-source-replication-request"
LATELY: Final = timedelta(hours=24)
EVENT_ADVICE: Final = (
    "check that the API runs, that the store's MINIO_NOTIFY_WEBHOOK_ENDPOINT reaches its"
    " /webhooks/minio and …_AUTH_TOKEN is ASSAY_WEBHOOK_TOKEN,"
    " and run `assay bootstrap` for the event rule"
)


class Probe(msgspec.Struct, frozen=True):
    """A declared probe file, and its upload."""

    file_id: UUID
    put: PresignedPut
    body: bytes

    async def send(self, more: Sequence[tuple[str, str]] = ()) -> Answer:
        return await send("PUT", self.put.url, body=self.body, headers=self.put.headers, more=more)


async def check_event_rule(resources: Resources) -> list[Finding]:
    """Check the event rule. Return no finding if the service identity may not read the rules.

    An event that arrives proves the rule as well.
    """
    settings = resources.settings
    try:
        rules = await asyncio.to_thread(read_event_rules, settings)
    except StoreUnavailable as error:
        if error.status == 403:
            return []
        raise
    arn = f"arn:minio:sqs::{settings.webhook_id}:webhook"
    wanted = EventRule(arn=arn, events=frozenset({CREATED_EVENTS}))
    if wanted in rules:
        return [ok("event rule", f"{settings.incoming_bucket} reports every new object to {arn}")]
    return [
        failed(
            "event rule",
            f"{settings.incoming_bucket} has no rule that reports every new object to {arn}",
            "run `assay bootstrap`",
        )
    ]


def read_event_rules(settings: Settings) -> list[EventRule]:
    administration = Administration(
        settings.s3_endpoint,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key,
        region=settings.s3_region,
    )
    try:
        return administration.event_rules(settings.incoming_bucket)
    finally:
        administration.close()


async def check_events(resources: Resources) -> list[Finding]:
    findings = await check_round_trip(resources)
    if findings[0].status == "ok":
        findings.append(await check_suppression(resources))
    return findings


async def check_round_trip(resources: Resources) -> list[Finding]:
    async with declared_probe(resources, internal_signer(resources.settings)) as probe:
        answer = await probe.send()
        if not answer.accepts:
            return [
                failed(
                    "event",
                    f"the store answers {answer.status} to an upload",
                    "see the lines about the URL and the clocks",
                )
            ]
        begun = time.monotonic()
        if not await wait_for(lambda: has_arrived(resources, probe.file_id), seconds=EVENT_SECONDS):
            return [failed("event", f"no event arrived within {EVENT_SECONDS:.0f} s", EVENT_ADVICE)]
        arrived = ok(
            "event",
            f"arrived after {time.monotonic() - begun:.1f} s: rule, webhook and token are correct",
        )
        return [arrived, await check_worker(resources, probe.file_id)]


async def check_worker(resources: Resources, file_id: UUID) -> Finding:
    await wait_for(lambda: is_final(resources, file_id), seconds=WORKER_SECONDS)
    _, state = await count_arrivals(resources.pool, file_id) or (0, State.DELETED)
    if state == State.READY:
        return ok("worker", "the upload was proved")
    if state == State.REJECTED:
        return failed("worker", "the upload was rejected", f"run `assay inspect {file_id}`")
    return failed(
        "worker",
        f"the upload is {state} after {WORKER_SECONDS:.0f} s",
        "check that a worker runs, and check its log",
    )


async def check_suppression(resources: Resources) -> Finding:
    """Try the header by which one store informs another that an upload was already announced.

    Its presence is enough, with any value.
    """
    name, kept = "event: suppressed", "a client cannot suppress the store's event"
    answers = await suppress_events(resources, internal_signer(resources.settings))
    for answer, _ in answers.values():
        if not (answer.accepts or answer.refuses):
            return failed(
                name,
                f"the store answers {answer.status}, which neither accepts nor refuses the request",
                "check the store's log, and run the doctor again",
            )
    silent = list_silent(answers)
    if not silent:
        return ok(name, kept)
    if await have_other_way(resources):
        with contextlib.suppress(StoreUnavailable):
            there = await suppress_events(resources, resources.signer)
            if not list_silent(there) and all(
                answer.accepts or answer.refuses for answer, _ in there.values()
            ):
                return ok(name, f"{kept}, {BEFORE_STORE}")
    broken = (
        "a client can suppress the store's event; the schedule then finds the file minutes later"
    )
    return warning(name, describe(broken, [f"{REPLICATION}: {', '.join(silent)}"]), ADVICE)


def list_silent(answers: Mapping[str, tuple[Answer, bool]]) -> list[str]:
    return [form for form, (answer, is_told) in answers.items() if answer.accepts and not is_told]


async def suppress_events(resources: Resources, signer: Signer) -> dict[str, tuple[Answer, bool]]:
    """Send an upload with each form of the header that suppresses the event, all at the same time.

    Return for each form the response, and whether an event arrived nevertheless.
    """
    forms = list_forms(REPLICATION, "true")
    tried = await asyncio.gather(
        *(suppress_event(resources, signer, values=values) for values in forms.values())
    )
    return dict(zip(forms, tried, strict=True))


async def suppress_event(
    resources: Resources, signer: Signer, *, values: Sequence[str]
) -> tuple[Answer, bool]:
    async with declared_probe(resources, signer) as probe:
        answer = await probe.send([(REPLICATION, value) for value in values])
        if not answer.accepts:
            return answer, False
        return answer, await wait_for(
            lambda: has_arrived(resources, probe.file_id), seconds=SUPPRESSED_SECONDS
        )


@contextlib.asynccontextmanager
async def declared_probe(resources: Resources, signer: Signer) -> AsyncIterator[Probe]:
    """Yield a small file, declared as by a client.

    It is deleted as by its owner, and the sweeper removes its objects.
    """
    body = secrets.token_bytes(64)
    declaration = Declaration(
        owner=OWNER,
        filename="doctor.bin",
        size=len(body),
        content_type="application/octet-stream",
        sha256=Sha256(hashlib.sha256(body).digest()),
        metadata={},
    )
    file = await declaring.insert_file(resources, declaration, make_id(), database=resources.pool)
    put = signer.presign_put(
        resources.settings.incoming_bucket,
        file.incoming_key or "",
        size=file.size,
        content_type=file.content_type,
        sha256=str(file.declared_sha256),
        if_none_match=True,
        issued_at=file.created_at,
        expires_in_seconds=URL_SECONDS,
    )
    try:
        yield Probe(file.id, put, body)
    finally:
        await files.delete_file(resources.pool, file.id, owner=OWNER)


async def has_arrived(resources: Resources, file_id: UUID) -> bool:
    found = await count_arrivals(resources.pool, file_id)
    return found is not None and found[0] > 0


async def is_final(resources: Resources, file_id: UUID) -> bool:
    found = await count_arrivals(resources.pool, file_id)
    return found is None or found[1] not in UNPROVED


async def wait_for(condition: Callable[[], Awaitable[bool]], *, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() >= end:
            return False
        await asyncio.sleep(LOOK_SECONDS)
    return True


async def check_announcements(resources: Resources) -> list[Finding]:
    """Check that uploads are reported and not only found by the schedule.

    Otherwise, a missing trigger would be hidden by the other ones. The rows do not distinguish an
    event from a `complete`.
    """
    judged, unannounced = await count_announcements(resources.pool, LATELY)
    which = (
        f"of {judged} uploads that were proved or rejected in the last 24 h"
        " (among the newest 10,000 files)"
    )
    if unannounced:
        return [
            warning(
                "announcements",
                f"{which}, {unannounced} were found by the schedule, without event or `complete`",
                EVENT_ADVICE,
            )
        ]
    return [ok("announcements", f"{which}, each was reported by an event or by `complete`")]
