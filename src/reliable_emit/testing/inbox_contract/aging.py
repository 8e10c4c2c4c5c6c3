"""The part of the contract about forgetting, and about closing."""

from __future__ import annotations

import asyncio

from reliable_emit.testing.inbox_contract.bench import Bench, Contract, expect, key, never

_MANY = 1500


class AgeContract(Contract):
    """Tests of what becomes of records with time."""

    def test_old_records_are_forgotten(self) -> None:
        """Those that are older, and no others; then a repetition is handled like a new message."""

        async def scenario(bench: Bench) -> None:
            expect("what forget() returned for nothing", await bench.store.forget(0.1), 0)
            await bench.once("o-old", "old")
            expect("what forget() returned for a young one", await bench.store.forget(60), 0)
            await asyncio.sleep(0.6)
            await bench.once("o-young", "young")
            expect("what forget() returned", await bench.store.forget(0.4), 1)
            expect("what forget() returned then", await bench.store.forget(0.4), 0)
            expect("new, of the young one", (await bench.store.once(key("o-young"), b"f", never)).new, False)
            expect("new, of the old one", (await bench.once("o-old", "again")).new, True)
            await bench.expect_effects(["old", "young", "again"])

        self._run(scenario)

    def test_many_old_records_are_forgotten_in_steps(self) -> None:
        """Each call forgets some, until there is none; messages between two steps are handled."""

        async def scenario(bench: Bench) -> None:
            await asyncio.gather(*(bench.store.once(key(f"o-{n}"), b"f", bench.handler("x")) for n in range(_MANY)))
            await asyncio.sleep(0.05)
            forgotten, steps = 0, 0
            while step := await bench.store.forget(0.02):
                forgotten += step
                steps += 1
                await bench.once(f"new-{steps}", "new")
                if steps > _MANY:
                    raise AssertionError("forget(): does not come to an end")
            if not _MANY <= forgotten <= _MANY + steps:
                raise AssertionError(f"forget(): forgot {forgotten} of {_MANY} records")

        self._run(scenario)

    def test_it_is_forgotten_while_messages_are_handled(self) -> None:
        """Neither disturbs the other."""

        async def scenario(bench: Bench) -> None:
            await asyncio.gather(*(bench.once(f"old-{n}", "old") for n in range(50)))
            await asyncio.sleep(0.3)
            results = await asyncio.gather(
                *(bench.once(f"o-{n}", str(n)) for n in range(50)), *(bench.store.forget(0.3) for _ in range(3))
            )
            forgotten = sum(one for one in results if isinstance(one, int))
            # Where handling them takes that long, new ones are old as well before the last step.
            expect(f"whether {forgotten} are all of the 50 old ones", forgotten >= 50, True)  # noqa: PLR2004
            await bench.expect_effects(["old"] * 50 + [str(n) for n in range(50)])

        self._run(scenario)

    def test_closing_comes_to_an_end(self) -> None:
        """Also while a handler is at work that never ends; nothing of it stays."""

        async def scenario(bench: Bench) -> None:
            there = asyncio.Event()

            async def forever() -> None:
                there.set()
                await asyncio.Event().wait()

            await bench.once("o-1", "effect")
            task = asyncio.ensure_future(bench.once("o-2", "never", wait=forever))
            await there.wait()
            started = asyncio.get_running_loop().time()
            await bench.store.close()
            if (took := asyncio.get_running_loop().time() - started) > 5:  # noqa: PLR2004 - a second, on a busy machine
                raise AssertionError(f"close(): took {took:.1f} s")
            task.cancel()
            await asyncio.wait([task])
            await bench.expect_effects(["effect"])
            await bench.open()
            expect("new, of what was not handled", (await bench.once("o-2", "then")).new, True)
            await bench.expect_effects(["effect", "then"])

        self._run(scenario)
