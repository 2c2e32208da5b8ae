"""From a run to the folder that is uploaded to the Hub: `slap export`."""

import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from . import modeling, use_folder
from .evaluation.card import fill_card, write_eval_results
from .evaluation.results import read_results
from .folder_checks import CARD, CODE, CREDITS, LICENSE, RESULTS, Problem, check_folder, is_adapter, served_tasks
from .model_card import credits_text, read_run, write_card
from .modeling.processing_slap import SlapProcessor
from .modeling.weights_slap import WeightsError
from .registration import save_folder

_CLASSES = (
    "SlapForPreTraining",
    "SlapModel",
    "SlapForAudioCaptioning",
    "SlapForPrefixCaptioning",
    "SlapForAudioClassification",
)
_AUTO_CLASSES = {  # of auto_map, and the pipeline whose weights they need
    "AutoModel": use_folder.TASKS[0],
    "AutoModelForSpeechSeq2Seq": use_folder.TASKS[1],
}


class Exported(NamedTuple):
    """What `export` made.

    Args:
        folder: ready to be uploaded where `problems` is empty.
        tasks: the pipelines that it serves.
        notes: what was taken from where, and what was left out.
        problems: what `check_folder` found.
    """

    folder: Path
    tasks: list[str]
    notes: list[str]
    problems: list[Problem]


def export(
    run: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    name: str | None = None,
    license: str = "apache-2.0",
    results: str | os.PathLike | None = None,
    card: str | os.PathLike | None = None,
    credits: str | os.PathLike | None = None,
    base: str | None = None,
    force: bool = False,
    tell: Callable[[str], None] = lambda name: None,
) -> Exported:
    """Makes the folder that a Hub repository will be, and checks it by loading it with and without hf_slap.

    It holds the weights as safetensors, configuration, processor, the code beside the weights, custom pipelines, the
    card with its numbers, `results.json` they come from, `.eval_results`, `LICENSE` (of the code) and `CREDITS.md`.

    Args:
        run: folder of a run (its `model`, else its `adapter`), of a model, or of a LoRA adapter.
        folder: made; one that is there and not empty is refused unless `force`, which replaces what this made before.
        name: of the model in its card; default: the folder's.
        license: of the weights, as the Hub names it.
        results: file that `slap eval` wrote; default: that in the run, if it was measured with these weights.
        card: a card of your own, with the lines for the results; default: written from the run.
        credits: text about the training data; default: `CREDITS.md` beside the weights, else from the data that the
            run names.
        base: of an adapter: the Hub id of the model that it lies on.
        tell: is called with the name of each check that begins.
    Returns:
        the folder, and what is wrong with it.
    Raises:
        FileNotFoundError: no model in `run`.
        ValueError: not a SLAP model, weights that are missing, results of other weights, a folder that may not
            be replaced.
    """
    run, folder = Path(run), Path(folder)
    source = find_model(run)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not force:
            raise ValueError(f"{str(folder)!r} is there and not empty; name another folder, or force=True (--force)")
        settings = (folder / "config.json").is_file() or is_adapter(folder)
        if not (settings and (folder / CARD).is_file() and (folder / LICENSE).is_file()):
            raise ValueError(f"{str(folder)!r} is nothing that `slap export` made, and is not replaced; name another")
    name, settings = name or folder.absolute().name, read_run(run if source != run else run.parent)
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.absolute().parent, prefix=".writing-") as place:
        beside, notes, local_base = Path(place, "folder"), [], None
        if is_adapter(source):
            local_base = _write_adapter(source, beside, base)
        else:
            _write_model(source, beside)
        tasks = served_tasks(Path(local_base or beside))
        (beside / LICENSE).write_text(_license_text(), encoding="utf-8")
        if card is not None:
            shutil.copyfile(card, beside / CARD)
        else:
            model = _open(Path(local_base or beside))
            write_card(beside / CARD, name, license, tasks, model, settings, base=base if local_base else None)
            del model
        if credits is None and (source / CREDITS).is_file():
            credits = source / CREDITS
        text = Path(credits).read_text(encoding="utf-8") if credits is not None else credits_text(name, settings)
        if text:
            (beside / CREDITS).write_text(text, encoding="utf-8")
        if found := Path(results) if results is not None else _find_results(run, source, notes):
            _refuse_other_weights(found, source)
            shutil.copyfile(found, beside / RESULTS)
            fill_card(beside / CARD, found, name=name)
            write_eval_results(found, beside)
            notes.append(f"numbers of {found}")
        else:
            notes.append("no results: the card says that nothing was measured (slap eval, then --results FILE)")
        problems = check_folder(beside, local_base, tell)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(beside, folder)
    return Exported(folder, tasks, notes, problems)


def find_model(run: Path) -> Path:
    """The folder of the model, else of the adapter, in a run; or `run` itself if it is one.

    Raises:
        FileNotFoundError: there is none.
    """
    for place in (run, run / "model", run / "adapter"):
        if (place / "config.json").is_file() or (place / "adapter_config.json").is_file():
            return place
    raise FileNotFoundError(
        f"{str(run)!r} holds no model (config.json), no adapter (adapter_config.json), and no folder `model` or "
        "`adapter` with one; name the folder of a finished run"
    )


def _open(source: Path):
    """The model of a folder, as the class that it was saved as."""
    names = json.loads((source / "config.json").read_text(encoding="utf-8")).get("architectures") or []
    if not names or names[0] not in _CLASSES:
        raise ValueError(f"{str(source)!r} is a model of class {names}; published are {list(_CLASSES)}")
    model, loading = getattr(modeling, names[0]).from_pretrained(source, output_loading_info=True)
    if missing := sorted(loading["missing_keys"]):
        raise WeightsError(
            f"{str(source)!r} lacks {len(missing)} weights of a {names[0]} ({', '.join(missing[:3])}, ...): they would "
            "be random; name the folder of a finished run"
        )
    return model.eval()


def _write_model(source: Path, folder: Path) -> None:
    try:
        processor = SlapProcessor.from_pretrained(source)
    except (OSError, ValueError, TypeError):  # a classifier needs no tokenizer
        processor = modeling.SlapFeatureExtractor.from_pretrained(source)
    save_folder(folder, _open(source), processor)
    # What the weights do not serve is not promised to readers of config.json.
    tasks, path = served_tasks(folder), folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if config["architectures"] != ["SlapForPrefixCaptioning"]:  # that one is all of its folder's Auto classes
        config["auto_map"] = {k: v for k, v in config["auto_map"].items() if _AUTO_CLASSES.get(k, tasks[0]) in tasks}
    config["custom_pipelines"] = {task: how for task, how in config["custom_pipelines"].items() if task in tasks}
    if config["architectures"] != ["SlapForPreTraining"]:
        config["auto_map"].pop("AutoModelForPreTraining", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_adapter(source: Path, folder: Path, base: str | None) -> str:
    """Copies an adapter whose base is a Hub id from now on; returns the base that it was trained on."""
    settings = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
    recorded = settings["base_model_name_or_path"]
    if os.path.isabs(recorded) and base is None:
        raise ValueError(
            f"the adapter lies on {recorded!r}, which nobody else has: publish that first and pass its Hub id as base "
            "(--base org/name), or export the run's merged model"
        )
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("README.md", "*.py", ".*"))
    for path in CODE.glob("*_slap.py"):  # its processor is read from there
        shutil.copyfile(path, folder / path.name)
    settings["base_model_name_or_path"] = base or recorded
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return recorded


def _find_results(run: Path, source: Path, notes: list[str]) -> Path | None:
    """A results file in the run that was measured with the weights of `source`."""
    for path in sorted({*run.glob("*.json"), *run.glob("evaluation/*.json"), *source.glob("evaluation/*.json")}):
        try:
            read_results(path)
        except ValueError:
            continue
        try:
            _refuse_other_weights(path, source)
        except ValueError as problem:
            notes.append(str(problem))
            continue
        return path
    return None


def _refuse_other_weights(results: Path, source: Path) -> None:
    from .evaluation.listeners import open_listener

    measured = read_results(results)["model"].get("weights")
    with tempfile.TemporaryDirectory() as cache:
        listener = open_listener(str(source), cache=Path(cache), device="cpu", progress=False)
        ours = listener.describe()["weights"]
    if measured != ours:
        raise ValueError(
            f"{str(results)!r} was measured with other weights or another release ({measured}, here {ours}); run `slap "
            "eval` on this model again"
        )


def _license_text() -> str:
    """The licence of the code, from the installed distribution or the checkout."""
    try:
        files = importlib.metadata.files("hf_slap") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = [Path(file.locate()) for file in files if file.name == LICENSE]
    for path in (*found, Path(__file__).parents[1] / LICENSE):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise FileNotFoundError("the LICENSE of hf_slap is not installed with it; install it again")
