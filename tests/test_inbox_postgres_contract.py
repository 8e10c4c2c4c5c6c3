"""The contract of an inbox's stores, run on the one in PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from postgres_support import create, drop, effects, need_postgres, url_of
from reliable_emit.server import PostgresStore
from reliable_emit.testing.inbox_contract import InboxContract

if TYPE_CHECKING:
    from pathlib import Path

    from reliable_emit.server import PostgresTransaction
    from reliable_emit.testing.inbox_contract.bench import AnyStore


def name_of(place: Path) -> str:
    return f"reliable_emit_{place.name}"


class TestPostgresStore(InboxContract):
    connections = 10

    @pytest.fixture(autouse=True)
    def _needed(self) -> None:
        need_postgres()

    async def prepare(self, place: Path) -> None:
        await create(name_of(place))

    async def clean(self, place: Path) -> None:
        await drop(name_of(place))

    def make(self, place: Path) -> AnyStore:
        # Many messages wait for few connections here, on a machine that may be busy with other tests.
        return PostgresStore(url_of(name_of(place)), max_connections=self.connections, timeout=50)

    async def effect(self, transaction: PostgresTransaction, text: str) -> None:
        await transaction.execute("INSERT INTO effects (text) VALUES ($1)", text)

    async def effects(self, place: Path) -> list[str]:
        return await effects(name_of(place))

    def test_callbacks_are_called_in_the_order_of_the_commits(self) -> None:
        # Ids are in the order of the commits only if one transaction is over before the next one begins.
        self.connections = 1
        super().test_callbacks_are_called_in_the_order_of_the_commits()


class TestPostgresStoreOnOneConnection(TestPostgresStore):
    connections = 1
