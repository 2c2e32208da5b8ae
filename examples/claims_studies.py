"""What claims.py compares: a study is a file of configs/claims, a run one training of one of its rows."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hf_slap.training_config import apply_override, read_file, refuse_unknown

FOLDER = Path(__file__).parent / "configs" / "claims"


class Term(NamedTuple):
    """A number that a claim speaks of."""

    row: str
    fraction: float
    measure: str


@dataclass
class Study:
    """One file of examples/configs/claims.

    Args:
        title: of its table and picture.
        rows: {name: configuration of `pretrain.py` or `pretrain_clap.py`, from the study's folder}.
        measures: columns of the table; a claim is tested by each unless it names its own.
        claims: {"says", "more", "than", "measures"}: the sum of `more` is above the sum of `than`; each is a term or a
            list of terms "row", "row@fraction", "row:measure", "row@fraction:measure"; no fraction is the largest.
        fractions: nested parts of the training clips.
        seeds: of every row.
        train_data, held_out_data: corpora with labels and captions, see `load_corpus`.
        run_folder: for everything.
        pretraining: keys of `TrainConfig` that are the same for every row.
        supervised: configuration of `pretrain_supervised.py` for rows whose configuration has `audio_from`. Its one
            task is the label; it hears as many clips as pretraining does, but all training clips at least once.
        clips_per_class: see `claims_measures.Judge`.
        folder: of the file.
    Raises:
        ValueError: unknown keys, or a claim about a row or fraction that the study does not have.
    """

    title: str = ""
    rows: dict = field(default_factory=dict)
    measures: list = field(default_factory=list)
    claims: list = field(default_factory=list)
    fractions: list = field(default_factory=lambda: [1.0])
    seeds: list = field(default_factory=lambda: [0, 1, 2])
    train_data: str | list = ""
    held_out_data: str | list = ""
    run_folder: str = "runs/claims"
    pretraining: dict = field(default_factory=dict)
    supervised: str = ""
    clips_per_class: int = 10
    folder: Path = FOLDER

    @classmethod
    def load(cls, path: Path, overrides: Sequence[str] = ()) -> "Study":
        values = read_file(path)
        for override in overrides:
            apply_override(values, override)
        refuse_unknown(values, [name for name in cls.__dataclass_fields__ if name != "folder"], "")
        study = cls(**values, folder=path.parent)
        for claim in study.claims:
            refuse_unknown(claim, ["says", "more", "than", "measures"], f"{path.name}, claims: ")
            for _, term in study.terms(claim, ""):
                if term.row not in study.rows or term.fraction not in study.fractions:
                    raise ValueError(
                        f"{path.name}: the claim {claim['says']!r} is about {term.row!r} at {term.fraction:g}; there "
                        f"are {list(study.rows)} at {study.fractions}"
                    )
        return study

    def terms(self, claim: Mapping, measure: str) -> list[tuple[int, Term]]:
        """The terms of a claim with their sign; `measure` is that of terms without their own."""
        terms = []
        for sign, side in ((1, "more"), (-1, "than")):
            for text in [claim[side]] if isinstance(claim[side], str) else claim[side]:
                place, _, own = text.partition(":")
                row, _, fraction = place.partition("@")
                terms.append((sign, Term(row, float(fraction or max(self.fractions)), own or measure)))
        return terms

    def tested_by(self, claim: Mapping) -> list[str]:
        """The measures that a claim is tested by; one, named for what its terms name, where they name their own."""
        if all(term.measure for _, term in self.terms(claim, "")):
            return [" and ".join(dict.fromkeys(term.measure for _, term in self.terms(claim, "")))]
        return claim.get("measures", self.measures)

    def run(self, row: str, fraction: float, seed: int) -> "Run":
        return Run((self.folder / self.rows[row]).resolve(), fraction, seed)

    def runs(self, seed: int) -> Iterator["Run"]:
        for fraction in self.fractions:
            for row in self.rows:
                yield self.run(row, fraction, seed)


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        config: file of `pretrain.py` or, with a `clap` section, of `pretrain_clap.py`.
        fraction, seed: of it.
    """

    config: Path
    fraction: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.config.stem} {self.fraction:g} seed {self.seed}"

    def key(self, study: Study) -> str:
        """Tells the runs of a folder apart by what their files say, not by names: equal rows of two studies are one."""
        names = {"run_folder": "", "train_data": "", "validation_data": ""}
        said = {**read_file(self.config), **study.pretraining, **names}
        tower = study.supervised if said.get("audio_from") else ""
        return digest([said, tower, self.fraction, self.seed, study.clips_per_class])


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]
