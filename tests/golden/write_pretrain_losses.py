"""Writes pretrain_losses.json: the first losses of the small run of tests/examples/test_pretrain.py.

    python tests/golden/write_pretrain_losses.py

Run it only when the numbers are meant to move, and say in the commit why they did.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import test_pretrain

if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        test_pretrain.train(folder)
        rows = test_pretrain.losses(folder)
    golden = {
        "written_by": "tests/golden/write_pretrain_losses.py",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "losses": [{name: row[name] for name in test_pretrain.PARTS} for row in rows],
    }
    test_pretrain.GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
