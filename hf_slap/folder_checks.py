"""What a folder must be before it is published: every check by name, with what is wrong and what to do.

The last one is the proof: an interpreter that cannot import hf_slap, and this one, load the folder and hear the same.
"""

import json
import os
import re
import site
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
import yaml
from transformers.dynamic_module_utils import get_relative_import_files

from . import modeling, use_folder
from .evaluation.card import BEGIN, END, fill_card
from .hub import without_tokens
from .modeling.weights_slap import PICKLES, WeightsError, open_weights

CARD, CREDITS, LICENSE, RESULTS = "README.md", "CREDITS.md", "LICENSE", "results.json"
PROCESSORS = ("processor_config.json", "preprocessor_config.json")  # with a tokenizer, and of a classifier without one
_TEXTS = (".json", ".md", ".py", ".yaml", ".txt", ".jinja")
_SUFFIXES = (*_TEXTS, ".safetensors", ".model", ".onnx", ".data", ".png", ".svg", ".wav", ".flac", ".ogg", ".mp3")
_NAMES = (LICENSE, ".gitattributes")
_NOT_UPLOADED = (".git", ".cache", "__pycache__")
CODE = Path(modeling.__file__).parent


class Problem(NamedTuple):
    """Why a folder is not fit to be published.

    Args:
        check: the name of the check that failed, of `CHECKS`.
        what: what is wrong.
        todo: what to do about it.
    """

    check: str
    what: str
    todo: str


def check_folder(
    folder: str | os.PathLike, base: str | None = None, tell: Callable[[str], None] = lambda name: None
) -> list[Problem]:
    """Runs all checks; the loading only where nothing else is wrong.

    Args:
        folder: of a model or of a LoRA adapter.
        base: of an adapter: the folder or Hub id to load it on; default: the one that it names.
        tell: is called with the name of each check that begins.
    Returns:
        what is wrong; nothing where all is well.
    """
    folder, problems = Path(folder), []
    for name, check in CHECKS.items():
        if name == "loading" and problems:
            break
        tell(name)
        found = check(folder, base) if name == "loading" else check(folder)
        problems += [Problem(name, what, todo) for what, todo in found]
        if name == "files" and problems:
            break
    return problems


def published_files(folder: Path) -> list[Path]:
    """What is uploaded of a folder: all files but those of git and caches, sorted."""
    found = (path for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    return sorted(path for path in found if not set(path.relative_to(folder).parts) & set(_NOT_UPLOADED))


def is_adapter(folder: Path) -> bool:
    """Whether it holds a LoRA adapter instead of a model."""
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def served_tasks(folder: Path) -> list[str]:
    """The pipelines that a folder serves, of `use_folder.TASKS`, by the weights that it holds.

    Raises:
        WeightsError: they cannot be read.
    """
    names = set()
    for path in folder.glob("model*.safetensors"):
        with open_weights(path) as file:
            names |= {name.removeprefix("slap.").split(".")[0] for name in file.keys()}  # noqa: SIM118
    parts = (("text_model",), ("decoder", "language_model"), ("audio_projection",), ("classifier",))
    return [task for task, of_task in zip(use_folder.TASKS, parts, strict=True) if names & set(of_task)]


def _check_files(folder: Path) -> Iterator[tuple[str, str]]:
    again = "make the folder by `slap export`"
    if not folder.is_dir():
        yield f"{str(folder)!r} is no folder", again
        return
    weights = "adapter_model.safetensors" if is_adapter(folder) else "model.safetensors"
    settings = "adapter_config.json" if is_adapter(folder) else "config.json"
    missing = [name for name in (settings, CARD, LICENSE) if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in PROCESSORS):
        missing.append(PROCESSORS[0])
    if not (folder / weights).is_file() and not (folder / f"{weights}.index.json").is_file():
        missing.append(weights)
    if missing:
        yield f"{', '.join(missing)} missing", again
    for path in published_files(folder):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            yield f"{name} is a link to a file elsewhere", "put the file in its place, or remove it"
        elif path.suffix in PICKLES:
            yield f"{name} is a pickle, which can run code", "remove it; weights are safetensors"
        elif path.suffix not in _SUFFIXES and path.name not in _NAMES:
            yield f"{name} is of a kind that is not published", f"remove it; accepted are {', '.join(_SUFFIXES)}"


def _check_code(folder: Path) -> Iterator[tuple[str, str]]:
    """The code beside the weights is ours: whoever trusts it gets what was tested."""
    for name in sorted(_named_code(folder)):
        if not (folder / name).is_file():
            yield f"{name} is missing", "export the folder again"
    for path in sorted(folder.rglob("*.py")):
        ours = CODE / path.relative_to(folder)
        if not ours.match("*_slap.py") or not ours.is_file():
            yield f"{path.relative_to(folder)} is not of this package", "remove it"
        elif path.read_bytes() != ours.read_bytes():
            yield f"{path.name} is not that of the installed hf_slap", "export the folder again"


def _named_code(folder: Path) -> set[str]:
    """Files of code that the folder's settings name, and those that these import."""
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in folder.glob("*config.json")]
    named = {f"{module}.py" for text in texts for module in re.findall(r'"(\w+_slap)\.\w+"', text)}
    named = {name for name in named if (CODE / name).is_file()}
    return named | {Path(path).name for name in named for path in get_relative_import_files(CODE / name)}


def _check_weights(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            with open_weights(path) as file:
                bad = [name for name in file.keys() if not _is_finite(file.get_tensor(name))]  # noqa: SIM118
        except WeightsError as error:
            yield str(error), "export the folder again"
            continue
        if bad:
            yield f"{path.name} holds NaN or infinity in {', '.join(bad[:3])}", "train again from a good checkpoint"


def _is_finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _check_card(folder: Path) -> Iterator[tuple[str, str]]:
    text = (folder / CARD).read_text(encoding="utf-8")
    header = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    try:
        facts = yaml.safe_load(header[1]) if header else None
    except yaml.YAMLError as error:
        yield f"the header of {CARD} is no YAML: {error}", "mend it, or export again"
        return
    if not isinstance(facts, dict):
        yield f"{CARD} has no YAML header", "export again"
        return
    for name, why in (
        ("license", "the licence of the weights"),
        ("library_name", "transformers, or peft of an adapter"),
        ("pipeline_tag", "the task that people search for"),
    ):
        if not facts.get(name):
            yield f"the header of {CARD} has no {name}", f"add it: {why}"
    if is_adapter(folder) and not facts.get("base_model"):
        yield f"the header of {CARD} has no base_model", "add it: the Hub id that the adapter lies on"
    if not re.search(r"^# \S", text, re.MULTILINE):
        yield f"{CARD} has no title", "add a line `# name`"
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        yield f"{CARD} does not hold the lines {BEGIN} and {END} once", "add them where the results belong"
    elif (folder / RESULTS).is_file():
        with tempfile.TemporaryDirectory() as place:
            copy = Path(place, CARD)
            copy.write_text(text, encoding="utf-8")
            try:
                fill_card(copy, folder / RESULTS, name=_name_in_index(facts))
            except (ValueError, KeyError) as error:
                yield f"{RESULTS} cannot be read: {error}", "export again with --results"
                return
            if _numbers(copy.read_text(encoding="utf-8")) != _numbers(text):
                yield f"the numbers of {CARD} are not those of {RESULTS}", "export again with --results"
    elif "model-index" in facts or _gives_numbers(text[text.index(BEGIN) : text.index(END)]):
        yield f"{CARD} gives numbers, and there is no {RESULTS}", "export with --results, or remove the numbers"
    if not (folder / CREDITS).is_file() or not (folder / CREDITS).read_text(encoding="utf-8").strip():
        yield f"{CREDITS} does not say what the model was trained on", "export with --credits FILE, or write it"


def _name_in_index(facts: dict) -> str | None:
    """How the card's `model-index` calls the model; None where it has none."""
    index = facts.get("model-index")
    first = index[0] if isinstance(index, list) and index else None
    return first.get("name") if isinstance(first, dict) else None


def _gives_numbers(results: str) -> bool:
    """Whether a table has a line that is not of something "not measured" (what others report may stand there)."""
    lines = [line for line in results.splitlines() if line.startswith("|")]
    return any("| not measured |" not in line for line in lines[2:])


def _numbers(card: str) -> tuple:
    """What a results file says in a card: its `model-index`, and the text between the marks."""
    header = yaml.safe_load(card.split("---\n")[1])
    return header.get("model-index"), card[card.index(BEGIN) : card.index(END)]


def _check_privacy(folder: Path) -> Iterator[tuple[str, str]]:
    """Nothing of this machine and no secret travels along."""
    home = str(Path.home())
    around = map(str, (Path.cwd(), *folder.absolute().parents[:2]))  # `export` checks one folder deeper than it ends
    places = [place for place in (home, *around) if len(place) > 5]
    for path in published_files(folder):
        if path.suffix not in _TEXTS or path.name == "tokenizer.json":
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if without_tokens(text) != text:
            yield f"{path.name} holds what looks like a token of the Hub", "remove it, and revoke that token"
        if place := next((place for place in places if f"{place}/" in text), None):
            yield f"{path.name} names a folder of this machine ({place}/...)", "take the name out of it"


def _check_loading(folder: Path, base: str | None) -> Iterator[tuple[str, str]]:
    with tempfile.TemporaryDirectory() as place:
        model, clips = str(folder.absolute()), _write_clips(Path(place))
        tasks = served_tasks(folder)
        if is_adapter(folder):
            recorded = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
            base = base or recorded
            model = str(_on_base(folder, base, Path(place, "adapter")))
            tasks = served_tasks(Path(base)) if os.path.isdir(base) else use_folder.TASKS[:1]
        if not tasks:
            yield "its weights serve no task", "export a trained model"
            return
        alone = _start_alone(model, clips, tasks, Path(place, "home"), offline=base is None or os.path.isdir(base))
        here = threads = None
        try:
            threads = torch.get_num_threads()
            here = use_folder.all_outputs(model, clips, trust_remote_code=False, tasks=tasks)
        except Exception as error:  # whatever transformers or the model raise is what the user would meet
            yield f"hf_slap cannot load it: {without_tokens(f'{type(error).__name__}: {error}')}", "export again"
        finally:
            torch.set_num_threads(threads)
            output, errors = alone.communicate()
        if alone.returncode:
            why = without_tokens(errors.strip().rsplit("\n", 1)[-1])
            yield f"it does not load where hf_slap is not installed: {why}", "export again with the installed release"
            return
        there = json.loads(output.splitlines()[-1])
        if not there.pop("refusal"):
            yield "it loads foreign code without trust_remote_code=True", "export again"
        for who, found in (("hf_slap", here or there), ("its own code", there)):
            if misfits := found["keys that do not fit"]:
                yield f"loaded by {who}, weights are missing or left over: {', '.join(misfits[:3])}", "export again"
        if here is not None:
            different = [name for name in here if name != "classes" and here[name] != there[name]]
            if different:
                yield f"hf_slap and the code beside the weights differ in {', '.join(different)}", "export again"


def _start_alone(model: str, clips: list[str], tasks: list[str], home: Path, offline: bool) -> subprocess.Popen:
    """An interpreter that cannot import hf_slap, has no token, and caches nothing where its user does."""
    installed = {*site.getsitepackages(), site.getusersitepackages()}
    paths = [path for path in sys.path if path in installed or path.endswith(("site-packages", "dist-packages"))]
    command = [sys.executable, "-I", use_folder.__file__, model, *clips, "--tasks", *tasks, "--without-package", *paths]
    environment = {**os.environ, "HF_HOME": str(home), "TOKENIZERS_PARALLELISM": "false"}
    if offline:
        environment = {name: value for name, value in environment.items() if "TOKEN" not in name}
        environment |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _write_clips(folder: Path) -> list[str]:
    """Three sounds of unequal length: a tone that rises, noise that fades, and both."""
    rng, rate = np.random.default_rng(0), 16_000
    time = np.arange(2 * rate) / rate
    rising = 0.3 * np.sin(2 * np.pi * (200 + 700 * time) * time)
    fading = 0.3 * rng.standard_normal(len(time)) * np.exp(-3 * time)
    paths = []
    for number, sound in enumerate((rising[: rate + 997], fading[: rate // 2 + 331], rising + fading)):
        paths.append(str(folder / f"{number}.wav"))
        soundfile.write(paths[-1], sound.astype(np.float32), rate)
    return paths


def _on_base(folder: Path, base: str, place: Path) -> Path:
    """A copy of an adapter's folder that names another base."""
    place.mkdir()
    for path in folder.iterdir():
        if path.name != "adapter_config.json":
            (place / path.name).symlink_to(path.absolute())
    settings = json.loads((folder / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = os.path.abspath(base) if os.path.isdir(base) else base
    (place / "adapter_config.json").write_text(json.dumps(settings))
    return place


CHECKS: dict[str, Callable] = {
    "files": _check_files,
    "code": _check_code,
    "weights": _check_weights,
    "card": _check_card,
    "privacy": _check_privacy,
    "loading": _check_loading,
}
