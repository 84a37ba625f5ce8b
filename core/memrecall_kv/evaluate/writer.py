"""The backbone as it is, writing what it is asked to."""

from __future__ import annotations

from memrecall_kv.decoding import generate
from memrecall_kv.kv import KVAccess
from memrecall_kv.models import Backbone
from memrecall_kv.reasoner import Tally


class Writer:
    """Follows requests in the backbone's chat form, greedily.

    Args:
        backbone: The model.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._kv = KVAccess(backbone)

    def write(self, request: str, limit: int, tally: Tally) -> str:
        """Return the reply.

        Args:
            request: The user's turn.
            limit: Tokens of the reply at most.
            tally: Counts what is read and written.

        Raises:
            ContextOverflowError: If the request does not fit the window.
        """
        with self._backbone.lock:
            prompt = self._backbone.chat(request)
            tally.prompt_tokens += len(prompt)
            # the sink in front of the prompt, not placed before it: nothing to mask, and half the time of a long prompt
            context, read = self._kv.start(1), [self._backbone.sink_id, *prompt]
            ids = [token for (token,) in generate(self._kv, context, [read], limit) if token is not None]
            tally.generated_tokens += len(ids)
            return self._backbone.decode(ids).strip()
