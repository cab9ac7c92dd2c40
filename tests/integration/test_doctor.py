"""The doctor as a whole, and its checks of the servers, their clocks and the listener.

A correctly configured deployment passes every check, and each fault is found.
"""

from urllib.parse import urlsplit

import pytest

from service.operations.doctor import Finding, events, run_check
from service.operations.doctor.clocks import check_clocks
from service.operations.doctor.database import check_database, check_listen
from service.queries.files import ask_time
from service.resources import Resources, open_resources
from service.settings import Secret, Settings, Url
from tests.conftest import execute
from tests.support.examining import changed, examine_all, failures, statuses
from tests.support.invariants import list_bucket
from tests.support.servers import free_port

pytestmark = [pytest.mark.anyio, pytest.mark.own_deployment]

EXPECTED = [
    "database",
    "listen",
    "endpoint",
    "clock of the database",
    "clock of the store",
    "service identity",
    "service identity: rights",
]
EXPECTED += [
    "signer",
    "upload URL",
    "public endpoint",
    "URL: length",
    "URL: type",
    "URL: copy",
    "announcements",
]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for events, because no webhook receives them here."""
    monkeypatch.setattr(events, "EVENT_SECONDS", 0.0)


async def test_a_correct_deployment_passes_every_check(resources: Resources) -> None:
    found = await examine_all(resources)
    assert failures(found) == set()
    assert {name: found[name].status for name in EXPECTED} == dict.fromkeys(EXPECTED, "ok")
    assert not any(found[name].advice for name in EXPECTED)


async def test_the_probes_leave_nothing_behind(resources: Resources) -> None:
    before = await list_bucket(resources.incoming)
    await examine_all(resources)
    # The object of the event check stays until the sweeper removes it.
    (key,) = await resources.pool.fetchval("SELECT array_agg(incoming_key) FROM files")
    assert await list_bucket(resources.incoming) == before | {key}
    assert await list_bucket(resources.vault) == set()


async def test_an_unavailable_store_is_found(settings: Settings) -> None:
    async with changed(settings, s3_endpoint=Url(f"http://127.0.0.1:{free_port()}")) as resources:
        found = await examine_all(resources)
    assert failures(found) == {"endpoint"}
    assert not {"service identity", "signer", "upload URL", "event"}.intersection(found)


async def test_an_unavailable_database_is_found_once(settings: Settings) -> None:
    away = Secret(f"postgresql://assay:hidden@127.0.0.1:{free_port()}/assay")
    async with changed(settings, database_url=away) as resources:
        found = await examine_all(resources)
    assert failures(found) == {"database"}
    assert not any("hidden" in finding.what for finding in found.values())


async def test_another_schema_version_is_found(resources: Resources) -> None:
    await resources.pool.execute("UPDATE alembic_version SET version_num = '0000'")
    (finding,) = await check_database(resources)
    assert (finding.status, finding.advice) == ("failed", "run `assay migrate`")


async def shift_clock(database_url: str, interval: str) -> None:
    """Shift `now()` by the interval for all later connections to this database."""
    name = urlsplit(database_url).path[1:]
    function = f"SELECT pg_catalog.now() + interval '{interval}'"
    await execute(
        database_url,
        f"CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql STABLE AS $$ {function} $$",
    )
    await execute(database_url, f"ALTER DATABASE {name} SET search_path = public, pg_catalog")


@pytest.mark.parametrize(
    ("interval", "status"),
    [("-20 minutes", "failed"), ("20 minutes", "failed"), ("20 seconds", "warning")],
)
async def test_a_database_whose_clock_is_wrong_is_found(
    settings: Settings, interval: str, status: str
) -> None:
    await shift_clock(settings.database_url, interval)
    async with open_resources(settings) as resources:
        found = statuses(await check_clocks(resources))
    assert found == {"clock of the database": status, "clock of the store": status}


@pytest.mark.parametrize("interval", ["-20 minutes", "20 minutes"])
async def test_a_refusal_that_is_caused_by_a_wrong_clock_proves_nothing(
    settings: Settings, interval: str
) -> None:
    await shift_clock(settings.database_url, interval)
    async with open_resources(settings) as resources:
        found = await examine_all(resources)
    assert failures(found) == {"clock of the database", "clock of the store", "upload URL"}
    assert not any(
        name.startswith(("URL:", "public", "event:")) or name == "event" for name in found
    )


async def test_a_listener_that_receives_nothing_is_found(
    settings: Settings, admin_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listen in another database of the same server."""
    monkeypatch.setattr("service.operations.doctor.database.LISTEN_SECONDS", 0.5)
    async with changed(settings, database_listen_url=Secret(admin_url)) as resources:
        (finding,) = await check_listen(resources)
    assert finding.status == "failed"
    assert "ASSAY_DATABASE_LISTEN_URL" in finding.advice


async def test_prepared_statements_that_a_pooler_lost_are_found(settings: Settings) -> None:
    async def lose_statements(resources: Resources) -> list[Finding]:
        await ask_time(resources.pool)
        await resources.pool.execute("DEALLOCATE ALL")
        await ask_time(resources.pool)
        return []

    async with changed(settings, database_pool_size=1) as resources:
        (finding,) = await run_check(resources, "statements", check=lose_statements)
    assert "ASSAY_DATABASE_STATEMENT_CACHE=0" in finding.advice
    assert "\n" not in finding.what
