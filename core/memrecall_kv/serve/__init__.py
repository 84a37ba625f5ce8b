"""A bank behind HTTP: documents, questions, and the forms that OpenAI's and rerankers' clients speak.

`app.py` puts the parts together and `service.py` lists them. Needs the extra `serve`. The core never imports this room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memrecall_kv.faces import on_demand

if TYPE_CHECKING:
    from memrecall_kv.serve.app import build_app
    from memrecall_kv.serve.settings import ServeSettings

__all__ = ["build_app", "ServeSettings"]

__getattr__ = on_demand(
    __name__, {"build_app": "memrecall_kv.serve.app", "ServeSettings": "memrecall_kv.serve.settings"}
)
