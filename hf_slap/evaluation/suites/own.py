"""Clips of your own: `--suite own --data own=clips.parquet`, with labels, with captions, or with both.

What they lack is not measured: retrieval and captioning without captions, the single-label task with several labels.
"""

from ..captioning import QUICK_MEASURES
from ..tasks import Task

_SOURCE = "yours"
PROMPTS = ("{}", "the sound of {}", "this is a sound of {}", "{} can be heard")

TASKS = (
    Task("own-zero-shot", "zero_shot", "own", "accuracy", _SOURCE, prompts=PROMPTS),
    Task("own-zero-shot-multi-label", "zero_shot", "own", "mAP", _SOURCE, prompts=PROMPTS, multi_label=True),
    Task("own-retrieval", "retrieval", "own", "recall@10", _SOURCE),
    Task("own-captioning", "captioning", "own", "CIDEr-D", _SOURCE, measures=QUICK_MEASURES),
)
