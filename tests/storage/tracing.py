"""Run the steps behind `calls.c`, noting when each is acknowledged: `python tracing.py ROOT`."""

from __future__ import annotations

import sys
from pathlib import Path

from storage_trace import BUDGET, EVICTS, NATIVE, STEPS, open_bank

REOPENS = 5
"""Before this step, too, the bank is closed and opened again."""


def main(root: Path) -> None:
    with (root / "acks").open("wb", buffering=0) as acks:
        bank = open_bank(root / "bank")
        acks.write(b"0\n")
        for number, (step, _) in enumerate(STEPS, 1):
            if number in (REOPENS, EVICTS):
                bank.close()
                bank = open_bank(root / "bank", BUDGET if number >= EVICTS else NATIVE)
            step(bank)
            acks.write(b"%d\n" % number)
        bank.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
