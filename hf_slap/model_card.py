"""The card of a model that is to be published, and the credits of what it was trained on, from what its run left.

Numbers come from a results file (`evaluation/card.py`); what nobody measured or stated is said to be so.
"""

import json
import os
import re
from collections import Counter
from pathlib import Path

import yaml
from transformers import PreTrainedModel

from . import use_folder
from .evaluation.card import BEGIN, END

_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_CODE_LINE = re.compile(r'^(model = )".*"$', re.MULTILINE)

_CARD = """---
{header}---
# {name}

{what}

{sizes}

## Use

```python
import hf_slap  # pip install hf_slap; or leave this out and pass trust_remote_code=True below
from transformers import pipeline

model = "{name}"
{use}
```

Sound of any rate, number of channels and length goes in; clips longer than {seconds:g} s are heard in windows. What
comes out for a clip does not depend on the others in its batch.

## Training

{training}

## Results

{begin}
Not measured.
{end}

## Limits and misuse

It knows the kinds of sound it was trained on (`CREDITS.md`) and guesses at others. Scores compare the labels that it
is given; they are no probabilities that a sound is there. {captions}It has not been tested
for bias between languages, accents or people. Do not use it to identify, watch or judge people, or where a mistake
would harm somebody.

## Licence and credits

Weights: {license}. Code beside them: Apache-2.0 (`LICENSE`), from hf_slap {version}. Training data and its licences:
`CREDITS.md`. SLAP is by Mei, Le Lan, Liu, Ni, Nagaraja, Liu, Shi and Chandra (arXiv 2601.12594), who had no part in
this model:

```bibtex
@article{{slap,
  title = {{SLAP: Scalable Language-Audio Pretraining}},
  author = {{Mei and Le Lan and Liu and Ni and Nagaraja and Liu and Shi and Chandra}},
  journal = {{arXiv preprint arXiv:2601.12594}},
}}
```
"""
_USES = {
    use_folder.TASKS[
        0
    ]: 'pipeline("zero-shot-audio-classification", model=model)("clip.wav", candidate_labels=["dog", "rain"])',  # noqa: E501
    use_folder.TASKS[1]: 'pipeline("audio-captioning", model=model)("clip.wav")  # [{"generated_text": ...}]',
    use_folder.TASKS[
        2
    ]: 'pipeline("audio-feature-extraction", model=model)("clip.wav")  # the joint embedding, unit norm',  # noqa: E501
    use_folder.TASKS[3]: 'pipeline("audio-classification", model=model)("clip.wav")',
}


def write_card(
    path: Path, name: str, license: str, tasks: list[str], model: PreTrainedModel, run: dict, base: str | None = None
) -> None:
    """Writes README.md without numbers; `fill_card` puts them in.

    Args:
        path: of the file.
        name: of the model, or its Hub id.
        license: of the weights, as the Hub names it.
        tasks: the pipelines that it serves, of `use_folder.TASKS`.
        model: to be described; of an adapter, what it lies on with it.
        run: its configuration, see `read_run`.
        base: of an adapter: the Hub id of what it lies on.
    """
    from . import __version__

    audio = getattr(model.config, "audio_config", model.config)
    captions = use_folder.TASKS[1] in tasks
    header = {
        "license": license,
        "library_name": "peft" if base else "transformers",
        "pipeline_tag": next((task for task in tasks if task != use_folder.TASKS[2]), "audio-classification"),
        "tags": ["audio", "slap", "hf_slap", "contrastive", *(["audio-captioning"] if captions else [])],
    }
    header |= {"base_model": base} if base else _base_models(run)
    if datasets := [source for source in _sources(run) if _is_hub_id(source)]:
        header["datasets"] = datasets
    what = (
        f"LoRA adapters for [{base}](https://huggingface.co/{base}), a model of sound and language"
        if base
        else "A model of sound and language"
    )
    doing = {
        use_folder.TASKS[0]: "compares sounds with texts",
        use_folder.TASKS[1]: "writes captions",
        use_folder.TASKS[2]: "embeds sounds",
        use_folder.TASKS[3]: "names classes",
    }
    text = _CARD.format(
        header=yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=120),
        name=name,
        what=f"{what} of the SLAP architecture ([arXiv 2601.12594](https://arxiv.org/abs/2601.12594)): it "
        f"{_listed([doing[task] for task in tasks])}. Made with hf_slap.",
        sizes=_sizes(model),
        use="\n".join(_USES[task] for task in tasks),
        seconds=audio.max_audio_seconds,
        training=_training(run),
        begin=BEGIN,
        end=END,
        captions="Captions may name sounds that are not there. " if captions else "",
        license=license,
        version=__version__,
    )
    path.write_text(text, encoding="utf-8")


def name_in_card(text: str, name: str) -> str:
    """A card whose example loads `name`."""
    return _CODE_LINE.sub(rf'\1"{name}"', text, count=1)


def read_run(folder: Path) -> dict:
    """The configuration that a run left in `config.yaml`; empty where there is none."""
    path = folder / "config.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    return values if isinstance(values, dict) else {}


def credits_text(name: str, run: dict) -> str | None:
    """What a run was trained on, with sources and licences; None where nothing can be found out.

    A `CREDITS.md` that lies beside the data is taken as it is; otherwise licences are counted in the data.
    """
    parts, rows = [], []
    for source in _sources(run):
        place = Path(source)
        beside = (place if place.is_dir() else place.parent) / "CREDITS.md"
        if not _is_hub_id(source) and beside.is_file():
            parts.append(beside.read_text(encoding="utf-8").strip())
            continue
        for (origin, license), clips in _licenses(place).items() or {("", "not stated"): None}.items():
            rows.append(f"| {_shown(source)} | {origin} | {license} | {'' if clips is None else f'{clips:,}'} |")
    if rows:
        head = [f"# What {name} was trained on", "", "| data | source | licence | clips |", "|---|---|---|---|"]
        parts.insert(0, "\n".join([*head, *rows]))
    return "\n\n".join(dict.fromkeys(parts)) + "\n" if parts else None


def _licenses(place: Path) -> Counter:
    """Clips by (source, licence), where the data says so."""
    from pyarrow import parquet

    from .data.shards import MANIFEST, read_rows

    if (place / MANIFEST).is_file():
        rows = read_rows(place, ["source", "license"], batch=4096)
        return Counter((row["source"], row["license"]) for row in rows)
    if place.suffix != ".parquet" or not place.is_file():
        return Counter()
    names = parquet.read_schema(place).names
    origin = next((column for column in ("package", "source") if column in names), None)
    if "license" not in names:
        return Counter()
    table = parquet.read_table(place, columns=["license", *([origin] if origin else [])])
    return Counter((row.get(origin, ""), row["license"]) for row in table.to_pylist())


def _sources(run: dict) -> list[str]:
    data = run.get("train_data") or []
    return [os.fspath(source) for source in (data if isinstance(data, list) else [data]) if isinstance(source, str)]


def _base_models(run: dict) -> dict:
    names = [run.get(key) for key in ("model", "start_from", "audio_from", "audio_tower", "text_model", "text_tower")]
    found = [name for name in dict.fromkeys(filter(lambda name: isinstance(name, str), names)) if _is_hub_id(name)]
    return {"base_model": found[0] if len(found) == 1 else found} if found else {}


def _is_hub_id(source: str) -> bool:
    return _HUB_ID.fullmatch(source) is not None and not os.path.exists(source)


def _shown(source: str) -> str:
    """A source without the folders of this machine."""
    return source if _is_hub_id(source) else Path(source).name


def _training(run: dict) -> str:
    if not run:
        return "Not stated."
    lines = [f"- data: {', '.join(map(_shown, _sources(run))) or 'not stated'}"]
    start = [run.get(key) for key in ("model", "start_from", "audio_from", "text_model")]
    if start := [_shown(name) for name in start if isinstance(name, str)]:
        lines.append(f"- started from: {', '.join(dict.fromkeys(start))}")
    for key in (
        *("method", "lora", "contrastive_weight", "masked_weight", "caption_weight", "parallel_caption_share"),
        *("total_steps", "epochs", "batch_seconds", "peak_learning_rate", "weight_decay", "precision", "seed"),
    ):
        if run.get(key) is not None:
            value = {k: v for k, v in run[key].items() if k != "target_modules"} if key == "lora" else run[key]
            lines.append(f"- {key}: {json.dumps(value)}")
    return "\n".join(lines)


def _sizes(model: PreTrainedModel) -> str:
    named = {
        "audio encoder": "audio_model",
        "text encoder": "text_model",
        "caption decoder": "decoder",
        "classes": "classifier",
    }
    lines = ["| part | size | weights |", "|---|---|---|"]
    for title, part in named.items():
        module = next((m for name, m in model.named_modules() if name.split(".")[-1] == part), None)
        if module is None:
            continue
        weights = sum(parameter.numel() for parameter in module.parameters())
        config = getattr(module, "config", None)
        layers, width = getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None)
        size = f"{layers} layers, width {width}" if layers and part != "classifier" else str(model.config.num_labels)
        kind = f" ({config.model_type})" if part == "text_model" else ""
        lines.append(f"| {title}{kind} | {size} | {weights:,} |")
    joint = getattr(model.config, "projection_dim", None)
    return "\n".join([*lines, *([f"| joint space | {joint} | |"] if joint else [])])


def _listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
