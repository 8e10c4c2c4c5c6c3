"""The part of the contract about one message after the other: handled once, recorded with its effect."""

from __future__ import annotations

import asyncio
import contextlib

from reliable_emit.server import Transaction
from reliable_emit.testing.inbox_contract.bench import Bench, Contract, expect, key, never


class OnceContract(Contract):
    """Tests of what is handled and what is recorded."""

    def test_a_message_is_handled_once(self) -> None:
        """The first call handles it and says so; the others return what is recorded, and handle nothing."""

        async def scenario(bench: Bench) -> None:
            record = await bench.once("o-1", "effect", b"the reply")
            expect("new, of a message that was not known", record.new, True)
            expect("its reply", record.reply, b"the reply")
            expect("its fingerprint", record.fingerprint, b"fingerprint")
            await bench.expect_effects(["effect"])
            for _ in range(3):
                record = await bench.store.once(key("o-1"), b"fingerprint", never)
                expect("new, of a repetition", record.new, False)
                expect("the reply to a repetition", record.reply, b"the reply")
            await bench.expect_effects(["effect"])

        self._run(scenario)

    def test_the_fingerprint_of_the_first_stays(self) -> None:
        """Another message under the same key is told from a repetition by what is recorded of the first."""

        async def scenario(bench: Bench) -> None:
            await bench.once("o-1", "effect")
            record = await bench.store.once(key("o-1"), b"another", never)
            expect("the fingerprint, asked with another one", record.fingerprint, b"fingerprint")
            record = await bench.store.once(key("o-1"), b"fingerprint", never)
            expect("the fingerprint, asked again", record.fingerprint, b"fingerprint")

        self._run(scenario)

    def test_keys_are_compared_as_they_are(self) -> None:
        """Principals are independent, and no two keys are the same because of case, spaces, accents or separators."""

        async def scenario(bench: Bench) -> None:
            keys = [
                key(offset, principal)
                for principal in ("", "a", "A", "a ", "a\n", "a-", "a'", 'a"', "%", "_", "é", "e\u0301", "\U0001f600")
                for offset in ("a", "A", "-a", "a ", "1", "01", "1.0", "'", "é", "e\u0301", "%", "\U0001f600" * 64)
            ]
            for number, one in enumerate(keys):
                record = await bench.store.once(one, b"f", bench.handler(str(number), str(number).encode()))
                expect(f"new, of {one!r}", record.new, True)
            for number, one in enumerate(keys):
                record = await bench.store.once(one, b"f", never)
                expect(f"the reply to a repetition of {one!r}", record.reply, str(number).encode())
            await bench.expect_effects(map(str, range(len(keys))))

        self._run(scenario)

    def test_a_reply_is_any_bytes(self) -> None:
        """Empty, binary, long: it is given again as it was."""

        async def scenario(bench: Bench) -> None:
            replies = [b"", b"\0", bytes(range(256)), "é".encode(), b"'; --", bytes(1_000_000)]
            for number, reply in enumerate(replies):
                expect("the reply", (await bench.once(f"o-{number}", "effect", reply)).reply, reply)
                again = await bench.store.once(key(f"o-{number}"), b"fingerprint", never)
                expect("the reply to the repetition", again.reply, reply)

        self._run(scenario)

    def test_the_transaction_says_whose_it_is(self) -> None:
        """It carries the principal and the offset of the message."""

        async def scenario(bench: Bench) -> None:
            seen: list[tuple[str, str]] = []

            async def handle(transaction: Transaction) -> bytes:
                seen.append((transaction.principal, transaction.offset))
                return b""

            await bench.store.once(key("o-1", "ada"), b"f", handle)
            expect("the principal and the offset", seen, [("ada", "o-1")])

        self._run(scenario)

    def test_effects_are_seen_when_it_returns_and_not_before(self) -> None:
        """While it is being handled, nobody sees its effect; once the call returns, everybody does."""

        async def scenario(bench: Bench) -> None:
            seen: list[list[str]] = []

            async def handle(transaction: Transaction) -> bytes:
                await bench.effect(transaction, "effect")
                seen.append(await bench.effects())
                return b""

            await bench.store.once(key("o-1"), b"f", handle)
            seen.append(await bench.effects())
            expect("the effects seen while it is handled, and afterwards", seen, [[], ["effect"]])

        self._run(scenario)

    def test_a_handler_without_an_effect_is_recorded(self) -> None:
        """One that uses nothing of its transaction is not called again either."""

        async def scenario(bench: Bench) -> None:
            async def handle(_: Transaction) -> bytes:
                return b"nothing done"

            await bench.store.once(key("o-1"), b"f", handle)
            expect("the reply", (await bench.store.once(key("o-1"), b"f", never)).reply, b"nothing done")

        self._run(scenario)

    def test_a_handler_may_take_its_time(self) -> None:
        """What it awaits between two effects does not part them."""

        async def scenario(bench: Bench) -> None:
            async def handle(transaction: Transaction) -> bytes:
                for text in ("first", "second"):
                    await bench.effect(transaction, text)
                    await asyncio.sleep(0.02)
                return b""

            await bench.store.once(key("o-1"), b"f", handle)
            await bench.expect_effects(["first", "second"])

        self._run(scenario)

    def test_callbacks_are_called_after_the_commit(self) -> None:
        """In their order, once, before the call returns; not for a repetition. One that raises stops nothing."""

        async def scenario(bench: Bench) -> None:
            called: list[str] = []

            def fail() -> None:
                called.append("fails")
                raise ValueError("on purpose, by the contract")

            async def handle(transaction: Transaction) -> bytes:
                transaction.after_commit(lambda: called.append("first"))
                transaction.after_commit(fail)
                await bench.effect(transaction, "effect")
                transaction.after_commit(lambda: called.append("last"))
                expect("what was called while it is handled", called, [])
                return b""

            await bench.store.once(key("o-1"), b"f", handle)
            expect("what was called", called, ["first", "fails", "last"])
            await bench.store.once(key("o-1"), b"f", never)
            expect("what was called, after a repetition", called, ["first", "fails", "last"])

        self._run(scenario)

    def test_a_transaction_is_over_with_its_handler(self) -> None:
        """What is done with it later is refused, or has no effect; and harms no other."""

        async def scenario(bench: Bench) -> None:
            kept: list[Transaction] = []

            async def handle(transaction: Transaction) -> bytes:
                kept.append(transaction)
                return b""

            await bench.store.once(key("o-1"), b"f", handle)
            for _ in range(2):
                with contextlib.suppress(Exception):  # refused, in whatever words
                    await bench.effect(kept[0], "late")
                await bench.once("o-2", "effect")
            await bench.expect_effects(["effect"])

        self._run(scenario)
