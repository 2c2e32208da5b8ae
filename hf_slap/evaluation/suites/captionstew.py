"""CaptionStew's evaluation of representations (arXiv 2511.16757): probes of the frozen encoder, pooled in two ways.

Its own tables were not found. `reported` are the same group's numbers for contrastive pretraining (arXiv 2603.25767,
mean pooling, linear).
"""

from ..tasks import Task

_SOURCE = "CaptionStew, probing; optimiser and steps not stated"
_SETS = (  # name, set, several labels, reported
    ("fsd50k", "fsd50k", True, 0.445),
    ("vggsound", "vggsound", False, 0.4078),
    ("voxceleb2", "voxceleb2", False, 0.3388),
    ("crema-d", "crema_d", False, 0.6729),
    ("magnatagatune", "magnatagatune", True, 0.396),
    ("nsynth", "nsynth", False, 0.6140),
)
_MORE = {"nsynth": {"label_pattern": r"(?:^|/)([a-z_]+?)_(?:acoustic|electronic|synthetic)_\d+-"}}


def _probe(name: str, data: str, multi_label: bool, reported: float, pooling: str) -> Task:
    return Task(
        f"{name}-{pooling}-probe", "probe", data, "mAP" if multi_label else "accuracy", _SOURCE,
        multi_label=multi_label, pooling=pooling, **_MORE.get(name, {}),
        reported={"contrastive on UTS captions": reported} if pooling == "mean" else {},
    )  # fmt: skip


TASKS = (
    *(_probe(*row, pooling) for row in _SETS for pooling in ("mean", "attention")),
    Task(
        "sound-event-detection", "events", "desed", "segment mAP",
        "CaptionStew, frame-level probe; set and measure not stated: DESED, segments of 1 s", multi_label=True,
    ),
    *(
        Task(
            f"{name}-retrieval", "retrieval", name, "recall@1",
            "CaptionStew, alignment: it trains a text side on the frozen encoder. Here the model's own is used",
            expected=expected,
        )
        for name, expected in (("audiocaps", None), ("musiccaps", None), ("paraspeechcaps", None))
    ),
    Task(
        "question-answering", "elsewhere", "audiocaps", "accuracy",
        "CaptionStew, open-form QA: an adapter is trained and a language model judges; not served here",
    ),
)  # fmt: skip
