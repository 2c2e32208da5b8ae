"""What can be measured with the clips of the repository alone: every kind of task, in a minute or two, offline.

The held-out clips come from other packages than the training clips. There are few of them: read the intervals.
"""

from ..captioning import QUICK_MEASURES
from ..tasks import Task

PROMPT = "the sound of {}"
_OWN = "this project's"
_SCENES = "this project's: two or three held-out sounds one after the other, events known exactly"
_TRAIN = ("shipped_train", "train")

TASKS = (
    Task(
        "heldout-zero-shot", "zero_shot", "shipped_heldout", "accuracy", _OWN, expected=103, prompts=(PROMPT,)
    ),
    Task(
        "heldout-zero-shot-ensemble", "zero_shot", "shipped_heldout", "accuracy", _OWN, expected=103,
        prompts=("{}", PROMPT, "this is a sound of {}", "{} can be heard"),
    ),
    Task("heldout-retrieval", "retrieval", "shipped_heldout", "recall@10", _OWN + "; a text that several clips share is right for each", expected=103),  # fmt: skip # noqa: E501
    Task("heldout-captioning", "captioning", "shipped_heldout", "CIDEr-D", _OWN, expected=103, measures=QUICK_MEASURES),
    Task("heldout-linear-probe", "probe", "shipped_heldout", "accuracy", _OWN, expected=103, train=_TRAIN),
    Task(
        "heldout-attention-probe", "probe", "shipped_heldout", "accuracy", _OWN, expected=103, train=_TRAIN,
        pooling="attention",
    ),
    Task("heldout-knn", "probe", "shipped_heldout", "accuracy", _OWN, expected=103, train=_TRAIN, pooling="knn"),
    Task("heldout-4-shot", "probe", "shipped_heldout", "accuracy", _OWN, expected=103, train=_TRAIN, shots=4),
    Task("scenes-zero-shot", "zero_shot", "shipped_scenes", "mAP", _SCENES, prompts=(PROMPT,), multi_label=True),
    Task(
        "scenes-linear-probe", "probe", "shipped_scenes", "mAP", _SCENES, multi_label=True,
        train=("shipped_train_scenes", "train"),
    ),
    Task(
        "scenes-events", "events", "shipped_scenes", "segment mAP", _SCENES, multi_label=True,
        train=("shipped_train_scenes", "train"),
    ),
    Task("scenes-localisation", "localisation", "shipped_scenes", "AUROC", _SCENES, prompts=(PROMPT,)),
)  # fmt: skip
