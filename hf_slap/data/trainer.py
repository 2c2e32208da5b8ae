"""Rows of sound to the batches that transformers' own `Trainer` takes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch


class TrainerCollator:
    """Batches for `Trainer`: with captions for `SlapModel` (contrastive loss), with labels for
    `SlapForAudioClassification`.

    `TrainingArguments` must say `remove_unused_columns=False`: sound is read here, from columns that no model knows.

    Args:
        processor: a `SlapProcessor`.
        audio: column of clips, in any form that `SlapFeatureExtractor.load` reads.
        caption: column of texts, or of lists of texts, of which one is drawn each time.
        label: column of class numbers, or of one 0 or 1 for each class.
    Raises:
        ValueError: both caption and label, or neither.
    """

    def __init__(self, processor: Any, audio: str = "audio", caption: str | None = None, label: str | None = None):
        if (caption is None) == (label is None):
            raise ValueError(
                f"caption={caption!r} and label={label!r}: name one column, caption= for a SlapModel or label= for a "
                "SlapForAudioClassification"
            )
        self.processor, self.audio, self.caption, self.label = processor, audio, caption, label

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """
        Args:
            rows: of one batch.
        Returns:
            what the processor makes of them, and "return_loss" (captions) or "labels" (B,) int64 or (B, classes) float.
        Raises:
            KeyError: a row without one of the columns.
            AudioError: a clip that cannot be heard; the message says which of the batch.
        """
        for name in (self.audio, self.caption or self.label):
            if rows and name not in rows[0]:
                raise KeyError(
                    f"no column {name!r} in a row of {sorted(rows[0])}; name it in TrainerCollator, and set "
                    "remove_unused_columns=False in TrainingArguments"
                )
        sound = [row[self.audio] for row in rows]
        if self.caption is None:
            labels = torch.tensor([row[self.label] for row in rows])
            inputs = self.processor(audio=sound, return_tensors="pt")
            return {**inputs, "labels": labels.float() if labels.dim() == 2 else labels}
        texts = [_one_of(row[self.caption]) for row in rows]
        return {**self.processor(audio=sound, text=texts, return_tensors="pt"), "return_loss": True}


def _one_of(texts: str | Sequence[str]) -> str:
    """A text; of several, one drawn by torch's generator, which Trainer seeds."""
    return texts if isinstance(texts, str) else texts[int(torch.randint(len(texts), ()))]
