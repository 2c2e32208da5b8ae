"""Publishes a model in every way, then loads it by name: what a user with hf_slap does. Prints JSON.

    python publish_slap.py RUN WORKSPACE CLIP...

Against a hub whose first large upload breaks off and whose first commit is refused.
"""

import json
import logging
import sys
import traceback
from pathlib import Path
from unittest import mock

import torch

import hf_slap
from hf_slap.export import export
from hf_slap.finetuning import LoraSettings, wrap_lora
from hf_slap.fitting import save_model
from hf_slap.folder_checks import CHECKS
from hf_slap.hub import HubError
from hf_slap.push import push
from hf_slap.use_folder import TASKS, all_outputs


def save_adapter(base: Path, folder: Path):
    """An adapter whose update is not zero."""
    wrapped = wrap_lora(hf_slap.SlapModel.from_pretrained(base), LoraSettings(r=2), str(base))
    torch.manual_seed(0)
    for name, weights in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights)
    save_model(folder, wrapped, hf_slap.SlapProcessor.from_pretrained(base))


def main(run: Path, workspace: Path, clips: list[str]):
    folder, adapter, said = workspace / "my-slap", workspace / "my-adapter", {"problems": [], "errors": []}
    with mock.patch.dict(CHECKS, loading=lambda folder, base: []):  # the first push below loads what is made here
        said["problems"] += export(run, folder).problems
    try:
        push(folder, "org/slap", tag="v1")
    except HubError as error:
        said["errors"] += [str(error), traceback.format_exc()]
    with mock.patch.dict(CHECKS, loading=lambda folder, base: []):  # it was proved by the first push
        said["commit"] = push(folder, "org/slap", tag="v1")
        said["again"] = push(folder, "org/slap")
        (folder / "README.md").write_text((folder / "README.md").read_text() + "\nMended.\n")
        push(folder, "org/slap")
        try:
            push(folder, "org/slap", tag="v1")
        except HubError as error:
            said["errors"].append(str(error))
        (folder / "CREDITS.md").write_text("On sounds of my own.\n")
        push(folder, "org/slap", revision="dev")
        push(folder, "org/secret", private=True)
        try:
            push(folder, "org/slap", private=True)
        except HubError as error:
            said["errors"].append(str(error))
        save_adapter(folder, workspace / "run" / "adapter")
        said["problems"] += export(workspace / "run", adapter, base="org/slap", credits=folder / "CREDITS.md").problems
    said["adapter"] = push(adapter, "org/adapter")  # loads it on the base that lies on the hub
    said["by name"] = {
        "org/slap": all_outputs("org/slap", clips, False),
        "org/slap, v1": all_outputs("org/slap", clips[:1], False, TASKS[:1], revision="v1"),
        "org/secret": all_outputs("org/secret", clips[:1], False, TASKS[:1]),
        "org/adapter": all_outputs("org/adapter", clips[:1], False, TASKS[:1]),
    }
    print(json.dumps(said))


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG)
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
