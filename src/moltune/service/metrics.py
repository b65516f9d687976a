"""What Prometheus may ask."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

MEDIA_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "moltune_requests", "Requests by route and status.", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "moltune_request_seconds", "Time to an answer.", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self.molecules = Counter("moltune_molecules", "Molecules predicted by request.", registry=self.registry)
        self.batches = Histogram(
            "moltune_batch_molecules",
            "Molecules that a process predicted at once.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )
        self.waiting = Gauge("moltune_waiting_molecules", "Molecules in the queue.", registry=self.registry)
        self.refused = Counter("moltune_refused", "Requests refused since the queue was full.", registry=self.registry)
        self.restarts = Counter(
            "moltune_worker_restarts", "Processes that ended or did not answer.", registry=self.registry
        )
        self.jobs = Gauge("moltune_jobs", "Jobs by state.", ["state"], registry=self.registry)

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self.registry)
