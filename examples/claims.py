"""Tests the papers' claims at a small size: trains every row with every seed, and makes the tables and the pictures.

    python examples/claims.py                                        # all studies of examples/configs/claims
    python examples/claims.py --only slap_ablation seeds=[0]         # one of them, one seed
    python examples/claims.py train_data=[a.parquet,b.parquet] held_out_data=c.parquet run_folder=runs/larger
    python examples/claims.py --report run_folder=examples/claims    # the tables again, from results that are there

Rows of a study differ in their configuration alone: same clips, steps, order of clips and seeds. A run that is in
results.jsonl is not repeated. Top to bottom: studies, clips, runs; claims_measures.py judges, claims_report.py reports.
"""

import argparse
import contextlib
import io
import json
import shutil
import time
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path

import datasets
import numpy as np
import pretrain
import pretrain_clap
import pretrain_supervised
import soundfile
import torch
import transformers
from accelerate.state import AcceleratorState
from claims_measures import Judge
from claims_report import SETTING, draw, packed, setting_report, study_report
from claims_studies import FOLDER, Run, Study, digest
from transformers import AutoModel

from hf_slap import AudioError, SlapFeatureExtractor
from hf_slap.data import load_corpus
from hf_slap.files import read_json_lines
from hf_slap.training_config import TrainConfig, read_file

RESULTS = "results.jsonl"
_COLUMNS = ["id", "audio", "captions", "label", "duration", "source"]
_QUIET = {"validation_data": "null", "workers": 0, "log_every": 20, "tracker": "none", "checkpoint_every": 1_000_000}


def main(arguments: list[str] | None = None) -> Path:
    """Runs what is missing and writes tables and pictures; returns the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="name of a study; may be given several times")
    parser.add_argument("--report", action="store_true", help="train nothing: tables and pictures of what is there")
    parser.add_argument("overrides", nargs="*", help="key=value for every study, such as seeds=[0]")
    parsed = parser.parse_args(arguments)
    files = {path.stem: path for path in sorted(FOLDER.glob("*.yaml")) if path.stem != "common"}
    if unknown := set(parsed.only or ()) - set(files):
        parser.error(f"no study {sorted(unknown)}; there are {list(files)}")
    studies = {name: Study.load(files[name], parsed.overrides) for name in files if name in (parsed.only or files)}
    folder = Path(next(iter(studies.values())).run_folder)
    if not parsed.report:
        train_missing(studies.values(), folder)
    results = read_json_lines(folder / RESULTS)
    if not results:
        parser.error(f"{folder / RESULTS} holds no results; run without --report first")
    report = "\n\n".join(study_report(study, results) for study in studies.values())
    (folder / "claims.md").write_text(f"{setting_report(folder, results)}\n\n{report}\n")
    pictures = [draw(study, results, folder / f"{name}.png") for name, study in studies.items()]
    print(f"{report}\n\ntables: {folder / 'claims.md'}\npictures: {', '.join(map(str, filter(None, pictures)))}")
    return folder


# ------------------------------------------------------------------------------------------------------- clips
def prepare_clips(study: Study, folder: Path) -> list[Path]:
    """Training and held-out clips as 16-bit WAV in parquet files: decoded once, not in every run."""
    paths = []
    for side, source in (("train", study.train_data), ("heldout", study.held_out_data)):
        path = folder / "clips" / f"{side}-{digest(source)}.parquet"
        paths.append(path)
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        extractor, rows = SlapFeatureExtractor(), []
        corpus = load_corpus(source).select_columns(_COLUMNS)
        for clip in corpus:
            with contextlib.suppress(AudioError):  # shorter than a patch
                sound, wave = io.BytesIO(), extractor.load(clip["audio"], name=clip["id"])
                soundfile.write(sound, wave, extractor.sampling_rate, "PCM_16", format="WAV")
                rows.append({**clip, "audio": {"bytes": sound.getvalue(), "path": None}})
        print(f"{side}: {len(rows)} of {len(corpus)} clips can be heard", flush=True)
        datasets.Dataset.from_list(rows, features=corpus.features).to_parquet(path)
    return paths


def describe(corpus: datasets.Dataset) -> dict:
    return {
        "clips": len(corpus), "hours": round(sum(corpus["duration"]) / 3600, 2), "classes": len(set(corpus["label"])),
        "captions": len({text for clip in corpus["captions"] for text in clip}), "sources": len(set(corpus["source"])),
    }  # fmt: skip


# -------------------------------------------------------------------------------------------------------- runs
def train_missing(studies: Iterable[Study], folder: Path) -> None:
    """Trains and judges every run that results.jsonl lacks, all rows of one seed before the next."""
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    studies = list(studies)
    common = studies[0]
    asked = digest([common.train_data, common.held_out_data])
    if (folder / SETTING).exists() and json.loads((folder / SETTING).read_text())["data"] != asked:
        raise ValueError(f"{folder} holds results of other clips; name another run_folder for these")
    train, held_out = prepare_clips(common, folder)
    runs: dict[str, Run] = {}  # rows of several studies may be the same run
    for seed in common.seeds:
        for run in (run for study in studies for run in study.runs(seed)):
            runs.setdefault(run.key(common), run)
    done = {row["run"] for row in read_json_lines(folder / RESULTS)}
    missing = {key: run for key, run in runs.items() if key not in done}
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them done", flush=True)
    if not missing:
        return

    config = config_of(next(iter(missing.values())), common, train, folder)
    heard, unheard = load_corpus(str(train)), load_corpus(str(held_out))
    seconds = config.model["audio_config"]["max_audio_seconds"]
    judge = Judge(heard, unheard, seconds, config.zero_shot_prompt, common.clips_per_class)
    facts = {
        "data": asked, "training": describe(heard), "held_out": describe(unheard), "pretraining": common.pretraining,
        **judge.counts(), "chance": judge.chance(), "date": date.today().isoformat(),
        "versions": {module.__name__: module.__version__ for module in (torch, transformers)},
    }  # fmt: skip
    (folder / SETTING).write_text(json.dumps(facts, indent=1) + "\n")
    started = time.monotonic()
    for number, (key, run) in enumerate(missing.items(), start=1):
        row = {"run": key, **train_and_judge(run, common, train, folder, judge)}
        with open(folder / RESULTS, "a") as file:
            file.write(json.dumps(row) + "\n")
        left = (time.monotonic() - started) / number * (len(missing) - number) / 60
        shown = [
            f"{name} {value:.3f}" for name, value in row["values"].items() if name in ("zero-shot", "linear probe")
        ]
        cost = f"{row['cpu_seconds']:.0f} s"
        print(f"{number} of {len(missing)}, {run.name}: {cost}, {', '.join(shown)}; {left:.0f} min left", flush=True)


def train_and_judge(run: Run, study: Study, train: Path, folder: Path, judge: Judge) -> dict:
    """What a line of results.jsonl says of a run."""
    work = folder / "runs" / run.name.replace(" ", "-")
    shutil.rmtree(work, ignore_errors=True)  # of a run that was cut off
    work.mkdir(parents=True)
    config = config_of(run, study, train, folder)
    if config.audio_from:
        supervised_tower(run.seed, study, config, train, Path(config.audio_from).parent)
    script = pretrain_clap if isinstance(config, pretrain_clap.ClapTrainConfig) else pretrain
    (work / "asked.yaml").write_text(config.to_yaml())
    before = time.process_time()
    model = quietly(script, ["--config", str(work / "asked.yaml"), f"run_folder={work}"], work / "log.txt")
    seconds = time.process_time() - before
    values, per_clip = judge.measure(model, reads=bool(config.contrastive_weight), writes=bool(config.caption_weight))
    named = list(AutoModel.from_pretrained(model).named_parameters())
    parameters = {side: sum(p.numel() for name, p in named if name.startswith(side)) for side in ("audio", "text")}
    for part in ("model", "checkpoints"):
        shutil.rmtree(work / part, ignore_errors=True)
    return {
        "row": run.config.stem, "fraction": run.fraction, "seed": run.seed, "cpu_seconds": round(seconds, 1),
        "parameters": parameters, "values": values,
        "per_clip": {name: packed(value) for name, value in per_clip.items()},
    }  # fmt: skip


def supervised_tower(seed: int, study: Study, config: TrainConfig, train: Path, folder: Path) -> None:
    """The audio tower that has learned the labels of all training clips, if it is not there yet."""
    if (folder / "model" / "config.json").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    durations = np.minimum(load_corpus(str(train))["duration"], config.model["audio_config"]["max_audio_seconds"])
    batch = max(2, round(config.batch_seconds / durations.mean()))
    overrides = {
        **_QUIET, "train_data": train, "seed": seed, "run_folder": folder,
        "validation_data": train, "validation_split": "train[:100]",  # training clips: what is held out chooses nothing
        "tasks": {"label": {"label_column": "label"}}, "audio_config": config.model["audio_config"], "mixup": 0.0,
        "epochs": max(1, round(config.total_steps * batch / len(durations))), "batch_clips": batch,
        "warmup_epochs": 0.1, "validate_every": 1000,
    }  # fmt: skip
    quietly(
        pretrain_supervised, ["--config", str(study.folder / study.supervised), *as_overrides(overrides)],
        folder / "log.txt",
    )  # fmt: skip


def config_of(run: Run, study: Study, train: Path, folder: Path) -> TrainConfig:
    """The whole configuration of a run."""
    kind = pretrain_clap.ClapTrainConfig if "clap" in read_file(run.config) else TrainConfig
    its = {"train_data": train, "data_fraction": run.fraction, "seed": run.seed}
    config = kind.load(run.config, as_overrides({**_QUIET, **study.pretraining, **its}))
    if config.audio_from:
        config.audio_from = str(folder / "towers" / f"seed-{run.seed}-{digest(study.pretraining)}" / "model")
    return config


def as_overrides(values: Mapping) -> list[str]:
    """`key=value` arguments as the scripts read them."""
    return [f"{key}={json.dumps(value) if isinstance(value, dict | list) else value}" for key, value in values.items()]


def quietly(script, arguments: list[str], log: Path) -> Path:
    """Calls a script's main in this process; what it prints goes to a file."""
    AcceleratorState._reset_state(reset_partial_state=True)  # one interpreter, many runs
    with open(log, "w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        return script.main(arguments)


if __name__ == "__main__":
    main()
