"""What reinforcement learning moves: a reader and, with a ratio, the memory tokens it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.backbone.lora import LoraAdapter
from memrecall_kv.compress.frozen_raw import FrozenRawLayout
from memrecall_kv.train.adapters import named_parameters
from memrecall_kv.train.tasks import MAX_CHUNK
from memrecall_kv.types import MemoryBlock


@dataclass(frozen=True)
class Policy:
    """A reader and its memory tokens, as leaves that can be trained.

    Attributes:
        backbone: The model, frozen.
        ratio: Source tokens per memory token; 0 reads text, and only the reader is trained.
        reader: Deltas that are on while it reads, float32.
        compressor: Deltas that are on at memory tokens, float32.
        embedding: Learned part of a memory token's embedding. `[hidden]`.
    """

    backbone: Backbone
    ratio: int
    reader: LoraAdapter
    compressor: LoraAdapter
    embedding: Tensor

    @classmethod
    def load(cls, backbone: Backbone, folder: Path, *, ratio: int) -> Policy:
        """Load what stage `compressor` or `reasoner` wrote.

        Raises:
            InputError: If a file is missing or unreadable.
        """
        reader = LoraAdapter.from_directory(folder / "reasoner").single()
        if not ratio:
            return cls(backbone, 0, reader, LoraAdapter({}, alpha=1.0), torch.zeros(backbone.model.config.hidden_size))
        layout = FrozenRawLayout.from_directory(backbone, folder / "compressor")
        return cls(backbone, ratio, reader, layout.adapter.single(), layout.embedding.float().clone())

    def parameters(self) -> dict[str, Tensor]:
        """Return the leaves by name."""
        found = named_parameters({"reader": self.reader, "compressor": self.compressor})
        return found | {"embedding": self.embedding} if self.ratio else found

    def live(self) -> LoraAdapter:
        """Return the reader as the backbone computes; gradient flows to the leaves."""
        return self.reader.to(self.backbone.device, self.backbone.dtype)

    def blocks(self, texts: Sequence[str]) -> list[MemoryBlock]:
        """Return a block per text; gradient flows if it is on and there is a ratio."""
        layout = FrozenRawLayout(self.backbone, self.compressor, self.embedding)
        reading = layout.read([self.backbone.encode(text)[:MAX_CHUNK] for text in texts])
        return layout.write(reading, self.ratio) if self.ratio else layout.whole(reading)

    def save(self, out: Path) -> None:
        """Write `reasoner/` and, with a ratio, `compressor/`."""
        self.reader.half().save(out / "reasoner", base_model=self.backbone.name)
        if self.ratio:
            FrozenRawLayout(self.backbone, self.compressor, self.embedding).save(out / "compressor")
