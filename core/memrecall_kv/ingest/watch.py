"""Waits for a folder to change and to be quiet again, by looking at it.

Looking works on network drives, in containers and on every system, and needs no further package; notifications of the
system do not tell of what another machine writes. It costs one `stat` a file and look.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_MOST_LOOKS = 15
"""Looks after which a folder that never rests is taken as it is."""


class Watcher:
    """Tells when what is looked at has changed.

    Args:
        look: Returns the state of what is watched; states are compared.
        interval: Seconds between two looks. A change counts when the next look sees no further one.
        sleep: Waits for so many seconds.
    """

    def __init__(
        self, look: Callable[[], object], interval: float, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._look, self._interval, self._sleep = look, interval, sleep
        self._seen = look()

    def wait(self) -> None:
        """Return when there was a change since the last return, or since `forget`."""
        while True:
            self._sleep(self._interval)
            now = self._look()
            if now != self._seen:
                break
        for _ in range(_MOST_LOOKS):
            self._sleep(self._interval)
            later, now = now, self._look()
            if later == now:
                break
        self._seen = now

    def forget(self) -> None:
        """Take what there is for a change, because nothing came of the last one."""
        self._seen = object()
