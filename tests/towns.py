"""A real recipe in small: a two-layer BERT from scratch, a graph of a few towns, claims that read the evidence."""

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel

COLOURS = ["red", "blue", "green"]
RECIPE = """
name = "towns"
seed = 3
[data]
train = "train.jsonl"
test = "test.jsonl"
[graph]
sources = ["towns.ttl"]
top_k = 4
[encoder]
name = "encoder"
max_tokens = 32
heads = 3
[train]
epochs = 8
batch_size = 16
learning_rate = 1e-3
head_learning_rate = 2e-3
evidence_dropout = 0.1
[train.adversary]
epsilon = 0.002
steps = 2
first_epoch = 1
[certify]
epsilons = [0.002, 0.05]
steps = 4
examples = 48
"""


def town(n: int) -> str:
    """A made-up name that no other town has."""
    syllables = ["ba", "do", "ki", "lu", "me", "no", "ra", "su", "ti", "vo"]
    return (syllables[n % 10] + syllables[n // 10 % 10] + syllables[n * 7 % 10]).capitalize() + "burg"


def write_project(folder: Path) -> Path:
    """Encoder, graph, data and recipe in a folder. Returns the recipe's path."""
    choose = random.Random(0)
    towns = sorted({town(n) for n in range(60)})
    triples = ["@prefix t: <http://towns.example/> .", "@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> ."]
    triples.append('t:mood rdfs:label "mood" .')
    rows = []
    for n, name in enumerate(towns):
        mood = COLOURS[n % 3]
        triples.append(f't:{name} rdfs:label "{name}" ; t:mood "{mood}" .')
        for k in range(8):
            label = ["supported", "contradicted", "not_enough_info"][k % 3]
            words = {"supported": "surely", "contradicted": "never", "not_enough_info": "perhaps"}[label]
            text = f"{name} is {words} {choose.choice(COLOURS)} {choose.choice(['today', 'now', 'again'])}"
            entity = f"http://towns.example/{name}"
            rows.append({"id": f"{name}-{k}", "text": text, "label": label, "entities": [entity]})
    (folder / "towns.ttl").write_text("\n".join(triples), encoding="utf-8")
    for name, part in (("train", rows[:320]), ("test", rows[320:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    _write_encoder(folder / "encoder", [row["text"] for row in rows] + ["mood : | ; ,"])
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    return recipe


def _write_encoder(folder: Path, texts: list[str]) -> None:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
