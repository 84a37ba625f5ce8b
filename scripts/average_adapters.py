"""Average the weights of adapters that lie on one path of training, and write the mean as it is shipped.

python scripts/average_adapters.py OLD/reasoner NEW/reasoner --out MEAN/reasoner
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from memrecall_kv.backbone.lora import LoraAdapter


def main() -> None:
    """Load, average, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapters", nargs="+", type=Path, help="directories in PEFT's layout")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    mean = LoraAdapter.mean([LoraAdapter.from_directory(path) for path in options.adapters])
    base = json.loads((options.adapters[0] / "adapter_config.json").read_text(encoding="utf-8"))
    mean.half().save(options.out, base_model=base["base_model_name_or_path"])


if __name__ == "__main__":
    main()
