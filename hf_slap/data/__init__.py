"""Corpora of captioned sound: records, batches, augmentation, tokenizer."""

from .augmentation import (
    add_noise,
    append,
    apply_gain,
    change_speed,
    equalize,
    low_pass,
    mix,
    random_crop,
    reverberate,
    spec_augment,
)
from .batching import ClipRef, padding_share, plan_epoch, rank_batches, run_batches, share
from .collate import ClipSettings, PretrainCollator, PretrainDataset, SkippedClip, TrainingClip
from .corpora_index import CorporaIndex, index_corpora
from .corpus import load_corpus, measure_durations
from .datasheet import write_datasheet
from .encoding import SoundSettings
from .fingerprint import FingerprintIndex, build_index
from .leakage import EVALUATION_SETS, find_leaks
from .merging import merge_corpora
from .preparing import PrepareSettings, prepare
from .publishing import push_to_hub, write_card
from .records import Caption, Record, RecordError, validate
from .sampling import SOURCE_WEIGHTS, clip_times, epoch_order, epoch_orders, take_fraction
from .shards import read_manifest, read_records, read_rows, verify
from .text_rules import clean_text
from .tokenizer import end_texts, train_tokenizer
from .trainer import TrainerCollator

__all__ = [
    "Caption",
    "ClipRef",
    "ClipSettings",
    "CorporaIndex",
    "EVALUATION_SETS",
    "FingerprintIndex",
    "PrepareSettings",
    "PretrainCollator",
    "PretrainDataset",
    "Record",
    "RecordError",
    "SOURCE_WEIGHTS",
    "SkippedClip",
    "SoundSettings",
    "TrainerCollator",
    "TrainingClip",
    "add_noise",
    "append",
    "apply_gain",
    "build_index",
    "change_speed",
    "clean_text",
    "clip_times",
    "end_texts",
    "epoch_order",
    "epoch_orders",
    "equalize",
    "find_leaks",
    "index_corpora",
    "load_corpus",
    "low_pass",
    "measure_durations",
    "merge_corpora",
    "mix",
    "padding_share",
    "plan_epoch",
    "prepare",
    "push_to_hub",
    "random_crop",
    "rank_batches",
    "read_manifest",
    "read_records",
    "read_rows",
    "reverberate",
    "run_batches",
    "share",
    "spec_augment",
    "take_fraction",
    "train_tokenizer",
    "validate",
    "verify",
    "write_card",
    "write_datasheet",
]
