"""Mistakes one could make in the sender; the state machine has to notice each."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A piece of the sender, and what becomes of it."""

    name: str
    original: str
    changed: str


MUTANTS = [
    Mutant(
        "sends-while-down",
        "or not self._up or self._paused",
        "or self._paused",
    ),
    Mutant(
        "sends-while-paused",
        "or not self._up or self._paused",
        "or not self._up",
    ),
    Mutant(
        "forgets-that-it-is-up",
        "        self._up = True\n",
        "        pass\n",
    ),
    Mutant(
        "does-not-send-on-reconnect",
        "        self._up = True\n        return self._proceed()\n",
        "        self._up = True\n        return []\n",
    ),
    Mutant(
        "loss-keeps-the-attempt-in-flight",
        '        message.state = "queued"\n        self._phase = Phase.WAITING\n        return [EndAttempts()]\n',
        "        return [EndAttempts()]\n",
    ),
    Mutant(
        "loss-leaves-the-timer",
        '        message.state = "queued"\n        self._phase = Phase.WAITING\n        return [EndAttempts()]\n',
        '        message.state = "queued"\n        self._phase = Phase.WAITING\n        return []\n',
    ),
    Mutant(
        "loss-during-backoff-leaves-the-timer",
        "        if self._phase is Phase.BACKING_OFF:\n            self._phase = Phase.WAITING\n            return [EndAttempts()]\n",
        "        if self._phase is Phase.BACKING_OFF:\n            self._phase = Phase.WAITING\n            return []\n",
    ),
    Mutant(
        "loss-counts-as-failure",
        "        message.losses += 1\n",
        "        message.losses += 1\n        message.failures += 1\n",
    ),
    Mutant(
        "losses-unbounded",
        "message.losses >= self._max_losses",
        "message.losses > 1000",
    ),
    Mutant(
        "losses-off-by-one",
        "message.losses >= self._max_losses",
        "message.losses > self._max_losses",
    ),
    Mutant(
        "timeout-does-not-end-a-row-of-losses",
        "        message.losses = 0\n        if message.retries",
        "        if message.retries",
    ),
    Mutant(
        "one-retry-too-many",
        "message.failures > message.retries",
        "message.failures > message.retries + 1",
    ),
    Mutant(
        "one-retry-too-few",
        "message.failures > message.retries",
        "message.failures >= message.retries",
    ),
    Mutant(
        "retries-never-end",
        "        if message.retries is not None and message.failures > message.retries:\n",
        "        if False:\n",
    ),
    Mutant(
        "no-backoff",
        "        self._phase = Phase.BACKING_OFF\n        return [Backoff(message)]\n",
        "        self._phase = Phase.WAITING\n        return self._proceed()\n",
    ),
    Mutant(
        "stalls-after-backoff",
        "        self._phase = Phase.WAITING\n        return self._proceed()\n\n    def withdraw",
        "        self._phase = Phase.WAITING\n        return []\n\n    def withdraw",
    ),
    Mutant(
        "ignores-late-acknowledgements",
        "        if message is not self._message:\n            return []\n",
        "        if message is not self._message or self._phase is not Phase.IN_FLIGHT:\n            return []\n",
    ),
    Mutant(
        "acknowledges-strangers",
        "        if message is not self._message:\n            return []\n",
        "        if self._message is None:\n            return []\n",
    ),
    Mutant(
        "acknowledgement-leaves-the-timer",
        "        return [EndAttempts(), Acknowledge(message, reply)]",
        "        return [Acknowledge(message, reply)]",
    ),
    Mutant(
        "acknowledgement-keeps-the-message",
        '        self._message = None\n        self._phase = Phase.IDLE\n        message.state = "acknowledged"\n',
        '        self._phase = Phase.WAITING\n        message.state = "acknowledged"\n',
    ),
    Mutant(
        "rejection-counts-as-acknowledgement",
        "        if reason is not None:\n",
        "        if False:\n",
    ),
    Mutant(
        "withdrawing-the-head-keeps-it",
        "        if message is self._message:\n            return self._fail(reason, detail)\n",
        "",
    ),
    Mutant(
        "withdrawing-another-ends-the-attempt-in-flight",
        '        message.state = "dead"\n        return [Fail(message, reason, detail)]\n\n    def pause',
        '        message.state = "dead"\n        return [EndAttempts(), Fail(message, reason, detail)]\n\n    def pause',
    ),
    Mutant(
        "withdrawing-settles-nothing",
        '        message.state = "dead"\n        return [Fail(message, reason, detail)]\n\n    def pause',
        '        message.state = "dead"\n        return []\n\n    def pause',
    ),
    Mutant(
        "failure-keeps-the-callbacks",
        "        return [EndAttempts(), Fail(message, reason, detail)]\n\n    def _current",
        "        return [Fail(message, reason, detail)]\n\n    def _current",
    ),
    Mutant(
        "resume-does-not-send",
        "return self.release() if self._phase is Phase.HELD else self._proceed()",
        "return self.release() if self._phase is Phase.HELD else []",
    ),
    Mutant(
        "resume-forgets-the-held",
        "return self.release() if self._phase is Phase.HELD else self._proceed()",
        "return self._proceed()",
    ),
    Mutant(
        "release-without-fresh-retries",
        "        message.failures = message.losses = 0\n",
        "",
    ),
    Mutant(
        "release-of-what-is-not-held",
        "        if self._phase is not Phase.HELD:\n            return []\n        message = self._current()\n",
        "        if self._message is None:\n            return []\n        message = self._current()\n",
    ),
    Mutant(
        "hold-gives-up",
        '        if self._on_exhausted == "hold":\n',
        "        if False:\n",
    ),
    Mutant(
        "hold-goes-on-sending",
        "            self._phase = Phase.HELD\n",
        "            self._phase = Phase.WAITING\n",
    ),
    Mutant(
        "attempts-not-counted",
        "        message.attempts += 1\n",
        "        pass\n",
    ),
    Mutant(
        "state-not-told",
        '        message.state = "in_flight"\n',
        "        pass\n",
    ),
]
