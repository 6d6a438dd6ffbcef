"""Silence of a peer, measured on our own monotonic clock. Anything heard counts.

A dead peer is noticed within `timeout_ns`; a peer whose messages come closer together than that is never suspected.
Time in which *we* did not run says nothing about the peer (its messages may be waiting in our own queues), so it is
excused; and the end of a connection is no proof: it only makes the owner probe.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class FailureDetector:
    timeout_ns: int
    heard_at_ns: int

    def heard(self, now_ns: int) -> None:
        self.heard_at_ns = max(self.heard_at_ns, now_ns)

    def tighten(self, timeout_ns: int, now_ns: int) -> None:
        """From now on another timeout holds."""
        self.timeout_ns = timeout_ns
        self.heard(now_ns)

    def excuse(self, absence_ns: int) -> None:
        """We ourselves did not run for `absence_ns`, up to now."""
        assert absence_ns >= 0
        self.heard_at_ns += absence_ns

    @property
    def deadline_ns(self) -> int:
        return self.heard_at_ns + self.timeout_ns

    def tardy(self, now_ns: int) -> bool:
        return now_ns >= self.deadline_ns
