from pathlib import Path

import pytest

CLIPS = Path(__file__).parents[2] / "examples" / "data" / "heldout.parquet"


@pytest.fixture(scope="session")
def clips() -> list[dict]:
    """Six real clips of the example corpus, 0.3 s to 10 s, as {"bytes", "path"}: Ogg/Opus, 16 kHz, mono."""
    parquet = pytest.importorskip("pyarrow.parquet")
    return parquet.read_table(CLIPS, columns=["audio"]).slice(0, 6).column("audio").to_pylist()
