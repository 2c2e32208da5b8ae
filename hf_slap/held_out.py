"""What follows from held-out numbers: the learning rate falls when they get no better, the best weights are kept.

Both go on where they were when the run is resumed: what they remember is in the checkpoint.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor, nn

from .distributed import gather_objects
from .files import write_whole
from .training_config import TrainConfig
from .training_log import better_of

_LEAST = 1e-4  # a relative change below this is no change, as in torch's ReduceLROnPlateau


class Plateau:
    """How often the learning rate was lowered because a held-out number got no better.

    Args:
        measure: its name; a loss is better when it is lower.
        patience: validations in a row that may pass without a better number; the next one lowers the rate.
        counters: what `counters` gave when the run was interrupted.
    Source: the rule of torch.optim.lr_scheduler.ReduceLROnPlateau, whose defaults CLAP's numbers look like.
    """

    def __init__(self, measure: str, patience: int, counters: Mapping | None = None):
        self.measure, self.patience = measure, patience
        counters = counters or {}
        self.best: float | None = counters.get("plateau_best")
        self.waited, self.lowered = counters.get("plateau_waited", 0), counters.get("plateau_lowered", 0)

    @property
    def counters(self) -> dict:
        """For the checkpoint."""
        return {"plateau_best": self.best, "plateau_waited": self.waited, "plateau_lowered": self.lowered}

    def note(self, values: Mapping[str, float]) -> bool:
        """After a validation; whether it lowers the rate. A number that is NaN is not better than any."""
        value, sign = values[self.measure], -1 if better_of(self.measure) is min else 1
        if value == value and (self.best is None or sign * (value - self.best) > _LEAST * abs(self.best)):
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        if self.waited <= self.patience:
            return False
        self.waited, self.lowered = 0, self.lowered + 1
        return True


class BestWeights:
    """The weights of the best validation so far, a file `selected/step-....safetensors` of the run folder.

    The file of the best that a checkpoint knows of stays until the next checkpoint is written, so a run that is killed
    in between goes on from what it had.

    Args:
        folder: of the run.
        measure: what decides; a loss is better when it is lower. Of equal ones the first is kept.
        counters: what `counters` gave when the run was interrupted.
    """

    def __init__(self, folder: str | Path, measure: str, counters: Mapping | None = None):
        self.folder, self.measure = Path(folder) / "selected", measure
        counters = counters or {}
        self.step: int | None = counters.get("selected_step")
        self.value: float | None = counters.get("selected_value")

    @property
    def counters(self) -> dict:
        """For the checkpoint."""
        return {"selected_step": self.step, "selected_value": self.value}

    def note(self, step: int, values: Mapping[str, float]) -> bool:
        """After a validation of all ranks; whether it is the best so far and `keep` must be called."""
        value = values[self.measure]
        if value != value or (self.value is not None and better_of(self.measure)(self.value, value) == self.value):
            return False
        self.step, self.value = step, value
        return True

    def keep(self, model: nn.Module) -> None:
        """Writes the weights of the best step. On one rank."""
        self.folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
        write_whole(self._file(), lambda file: file.write(save(weights)))

    def forget_others(self) -> None:
        """Removes the files of steps that were best once. On one rank, when a checkpoint knows of this best."""
        for path in self.folder.glob("step-*.safetensors"):
            if self.step is not None and path != self._file():
                path.unlink()

    def weights(self) -> dict[str, Tensor]:
        """By name.

        Raises:
            ValueError: no validation gave a number.
        """
        if self.step is None:
            raise ValueError(
                f"no validation gave a finite {self.measure!r}, so no weights were selected; the last ones are in the "
                "last checkpoint"
            )
        return load_file(self._file())

    def _file(self) -> Path:
        return self.folder / f"step-{self.step:08d}.safetensors"


class HeldOut:
    """Both of these, as far as a configuration asks for them.

    Args:
        config: `schedule`, `plateau_on` and `plateau_patience`; `select_by`; `run_folder`.
        counters: what `counters` gave when the run was interrupted.
    """

    def __init__(self, config: TrainConfig, counters: Mapping | None = None):
        self.plateau = self.best = None
        if config.schedule == "plateau":
            self.plateau = Plateau(config.plateau_on, config.plateau_patience, counters)
        if config.select_by is not None:
            self.best = BestWeights(config.run_folder, config.select_by, counters)

    @property
    def counters(self) -> dict:
        """For the checkpoint."""
        return {name: value for part in (self.plateau, self.best) if part for name, value in part.counters.items()}

    @property
    def lowered(self) -> int:
        """How often the learning rate was lowered."""
        return self.plateau.lowered if self.plateau else 0

    def note(self, step: int, values: Mapping[str, float]) -> bool:
        """After a validation, on every rank; whether its weights are the best so far and `best.keep` must be called.

        The first rank's numbers count: the others' may differ in the last bit, and their rates must not.
        """
        values = gather_objects(dict(values))[0]
        for part in filter(None, (self.plateau, self.best)):
            if part.measure not in values:
                raise ValueError(f"the validation gives no {part.measure!r}; it gives {sorted(values)}")
        if self.plateau:
            self.plateau.note(values)
        return bool(self.best and self.best.note(step, values))
