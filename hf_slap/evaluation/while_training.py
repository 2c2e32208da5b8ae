"""Zero-shot tasks of the suites for the validation of a run: opened once, scored quickly, nothing kept."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .run import choose_tasks, label_vectors, open_task, places_of, targets_of
from .sets import NotMeasured
from .tagging import micro_f1, tagging_scores
from .tasks import Task
from .zero_shot import zero_shot_scores

if TYPE_CHECKING:
    from datasets import Dataset


class ZeroShotTasks:
    """Tasks with their clips.

    Args:
        names: of zero-shot tasks, of any suites.
        data: where their sets are, as in `evaluate`.
    Raises:
        ValueError: an unknown task, one of another kind, or a set that is not here; says how to get it. A mean over
            the sets that happen to be there would not be comparable with itself.
    """

    def __init__(self, names: Sequence[str], data: Mapping[str, Any] | str | None = None):
        tasks = choose_tasks(None, names) if names else []
        if others := [task.name for task in tasks if task.kind != "zero_shot" or task.max_seconds]:
            raise ValueError(f"zero_shot_tasks names {others}, which are not zero-shot tasks over whole clips")
        places, missing = places_of(data), []
        self.tasks: list[tuple[Task, Any]] = []
        for task in tasks:
            try:
                self.tasks.append((task, open_task(task, places, False)["test"]))
            except NotMeasured as reason:
                missing.append(f"  {task.name}: {reason}")
        if missing:
            raise ValueError(
                "zero_shot_tasks names tasks whose sets are not here; set zero_shot_data, or leave these out:\n"
                + "\n".join(missing)
            )

    def scores(
        self,
        embed_clips: Callable[["Dataset"], tuple[np.ndarray, np.ndarray]],
        embed_texts: Callable[[list[str]], np.ndarray],
    ) -> dict[str, float]:
        """The metric of each task under its name, and their mean, "zero-shot score"; nothing without tasks.

        Args:
            embed_clips: clips (columns "id" and "audio") -> (n, P) of those that can be heard, and their rows (n,).
            embed_texts: M texts -> (M, P). Both of unit norm.
        """
        values, heard = {}, {}
        for task, clips in self.tasks:
            sounds = tuple(clips.data["key"])
            if sounds not in heard:  # tasks may share a set
                heard[sounds] = embed_clips(clips.data)
            embeds, rows = heard[sounds]
            names, targets = targets_of(task, clips, rows)
            values[task.name] = _metric(task, embeds @ label_vectors(task, embed_texts, names).T, targets, names)
        return {**values, "zero-shot score": float(np.mean(list(values.values())))} if values else {}


def _metric(task: Task, similarity: np.ndarray, targets: np.ndarray, names: Sequence[str]) -> float:
    if not task.multi_label:
        result = zero_shot_scores(similarity, targets.argmax(1), names, resamples=1)
        return result.macro_f1 if task.metric == "F1" else result.accuracy
    if task.metric == "F1":
        return micro_f1(similarity, targets)
    return tagging_scores(similarity, targets, names, resamples=1).mean_average_precision
