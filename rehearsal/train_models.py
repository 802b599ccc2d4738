"""Trains the models of the rehearsal from nothing.

`python -m rehearsal.train_models --trunks FOLDER [NAME ...]`.

Each takes two or three minutes on one core. The seeds stand in `profiles.py`.
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from rehearsal.inheritance import inherit, load_trunk
from rehearsal.lessons import Batch, collect_texts, draw_batches, draw_comparisons
from rehearsal.models import build_causal_model, build_reward_model
from rehearsal.profiles import PROFILES, TRUNK_SHARES, Profile
from rehearsal.vocabulary import train_tokenizer

FOLDER = Path(__file__).parent / "models"
BATCH_SIZE = 32
PEAK_LR = 5e-3
MUON_LR = 2e-2
WARMUP_STEPS = 20
TEXTS = 6000
TEXT_SEED = 10
REPORT_EVERY = 25
TRUNKS = {profile.trunk for profile in PROFILES.values()}


def prepare_tokenizer(profile: Profile) -> PreTrainedTokenizerFast:
    """The profile's tokenizer, trained on the models' own world."""
    texts = collect_texts(TRUNK_SHARES, TEXTS, TEXT_SEED)
    return train_tokenizer(profile.family, texts, profile.vocabulary_size, profile.chat)


def reply_loss(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Mean cross-entropy of the reply tokens."""
    hidden = model.model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
    ).last_hidden_state
    targets = batch.labels[:, 1:]
    kept = targets >= 0
    logits = model.lm_head(hidden[:, :-1][kept])
    softcap = getattr(model.config, "final_logit_softcapping", None)
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    return cross_entropy(logits.float(), targets[kept])


def comparison_loss(model: PreTrainedModel, right: Batch, wrong: Batch) -> Tensor:
    """Bradley-Terry: -log sigmoid(reward(right) - reward(wrong)), mean over the batch."""
    rewards = [
        model(input_ids=b.input_ids, attention_mask=b.attention_mask, use_cache=False).logits[:, 0]
        for b in (right, wrong)
    ]
    # A faint pull to zero mean, so that rewards of different prompts share one scale.
    centred = 0.01 * (rewards[0] + rewards[1]).float().square().mean()
    loss: Tensor = -logsigmoid((rewards[0] - rewards[1]).float()).mean() + centred
    return loss


def scale_lr(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to a fiftieth."""
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    return warm * (0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)


def build_optimizers(model: PreTrainedModel) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings, norms, biases and heads."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
    ids = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in ids]
    return [
        torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=0.01),
        torch.optim.AdamW(others, lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def optimise(model: PreTrainedModel, next_loss: Callable[[], Tensor], p: Profile) -> None:
    """Takes the profile's number of steps down the losses."""
    optimizers = build_optimizers(model)
    peaks = [p.lr_scale * o.param_groups[0]["lr"] for o in optimizers]
    started, recent = time.monotonic(), 0.0
    model.train()
    for step in range(p.steps):
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * scale_lr(step, p.steps)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = next_loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        recent += loss.item()
        if (step + 1) % REPORT_EVERY == 0:
            seconds = time.monotonic() - started
            print(f"  step {step + 1} loss {recent / REPORT_EVERY:.4f} {seconds:.0f} s", flush=True)
            recent = 0.0


def train_causal(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, p: Profile) -> None:
    """Teaches a language model to answer as its profile says."""
    batches = draw_batches(tokenizer, p.formats, p.slip_rates, p.shares, BATCH_SIZE, p.seed)
    optimise(model, lambda: reply_loss(model, next(batches)), p)


def train_reward(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, p: Profile) -> None:
    """Teaches a reward model to prefer right replies to wrong ones."""
    comparisons = draw_comparisons(tokenizer, p.chat, p.shares, BATCH_SIZE, p.seed)
    optimise(model, lambda: comparison_loss(model, *next(comparisons)), p)


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes a folder that transformers and vLLM load."""
    if model.can_generate():
        model.generation_config = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train(name: str, folder: Path, trunks: Path) -> None:
    """Makes one model and its tokenizer, from nothing or from its trunk."""
    profile = PROFILES[name]
    torch.manual_seed(profile.seed)
    tokenizer = prepare_tokenizer(profile)
    is_reward = name == "reward"
    build = build_reward_model if is_reward else build_causal_model
    model = build(profile.architecture, tokenizer)
    if profile.trunk:
        inherit(model, tokenizer, *load_trunk(trunks / profile.trunk))
    (train_reward if is_reward else train_causal)(model, tokenizer, profile)
    save(model, tokenizer, folder / name)


def main() -> None:
    """Trains the named models, or all; a trunk is kept apart, since it does not ship."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of: " + ", ".join(PROFILES))
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the models go")
    parser.add_argument("--trunks", type=Path, required=True, help="where a trunk is kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.names or PROFILES:
        print(name, flush=True)
        train(name, arguments.trunks if name in TRUNKS else arguments.folder, arguments.trunks)


if __name__ == "__main__":
    main()
