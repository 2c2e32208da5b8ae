"""Whether a label is heard at all, whatever else is: its similarity against that of everyday sounds."""

from collections.abc import Sequence

import numpy as np

TEMPLATE = "This is a sound of {}."  # that of transformers' zero-shot pipeline
BACKGROUND = (
    "speech", "music", "an animal", "a vehicle", "a machine", "water", "wind", "an impact", "people",
    "a musical instrument", "background noise", "silence",
)  # fmt: skip


def prompts(labels: Sequence[str], template: str = TEMPLATE) -> list[str]:
    """A text for each label.

    Raises:
        ValueError: a template without {}, no label, an empty one, or one that comes twice.
    """
    if "{}" not in template:
        raise ValueError(f"template {template!r} must hold {{}} where the label goes, such as {TEMPLATE!r}")
    if isinstance(labels, str) or not labels or not all(isinstance(one, str) and one.strip() for one in labels):
        raise ValueError(f"labels={labels!r}; accepted is a list of texts such as ['a dog', 'rain'], none empty")
    if twice := sorted({label for label in labels if list(labels).count(label) > 1}):
        raise ValueError(f"labels {twice} come twice; give each once")
    return [template.format(label) for label in labels]


def presence(audio: np.ndarray, labels: np.ndarray, background: np.ndarray, scale: float) -> np.ndarray:
    """The chance of each label where it alone competes with the background texts, but for the one most like it.

    Args:
        audio: (n, P), unit norm.
        labels: (C, P), unit norm.
        background: (K, P), unit norm, K at least 2.
        scale: multiplier of the similarities.
    Returns:
        (n, C), 0 to 1. Labels do not compete with each other.
    Source: Not stated by the papers. Chosen on scenes of held-out clips (model of `tiny.yaml`; 2, 5 and 10 of 21
        labels, 12 draws each): segment mAP 0.215, 0.239 and 0.226 where softmax over the labels has 0.142, 0.194 and
        0.205; the best threshold is 0.54, 0.45 and 0.51.
    """
    rivals = scale * (audio @ background.T).astype(np.float64)  # (n, K)
    alike = (labels @ background.T).argmax(1)  # "speech" must not lose against "speech"
    others = np.arange(len(background)) != alike[:, None]  # (C, K)
    against = np.logaddexp.reduce(
        np.broadcast_to(rivals[:, None], (len(rivals), *others.shape)), axis=2, where=others, initial=-np.inf
    )
    return 1 / (1 + np.exp(against - scale * (audio @ labels.T)))
