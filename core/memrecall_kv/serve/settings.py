"""How much a server takes on."""

from __future__ import annotations

from pydantic import Field

from memrecall_kv.config import Config


class ServeSettings(Config):
    """Limits of a server.

    Attributes:
        max_questions_at_once: Questions that are answered at the same time; they share what they need of the model.
            `None`: one on a CPU, where eight take as long as one after the other, and each of them longer; else eight.
        max_waiting_questions: Questions that wait for their turn; the next one is answered 503.
        max_waiting_jobs: Changes of banks that wait for theirs; the next one is answered 503.
        max_kept_jobs: Jobs that are done and can still be looked up; the oldest are forgotten.
        max_request_bytes: Bytes of a request's body.
        body_seconds: Seconds that a body may take to arrive.
        requests_per_minute: Of one API key, as many at once; `None` for any number. Without keys none is counted.
        ping_seconds: Between two signs of life in a stream that has nothing to say.
        shutdown_seconds: Seconds that running questions get to end after the server was told to.
    """

    max_questions_at_once: int | None = Field(default=None, ge=1)
    max_waiting_questions: int = Field(default=64, ge=0)
    max_waiting_jobs: int = Field(default=16, ge=0)
    max_kept_jobs: int = Field(default=1000, ge=1)
    max_request_bytes: int = Field(default=16 * 2**20, ge=1024)
    body_seconds: float = Field(default=30.0, gt=0.0)
    requests_per_minute: int | None = Field(default=600, ge=1)
    ping_seconds: float = Field(default=15.0, gt=0.0)
    shutdown_seconds: int = Field(default=30, ge=0)

    def questions_at_once(self, device: str) -> int:
        """Return how many questions are answered at the same time by a model on a device of this kind."""
        return self.max_questions_at_once or (1 if device == "cpu" else 8)
