"""What a server counts and times, for Prometheus. No label holds a text, a bank or a caller."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Meters:
    """The meters of one server.

    Attributes:
        requests: Requests, by route, method and status.
        request_seconds: How long one took until the last byte was sent, by route.
        stage_seconds: How long a question waited, was looked up, and was answered, by stage.
        questions: Questions, by how they ended: found, not_found, cancelled or failed.
        questions_inside: Questions that wait or are answered at the moment.
        jobs_inside: Changes that wait or run at the moment.
        jobs: Changes of banks, by kind and by how they ended.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "memrecall_requests", "Requests.", ["route", "method", "status"], registry=self._registry
        )
        self.request_seconds = Histogram(
            "memrecall_request_seconds", "Seconds of a request.", ["route"], buckets=_SECONDS, registry=self._registry
        )
        self.stage_seconds = Histogram(
            "memrecall_stage_seconds",
            "Seconds of a stage of a question: wait, recall or answer.",
            ["stage"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.questions = Counter("memrecall_questions", "Questions.", ["outcome"], registry=self._registry)
        self.questions_inside = Gauge(
            "memrecall_questions_inside", "Questions that wait or are answered.", registry=self._registry
        )
        self.jobs_inside = Gauge("memrecall_jobs_inside", "Changes that wait or run.", registry=self._registry)
        self.jobs = Counter("memrecall_jobs", "Changes of banks.", ["kind", "outcome"], registry=self._registry)

    def text(self) -> bytes:
        """Return all of it as Prometheus reads it."""
        return generate_latest(self._registry)
