"""Sets as users have them: real clips in the layouts that the suite reads."""

import csv
from pathlib import Path

import pytest
import soundfile

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def esc50_folder(corpus_rows, tiny_processor, tmp_path_factory) -> Path:
    """Seven real clips laid out as ESC-50 is published, in two folds; labels are those of the clips."""
    folder = tmp_path_factory.mktemp("ESC-50")
    (folder / "audio").mkdir()
    (folder / "meta").mkdir()
    rows = []
    for number, row in enumerate(corpus_rows):
        name = f"{1 + number % 2}-{1000 + number}-A-0.wav"
        soundfile.write(folder / "audio" / name, tiny_processor.feature_extractor.load(row["audio"]), 16_000)
        rows.append({"filename": name, "category": row["label"].replace(" ", "_"), "src_file": 1000 + number})
    with open(folder / "meta" / "esc50.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture(scope="session")
def small_corpora(tmp_path_factory) -> dict[str, Path]:
    """A few short clips of three classes of each part of the example corpus, as "shipped_train", "shipped_heldout"."""
    from pyarrow import parquet

    folder, paths = tmp_path_factory.mktemp("shipped"), {}
    for name, file, count in (("shipped_train", "train", 5), ("shipped_heldout", "heldout", 3)):
        table = parquet.read_table(ROOT / "examples" / "data" / f"{file}.parquet")
        chosen: dict[str, list[int]] = {"footsteps": [], "sword": [], "cymbal": []}
        for row, (label, seconds) in enumerate(
            zip(*(table[c].to_pylist() for c in ("label", "duration")), strict=True)
        ):
            if label in chosen and 0.2 < seconds < 3 and len(chosen[label]) < count:
                chosen[label].append(row)
        paths[name] = folder / f"{file}.parquet"
        parquet.write_table(table.take([row for rows in chosen.values() for row in rows]), paths[name])
    return paths
