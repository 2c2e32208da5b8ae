"""Corpora of captioned sound: records, batches, augmentation, tokenizer."""

from .augmentation import apply_gain, low_pass, mix, random_crop, spec_augment
from .batching import ClipRef, padding_share, plan_epoch, rank_batches, share
from .collate import ClipSettings, PretrainCollator, PretrainDataset, SkippedClip, TrainingClip
from .corpus import load_corpus, measure_durations
from .tokenizer import train_tokenizer

__all__ = [
    "ClipRef",
    "ClipSettings",
    "PretrainCollator",
    "PretrainDataset",
    "SkippedClip",
    "TrainingClip",
    "apply_gain",
    "load_corpus",
    "low_pass",
    "measure_durations",
    "mix",
    "padding_share",
    "plan_epoch",
    "random_crop",
    "rank_batches",
    "share",
    "spec_augment",
    "train_tokenizer",
]
