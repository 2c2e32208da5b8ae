"""The tables of SLAP (arXiv 2601.12594). `reported` are its numbers as secondary sources print them."""

from ..tasks import Task
from .clap2023 import CREMA_D_WORDS
from .gtzan import FILTERED_TEST

_CAN_BE_HEARD, _MUSIC, _FEELING = "{} can be heard", "{} music can be heard", "this person is feeling {}"
_EVAR = "SLAP, zero-shot classification; prompts not stated there: those of EVAR and WavCaps"
_CLIPS = "text to audio: every caption is a query; audio to text: the best of a clip's captions counts"
_ELSEWHERE = "SLAP, Table 4: all weights are trained; run examples/finetune_classification.py and judge what it leaves"


def _zero_shot(
    name: str, data: str, reported: float, tuned: float, prompt: str, expected: int, source: str = _EVAR, **more
) -> Task:
    values = {"SLAP": reported, "SLAP after tuning on WavCaps": tuned}
    return Task(
        name, "zero_shot", data, "accuracy", source, prompts=(prompt,), expected=expected, reported=values, **more
    )


TASKS = (
    Task(
        "audiocaps-retrieval", "retrieval", "audiocaps", "recall@1",
        f"SLAP, retrieval; {_CLIPS}. Published sets have 883 to 975 clips: compare only equal N",
        reported={"SLAP, text to audio": 0.351, "SLAP, audio to text": 0.448},
    ),
    Task(
        "clotho-retrieval", "retrieval", "clotho", "recall@1", f"SLAP, retrieval; {_CLIPS}", expected=1045,
        reported={"SLAP, text to audio": 0.189, "SLAP, audio to text": 0.235},
    ),
    _zero_shot("esc50-zero-shot", "esc50", 0.886, 0.955, _CAN_BE_HEARD, 2000),
    _zero_shot("urbansound8k-zero-shot", "urbansound8k", 0.816, 0.835, _CAN_BE_HEARD, 8732),
    _zero_shot(
        "crema-d-zero-shot", "crema_d", 0.281, 0.322, _FEELING, 7442,
        "SLAP, zero-shot classification; prompt and split not stated: CLAP 2022's prompt, all clips",
        words=CREMA_D_WORDS,
    ),
    _zero_shot(
        "ravdess-zero-shot", "ravdess", 0.264, 0.298, _FEELING, 1440,
        "SLAP, zero-shot classification; prompt not stated: CLAP 2022's; 26.4 and 29.8 % fit 1,440 files",
    ),
    _zero_shot(
        "gtzan-zero-shot", "gtzan", 0.568, 0.805, _MUSIC, 999,
        "SLAP, zero-shot classification: its decimals fit 999 or 1,000 excerpts; jazz.00054 is mostly broken",
    ),
    Task(
        "gtzan-filtered-zero-shot", "zero_shot", "gtzan", "accuracy",
        "M2D-CLAP's test set (EVAR): the fault-filtered 290 excerpts. Not SLAP's", prompts=(_MUSIC,), expected=290,
        ids=FILTERED_TEST, reported={"M2D2-CLAP": 0.793, "M2D-CLAP 2024": 0.752},
    ),
    Task(
        "audiocaps-captioning", "captioning", "audiocaps", "CIDEr-D", "SLAP, captioning, after fine-tuning",
        reported={"SLAP, CIDEr": 0.751, "SLAP, SPICE": 0.181},
    ),
    Task(
        "clotho-captioning", "captioning", "clotho", "CIDEr-D", "SLAP, captioning, after fine-tuning", expected=1045,
        reported={"SLAP, CIDEr": 0.437, "SLAP, SPICE": 0.131},
    ),
    Task("esc50-fine-tuned", "elsewhere", "esc50", "accuracy", _ELSEWHERE, expected=2000, reported={"SLAP": 0.982}),
    Task(
        "speech-commands-fine-tuned", "elsewhere", "speech_commands", "accuracy", _ELSEWHERE, reported={"SLAP": 0.985}
    ),
    Task(
        "audioset-fine-tuned", "elsewhere", "audioset", "mAP", _ELSEWHERE + "; its number was not found",
        multi_label=True,
    ),
)  # fmt: skip
