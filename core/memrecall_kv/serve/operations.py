"""Routes for whoever runs the server: is it there, and what has it done."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from memrecall_kv.serve.refused import RefusedError
from memrecall_kv.serve.service import Asker, Parts

router = APIRouter(tags=["operations"])


class Health(BaseModel):
    """That the server is there."""

    status: Literal["ok"] = "ok"


@router.get("/healthz")
async def health() -> Health:
    """Say that the server is there; needs no key."""
    return Health()


@router.get("/metrics", response_class=Response)
async def metrics(service: Parts, caller: Asker) -> Response:
    """Return counts and times as Prometheus reads them; not to a key that is bound to banks."""
    if caller.banks is not None:
        raise RefusedError(403, "Expected a key for all banks, got one that is bound to some.", "Use another key.")
    return Response(service.meters.text(), media_type=CONTENT_TYPE_LATEST)
