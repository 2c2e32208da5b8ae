"""Loads a SLAP folder, adapter or repository by transformers alone; returns, or prints as JSON, all that comes out.

    python use_folder.py MODEL CLIP...                                   after `import hf_slap`
    python -I use_folder.py MODEL CLIP... --without-package [PATH...]    where hf_slap cannot be imported

It is run as a file, so it imports nothing of this package. PATHs are added to those on which Python looks for modules.
"""

import argparse
import json
import os
import sys
import warnings

LABELS = ["dog", "rain on a roof", "hammer"]
# What a folder may serve, by pipeline; a folder holds the weights of all of them, or of some.
TASKS = ("zero-shot-audio-classification", "audio-captioning", "audio-feature-extraction", "audio-classification")


def all_outputs(
    model: str, clips: list[str], trust_remote_code: bool, tasks: list[str] = TASKS[:3], revision: str | None = None
) -> dict:
    """What every class and pipeline that a folder serves makes of some sounds.

    Args:
        model: folder or Hub id, of a model or of a LoRA adapter.
        clips: sound files.
        trust_remote_code: whether to use the code beside the weights.
        tasks: of `TASKS`: what the folder serves.
        revision: commit, tag or branch.
    Returns:
        Arrays as hexadecimal digits, so that equal means equal to the last bit; answers of the pipelines; "classes";
        "keys that do not fit": weights that are missing or left over.
    """
    import torch
    import transformers
    from transformers import AutoFeatureExtractor, AutoModel, AutoProcessor, pipeline

    torch.set_num_threads(1)
    options = {"trust_remote_code": True} if trust_remote_code else {}
    options |= {"revision": revision} if revision else {}
    extractor = AutoFeatureExtractor.from_pretrained(model, **options)
    result = {"classes": [], "keys that do not fit": []}
    waveforms = [extractor.load(clip) for clip in clips]  # some pipelines read files by ffmpeg
    if TASKS[0] in tasks:
        processor = AutoProcessor.from_pretrained(model, **options)
        slap, loading = AutoModel.from_pretrained(model, output_loading_info=True, **options)
        result["classes"] += [_name(slap), _name(processor)]
        result["keys that do not fit"] += _misfits(loading)
        with torch.inference_mode():
            outputs = slap.eval()(**processor(text=LABELS, audio=clips, return_tensors="pt"), return_loss=False)
        for name in ("audio_embeds", "text_embeds", "logits_per_audio"):
            result[name] = outputs[name].float().numpy().tobytes().hex()
        answer = pipeline(TASKS[0], model=model, **options)
        result[TASKS[0]] = answer(waveforms, candidate_labels=LABELS)
    for task, auto_class in ((TASKS[1], "AutoModelForSpeechSeq2Seq"), (TASKS[3], "AutoModelForAudioClassification")):
        if task in tasks:
            _, loading = getattr(transformers, auto_class).from_pretrained(model, output_loading_info=True, **options)
            result["keys that do not fit"] += _misfits(loading)
    if TASKS[1] in tasks:
        caption = pipeline(TASKS[1], model=model, **options)
        result["classes"].append(_name(caption))
        result[TASKS[1]] = caption(clips, batch_size=2)
        result["audio-captioning, beams"] = caption(clips[0], num_beams=3, num_return_sequences=2, max_new_tokens=7)
    if TASKS[2] in tasks:
        result[TASKS[2]] = pipeline(TASKS[2], model=model, **options)(clips, batch_size=2)
    if TASKS[3] in tasks:
        result[TASKS[3]] = pipeline(TASKS[3], model=model, **options)(waveforms)
    return result


def refusal(model: str) -> str:
    """What transformers says to somebody who has neither the package nor trusts the code beside the weights."""
    from transformers import AutoModel

    try:
        AutoModel.from_pretrained(model, trust_remote_code=False)
    except ValueError as error:
        return str(error)
    return ""


def _name(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__name__}"


def _misfits(loading: dict) -> list[str]:
    return sorted([*loading["missing_keys"], *loading["unexpected_keys"]])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("clips", nargs="+")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS[:3]), choices=TASKS)
    parser.add_argument("--revision")
    parser.add_argument("--without-package", nargs="*", metavar="PATH")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    alone = arguments.without_package is not None
    if alone:
        sys.path += arguments.without_package
        sys.modules["hf_slap"] = None  # also where it is installed: from here on it cannot be imported
        result = {"refusal": refusal(arguments.model)}
    else:
        import hf_slap  # noqa: F401

        result = {}
    result |= all_outputs(arguments.model, arguments.clips, alone, arguments.tasks, arguments.revision)
    print(json.dumps(result))


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
