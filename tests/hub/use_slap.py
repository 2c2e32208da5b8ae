"""Loads a SLAP folder or repository through transformers alone and returns, or prints as JSON, all that comes out.

    python use_slap.py MODEL CLIP...                                   after `import hf_slap`
    python -I -S use_slap.py MODEL CLIP... --without-package PATHS     where `import hf_slap` fails, by trust_remote_code

PATHS is what would be on sys.path if this project were not installed: with -S, Python does not follow the .pth file of
an editable installation.
"""

import argparse
import importlib.util
import json
import os
import sys
import warnings

LABELS = ["dog", "rain on a roof", "hammer"]


def all_outputs(model: str, clips: list[str], trust_remote_code: bool) -> dict:
    """Arrays as hexadecimal digits, so that equal means equal to the last bit."""
    import torch
    from transformers import AutoModel, AutoModelForPreTraining, AutoProcessor, pipeline

    torch.set_num_threads(1)
    trust = {"trust_remote_code": True} if trust_remote_code else {}
    processor = AutoProcessor.from_pretrained(model, **trust)
    slap = AutoModel.from_pretrained(model, **trust).eval()
    with torch.inference_mode():
        outputs = slap(**processor(text=LABELS, audio=clips, return_tensors="pt"), return_loss=False)
    _, loading = AutoModelForPreTraining.from_pretrained(model, output_loading_info=True, **trust)
    waveforms = [processor.feature_extractor.load(clip) for clip in clips]  # this pipeline reads files by ffmpeg
    classify = pipeline("zero-shot-audio-classification", model=model, **trust)
    caption = pipeline("audio-captioning", model=model, **trust)
    embed = pipeline("audio-feature-extraction", model=model, **trust)
    return {
        "classes": [type(thing).__module__ + "." + type(thing).__name__ for thing in (slap, processor, caption)],
        "keys that do not fit": sorted([*loading["missing_keys"], *loading["unexpected_keys"]]),
        "audio_embeds": outputs.audio_embeds.numpy().tobytes().hex(),
        "text_embeds": outputs.text_embeds.numpy().tobytes().hex(),
        "logits_per_audio": outputs.logits_per_audio.numpy().tobytes().hex(),
        "zero-shot-audio-classification": classify(waveforms, candidate_labels=LABELS),
        "audio-captioning": caption(clips, batch_size=2),
        "audio-captioning, beams": caption(clips[0], num_beams=3, num_return_sequences=2, max_new_tokens=7),
        "audio-feature-extraction": embed(clips, batch_size=2),
    }


def refusal(model: str) -> str:
    """What transformers says to somebody who has neither the package nor trusts the code beside the weights."""
    from transformers import AutoModel

    try:
        AutoModel.from_pretrained(model, trust_remote_code=False)
    except ValueError as error:
        return str(error)
    return ""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("clips", nargs="+")
    parser.add_argument("--without-package", nargs="+", metavar="PATH")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.without_package:
        sys.path += arguments.without_package
        if importlib.util.find_spec("hf_slap"):
            sys.exit("hf_slap can be imported, so this shows nothing; install it with `pip install -e .`")
        result = {"refusal": refusal(arguments.model)}
    else:
        import hf_slap  # noqa: F401

        result = {}
    result |= all_outputs(arguments.model, arguments.clips, trust_remote_code=bool(arguments.without_package))
    print(json.dumps(result))


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
