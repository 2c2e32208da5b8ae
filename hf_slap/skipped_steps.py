"""Steps that changed nothing, because their loss or gradient was not finite: counted, listed, and when to give up."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from .files import read_json_lines

SKIPPED_FILE = "skipped_steps.jsonl"


class TooManySkippedSteps(RuntimeError):
    """So many steps were skipped that going on would be of no use."""


class SkippedSteps:
    """Counts the skipped steps of a run and lists them in `skipped_steps.jsonl`, one line each.

    Args:
        folder: of the run.
        most_in_a_row: so many one after the other are too many.
        most_share: so large a share of all steps is too much, once there are more than `most_in_a_row`.
        counters: what `counters` gave when the run was interrupted.
        first_step: steps done before; lines of later ones are cut off, because the resumed run meets them again.
        active: False on all processes but the first, which alone writes.
    """

    def __init__(
        self,
        folder: str | Path,
        most_in_a_row: int,
        most_share: float,
        counters: Mapping | None = None,
        first_step: int = 0,
        active: bool = True,
    ):
        self.folder, self.active = Path(folder), active
        self.most_in_a_row, self.most_share = most_in_a_row, most_share
        counters = counters or {}
        self.count, self.in_a_row = counters.get("skipped_steps", 0), counters.get("skipped_in_a_row", 0)
        if active and (path := self.folder / SKIPPED_FILE).exists():
            rows = [row for row in read_skipped(self.folder) if row["step"] <= first_step]
            beside = path.with_name(f".{SKIPPED_FILE}")
            beside.write_text("".join(json.dumps(row) + "\n" for row in rows))
            os.replace(beside, path)

    @property
    def counters(self) -> dict[str, int]:
        """For the checkpoint."""
        return {"skipped_steps": self.count, "skipped_in_a_row": self.in_a_row}

    @property
    def counters_when_good(self) -> dict[str, int]:
        """As `counters` were after the last step that was taken, `in_a_row` steps ago."""
        return {"skipped_steps": self.count - self.in_a_row, "skipped_in_a_row": 0}

    def note(self, step: int, reason: str | None, batches: Sequence[Mapping]) -> None:
        """After every step.

        Args:
            step: its number, from 1.
            reason: why it was skipped; None when it was taken.
            batches: of all ranks, what is worth knowing of each: its ids and its losses.
        """
        if reason is None:
            self.in_a_row = 0
            return
        self.count += 1
        self.in_a_row += 1
        if self.active:
            print(f"step {step} is skipped: {reason}; its clips are in {SKIPPED_FILE}")
            with (self.folder / SKIPPED_FILE).open("a") as file:
                file.write(json.dumps({"step": step, "reason": reason, "batches": list(batches)}) + "\n")

    def too_many(self, step: int) -> str | None:
        """Why the run must stop after `step` steps; None when it need not."""
        if self.in_a_row >= self.most_in_a_row:
            return f"the last {self.in_a_row} steps"
        if self.count > max(self.most_in_a_row, self.most_share * step):
            return f"{self.count} of {step} steps"
        return None


def read_skipped(folder: str | Path) -> list[dict]:
    """The rows of a run's skipped_steps.jsonl, {"step", "reason", "batches"}, less a torn last one."""
    return read_json_lines(Path(folder) / SKIPPED_FILE)
