"""Says when a run has collapsed: masked prediction has become a task that a constant solves, or embeddings coincide.

Collapse has two forms (DINO: Caron et al. 2021, section 5.3). The targets may all be flat, which centring alone leads
to, or all be the same prototype, which sharpening alone leads to; in both, a patch's target says nothing about the
patch. `prototypes.prototype_statistics` and `telemetry` measure what is worth watching in every logged step; it is
judged here, over several lines of the log in a row: one line proves nothing.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

PATIENCE = 10


class Sign(NamedTuple):
    """One way to have collapsed.

    Args:
        name: short, for the metrics.
        needs: values without which it cannot be judged.
        shows: whether a line of the log shows it.
        means: what it means, with the values of the line in braces.
        advice: what to try.
    """

    name: str
    needs: tuple[str, ...]
    shows: Callable[[Mapping[str, float]], bool]
    means: str
    advice: str


def _says_nothing(row: Mapping[str, float]) -> bool:
    return row["target_information"] < 0.02


SIGNS = (
    Sign(
        "flat targets",
        ("target_information", "target_entropy"),
        lambda row: _says_nothing(row) and row["target_entropy"] >= 0.9,
        "masked prediction has collapsed: the teacher's targets are the same for every patch, spread over all "
        "prototypes (entropy {target_entropy:.3f} of 1, information {target_information:.4f}), with nothing to learn",
        "sharpen the targets: lower teacher_temperature_start and teacher_temperature_end (DINO: 0.04 to 0.07); where "
        "the features are constant too, raise teacher_momentum_start or lower peak_learning_rate, from the start or "
        "from an earlier checkpoint",
    ),
    Sign(
        "one prototype",
        ("target_information", "target_entropy", "prototype_entropy"),
        lambda row: _says_nothing(row) and row["target_entropy"] < 0.9,
        "masked prediction has collapsed: the teacher gives every patch the same few prototypes (entropy of their use "
        "{prototype_entropy:.3f} of 1, information {target_information:.4f}), with nothing to learn",
        "centre the targets: centering=sinkhorn uses all prototypes alike; with centering=softmax raise "
        "teacher_temperature_start; raise freeze_prototypes_steps, or teacher_momentum_start for a slower teacher",
    ),
    Sign(
        "few prototypes",
        ("prototypes_used", "target_information"),
        lambda row: not _says_nothing(row) and row["prototypes_used"] < 0.02,
        "masked prediction is close to collapse: only {prototypes_used:.2%} of the prototypes are the likeliest of any "
        "patch",
        "centre the targets: centering=sinkhorn uses all prototypes alike; or take fewer (model.num_prototypes), or "
        "raise freeze_prototypes_steps",
    ),
    Sign(
        "constant features",
        ("patch_rank",),
        lambda row: row["patch_rank"] < 1.2,
        "the teacher's features of all patches are the same (effective rank {patch_rank:.2f}): whatever its targets "
        "say, they are not about the sound",
        "lower peak_learning_rate, raise teacher_momentum_start, and keep contrastive_weight above 0, which pulls "
        "clips apart; from the start or from an earlier checkpoint",
    ),
    Sign(
        "constant student",
        ("masked_gain", "constant_prediction", "target_information"),
        lambda row: not _says_nothing(row) and abs(row["masked_gain"]) < 0.005 * row["constant_prediction"],
        "the student predicts the same for every masked patch: its loss is that of the best constant prediction, "
        "{constant_prediction:.3f} nats, though targets differ from patch to patch (information "
        "{target_information:.2f})",
        "a lower clips.mask_ratio makes the task easier, a higher teacher_temperature_start the targets less "
        "arbitrary; if it has been better before, a lower peak_learning_rate",
    ),
    Sign(
        "coinciding clips",
        ("audio_rank",),
        lambda row: row["audio_rank"] < 1.2,
        "all clips have nearly the same embedding (effective rank {audio_rank:.2f})",
        "lower peak_learning_rate or raise warmup_steps; see that captions differ between clips (false_negative_share)",
    ),
    Sign(
        "coinciding captions",
        ("text_rank",),
        lambda row: row["text_rank"] < 1.2,
        "all captions have nearly the same embedding (effective rank {text_rank:.2f})",
        "lower peak_learning_rate or raise warmup_steps; see that captions differ between clips (false_negative_share)",
    ),
)


class CollapseWatch:
    """Judges the lines of a log one after the other; feed it the old ones again when a run is resumed.

    Args:
        first_step: lines before it are not judged: everything begins with features that are nearly alike, and a student
            that knows nothing. The end of the learning-rate warm-up is a good choice.
        patience: a sign is told once this many lines in a row show it, and again only after as many without it.
    """

    def __init__(self, first_step: int = 0, patience: int = PATIENCE):
        self.first_step, self.patience = first_step, patience
        self._shown = dict.fromkeys((sign.name for sign in SIGNS), 0)
        self._absent = dict(self._shown)
        self._told: set[str] = set()

    def __call__(self, row: Mapping[str, float]) -> list[dict[str, str]]:
        """{"sign", "message", "advice"} of every sign that is now certain, and was not before.

        Args:
            row: a line of training numbers with its "step".
        """
        if row["step"] <= self.first_step:
            return []
        events = []
        for sign in SIGNS:
            if any(name not in row for name in sign.needs):
                continue
            shows = sign.shows(row)
            self._shown[sign.name] = self._shown[sign.name] + 1 if shows else 0
            self._absent[sign.name] = 0 if shows else self._absent[sign.name] + 1
            if self._absent[sign.name] >= self.patience:
                self._told.discard(sign.name)
            if self._shown[sign.name] >= self.patience and sign.name not in self._told:
                self._told.add(sign.name)
                events.append({"sign": sign.name, "message": sign.means.format(**row), "advice": sign.advice})
        return events
