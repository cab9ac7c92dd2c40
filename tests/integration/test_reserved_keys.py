"""Vault keys that are reserved in advance: each branch of the protocol, over a real PostgreSQL."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from service.database import reserved_keys
from service.database.notifications import Notifications
from service.database.reserved_keys import (
    LARGEST_BATCH,
    NEEDED,
    SMALLEST_BATCH,
    ReservedKeys,
    open_reserved_keys,
)
from service.queries import reservations, sweeping
from tests.integration.locks import held_open
from tests.support.faults import FaultyPool, lose_connection
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

MOMENT = timedelta(microseconds=1)


def make_listening() -> Notifications:
    """Return the notifications of a process that listens, without its connection."""
    notifications = Notifications("postgresql://")
    notifications.connected = True
    return notifications


async def list_keys(pool: asyncpg.Pool) -> set[UUID]:
    rows = await pool.fetch("SELECT vault_key FROM reservations WHERE doomed_at IS NULL")
    return {row["vault_key"] for row in rows}


async def take_keys(keys: ReservedKeys, number: int) -> set[UUID]:
    """Take keys at once, and check that no two are equal."""
    taken = await asyncio.gather(*(keys.take() for _ in range(number)))
    found = {key.held.vault_key for key in taken}
    assert len(found) == number
    return found


@contextlib.asynccontextmanager
async def blocked(pool: asyncpg.Pool) -> AsyncIterator[None]:
    """Keep every INSERT and DELETE on `reservations` waiting."""
    async with held_open(pool) as holder:
        await holder.execute("LOCK TABLE reservations IN SHARE MODE")
        yield


async def test_each_key_has_a_reservation_and_is_handed_out_once(pool: asyncpg.Pool) -> None:
    async with open_reserved_keys(pool, make_listening()) as keys:
        first = await take_keys(keys, 3)
        assert first <= await list_keys(pool)
        second = await take_keys(keys, 100)
        assert not first & second
        assert first | second <= await list_keys(pool)
    assert await list_keys(pool) == first | second, "unused keys are forgotten at a clean stop"
    row = await pool.fetchrow("SELECT * FROM reservations LIMIT 1")
    assert (row["file_id"], row["owner"], row["scratch_key"]) == (None, None, None)


async def test_an_idle_process_reserves_nothing(pool: asyncpg.Pool) -> None:
    async with open_reserved_keys(pool, make_listening()) as keys:
        await take_keys(keys, 1)
        await until(lambda: len(keys.stock) == SMALLEST_BATCH - 1)
    assert len(await list_keys(pool)) == 1


async def test_batches_grow_with_the_load_up_to_their_bound(pool: asyncpg.Pool) -> None:
    async with open_reserved_keys(pool, make_listening()) as keys:
        for _ in range(40):
            await take_keys(keys, 16)
        assert keys.batch == LARGEST_BATCH
        await until(lambda: not keys.wanted.is_set())
        assert len(keys.stock) <= 2 * LARGEST_BATCH


async def test_a_key_with_too_little_left_is_forgotten_and_not_handed_out(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_reserved_keys(pool, make_listening()) as keys:
        await take_keys(keys, 16)
        old = {key.held.vault_key for key in keys.stock}
        keys.batch = 16
        monkeypatch.setattr(reserved_keys, "NEEDED", reserved_keys.LEASE)
        keys.wanted.set()
        await until(lambda: not keys.stock)
        monkeypatch.setattr(reserved_keys, "NEEDED", NEEDED)
        assert not old & await take_keys(keys, 4)
        assert not old & await list_keys(pool)


async def test_the_stock_is_forgotten_when_it_is_old_without_any_request(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reserved_keys, "LEASE", NEEDED + timedelta(seconds=1))
    async with open_reserved_keys(pool, make_listening()) as keys:
        used = await take_keys(keys, 1)

        async def is_forgotten() -> bool:
            return await list_keys(pool) == used

        await until(is_forgotten)
        assert not keys.stock


async def test_keys_whose_response_was_lost_are_left_to_the_sweeper(pool: asyncpg.Pool) -> None:
    faulty: Any = FaultyPool(pool, reservations.RESERVE_KEYS, after=lose_connection)
    async with open_reserved_keys(faulty, make_listening()) as keys:
        refused = await asyncio.gather(*(keys.take() for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in refused] == [ConnectionResetError] * 3
        lost = await list_keys(pool)
        assert len(lost) == 3
        assert not lost & await take_keys(keys, 10)
        await pool.execute(
            "UPDATE reservations SET lease_until = now() - interval '1 second'"
            " WHERE vault_key = ANY ($1)",
            [*lost],
        )
        assert await sweeping.doom_ended_reservations(pool, 100, counter=0) == 3


async def test_a_failed_insert_is_repeated_for_the_next_request(pool: asyncpg.Pool) -> None:
    faulty: Any = FaultyPool(pool, reservations.RESERVE_KEYS, before=lose_connection)
    async with open_reserved_keys(faulty, make_listening()) as keys:
        with pytest.raises(ConnectionResetError):
            await keys.take()
        assert await take_keys(keys, 1) <= await list_keys(pool)


async def test_a_cancelled_request_loses_no_key(pool: asyncpg.Pool) -> None:
    async with open_reserved_keys(pool, make_listening()) as keys:
        async with blocked(pool):
            waiting = [asyncio.create_task(keys.take()) for _ in range(3)]
            await until(lambda: len(keys.waiting) == 3)
            waiting[0].cancel()
        taken = {(await one).held.vault_key for one in waiting[1:]}
        await until(lambda: not keys.wanted.is_set())
        assert await list_keys(pool) == taken | {key.held.vault_key for key in keys.stock}


async def test_unused_keys_are_swept_if_the_stop_cannot_forget_them(pool: asyncpg.Pool) -> None:
    faulty: Any = FaultyPool(pool, reservations.FORGET_UNUSED, before=lose_connection)
    async with open_reserved_keys(faulty, make_listening()) as keys:
        used = await take_keys(keys, 1)
        await until(lambda: bool(keys.stock))
        left = {key.held.vault_key for key in keys.stock}
    assert used | left == await list_keys(pool)


async def test_a_doomed_key_is_not_forgotten(pool: asyncpg.Pool) -> None:
    async with open_reserved_keys(pool, make_listening()) as keys:
        await take_keys(keys, 1)
        await until(lambda: bool(keys.stock))
        held = keys.stock[0].held
        assert await reservations.doom_reservation(pool, held.vault_key, held.lease)
    doomed = await pool.fetch("SELECT vault_key FROM reservations WHERE doomed_at IS NOT NULL")
    assert [row["vault_key"] for row in doomed] == [held.vault_key]


async def test_keys_are_forgotten_with_the_connection(pool: asyncpg.Pool) -> None:
    # The database may have failed over, and lack the reservations.
    notifications = make_listening()
    async with open_reserved_keys(pool, notifications) as keys:
        used = await take_keys(keys, 1)
        await until(lambda: bool(keys.stock))
        old = {key.held.vault_key for key in keys.stock}
        notifications.connections += 1
        used |= await take_keys(keys, 1)
        assert not used & old
        assert not old & await list_keys(pool)
    assert await list_keys(pool) == used


async def test_a_process_that_does_not_listen_keeps_no_keys(pool: asyncpg.Pool) -> None:
    notifications = make_listening()
    notifications.connected = False
    async with open_reserved_keys(pool, notifications) as keys:
        used = await take_keys(keys, 3)
        old = {key.held.vault_key for key in keys.stock}
        used |= await take_keys(keys, 3)
        assert len(used) == 6
        assert not used & old

        async def only_used_are_left() -> bool:
            return await list_keys(pool) - {key.held.vault_key for key in keys.stock} == used

        await until(only_used_are_left)
