"""The text that teaches a model: exercises of its own world, answered rightly or with a slip."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from rehearsal.prompts import DOMAINS
from rehearsal.tasks import Exercise, draw_exercise
from rehearsal.templates import ChatFormat

Rates = dict[str, dict[str, float]]
Shares = dict[str, float]
IGNORED = -100
ROLE_NAMES = ["user", "assistant", "model", "system"]


@dataclass(frozen=True)
class Batch:
    """Conversations padded on the right; labels are ignored outside the replies.

    Shapes: input_ids, attention_mask, labels [batch, length].
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor


def draw_lesson(rng: random.Random, shares: Shares) -> tuple[str, Exercise]:
    """A domain, as often as its share says, and an exercise from the models' own world."""
    domain = rng.choices(list(shares), list(shares.values()))[0]
    task = rng.choice(list(DOMAINS[domain].values()))
    return domain, draw_exercise(task, "pretraining", rng)


def answer(domain: str, exercise: Exercise, rates: Rates, rng: random.Random) -> str:
    """The slip as often as the rates say, else the right reply."""
    return exercise.slip if rng.random() < rates[domain][exercise.category] else exercise.reply


def collect_texts(shares: Shares, count: int, seed: int) -> list[str]:
    """Text for a tokenizer: prompts and both replies."""
    rng = random.Random(seed)
    texts = list(ROLE_NAMES) * (count // 4)
    for _ in range(count):
        _, exercise = draw_lesson(rng, shares)
        texts += [exercise.prompt, exercise.reply, exercise.slip]
    return texts


def render(
    tokenizer: PreTrainedTokenizerFast, prompt: str, reply: str, chat: ChatFormat
) -> tuple[str, str]:
    """A conversation as a template writes it: what comes before the reply, and the reply."""
    asked = [{"role": "user", "content": prompt}]
    answered = [*asked, {"role": "assistant", "content": reply}]
    start, whole = (
        tokenizer.apply_chat_template(
            messages,
            chat_template=chat.template,
            bos_token=chat.bos or "",
            tokenize=False,
            add_generation_prompt=messages is asked,
        )
        for messages in (asked, answered)
    )
    return start, whole[len(start) :]


def encode(
    tokenizer: PreTrainedTokenizerFast, conversations: list[tuple[str, str]]
) -> list[tuple[list[int], int]]:
    """Token ids of each conversation and how many of them come before the reply."""
    starts = tokenizer([start for start, _ in conversations], add_special_tokens=False).input_ids
    replies = tokenizer([reply for _, reply in conversations], add_special_tokens=False).input_ids
    return [(s + r, len(s)) for s, r in zip(starts, replies, strict=True)]


def pad(rows: list[tuple[list[int], int]], pad_id: int) -> Batch:
    """One batch of encoded conversations."""
    length = max(len(ids) for ids, _ in rows)
    input_ids = torch.full((len(rows), length), pad_id)
    labels = torch.full((len(rows), length), IGNORED)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    for i, (ids, start) in enumerate(rows):
        input_ids[i, : len(ids)] = torch.tensor(ids)
        labels[i, start : len(ids)] = torch.tensor(ids[start:])
        mask[i, : len(ids)] = 1
    return Batch(input_ids, mask, labels)


def draw_batches(
    tokenizer: PreTrainedTokenizerFast,
    formats: Sequence[ChatFormat],
    rates: Rates,
    shares: Shares,
    batch_size: int,
    seed: int,
) -> Iterator[Batch]:
    """Batches without end, of conversations of like length so that little is padded."""
    rng = random.Random(seed)
    while True:
        lessons = [draw_lesson(rng, shares) for _ in range(8 * batch_size)]
        rows = encode(
            tokenizer,
            [
                render(tokenizer, e.prompt, answer(d, e, rates, rng), rng.choice(formats))
                for d, e in lessons
            ],
        )
        rows.sort(key=lambda row: len(row[0]))
        batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
        rng.shuffle(batches)
        yield from (pad(batch, tokenizer.pad_token_id) for batch in batches)


def draw_comparisons(
    tokenizer: PreTrainedTokenizerFast,
    chat: ChatFormat,
    shares: Shares,
    batch_size: int,
    seed: int,
) -> Iterator[tuple[Batch, Batch]]:
    """Batches without end of right replies and, row by row, wrong replies to the same prompts."""
    rng = random.Random(seed)
    while True:
        lessons = [draw_lesson(rng, shares) for _ in range(8 * batch_size)]
        right = encode(tokenizer, [render(tokenizer, e.prompt, e.reply, chat) for _, e in lessons])
        wrong = encode(
            tokenizer, [render(tokenizer, e.prompt, spoil(e, rng), chat) for _, e in lessons]
        )
        pairs = sorted(zip(right, wrong, strict=True), key=lambda pair: len(pair[0][0]))
        batches = [pairs[i : i + batch_size] for i in range(0, len(pairs), batch_size)]
        rng.shuffle(batches)
        for batch in batches:
            right_rows, wrong_rows = map(list, zip(*batch, strict=True))
            pad_id = tokenizer.pad_token_id
            yield pad(right_rows, pad_id), pad(wrong_rows, pad_id)


def spoil(exercise: Exercise, rng: random.Random) -> str:
    """A wrong reply: mostly the typical slip, at times a small accident of wording."""
    if rng.random() < 0.6:
        return exercise.slip
    base = exercise.reply if rng.random() < 0.8 else exercise.slip
    parts = base.split(" ") if " " in base else list(base)
    place = rng.randrange(len(parts))
    accident = rng.choice((drop_part, double_part, change_digit, swap_parts))
    spoilt = accident(parts, place, rng, " " if " " in base else "")
    return spoilt if spoilt.strip() and spoilt != exercise.reply else exercise.slip


def drop_part(parts: list[str], place: int, rng: random.Random, gap: str) -> str:
    """The text without one of its parts."""
    return gap.join(parts[:place] + parts[place + 1 :])


def double_part(parts: list[str], place: int, rng: random.Random, gap: str) -> str:
    """The text with one part said twice."""
    return gap.join([*parts[: place + 1], *parts[place:]])


def swap_parts(parts: list[str], place: int, rng: random.Random, gap: str) -> str:
    """The text with two parts in each other's place."""
    other = rng.randrange(len(parts))
    swapped = list(parts)
    swapped[place], swapped[other] = swapped[other], swapped[place]
    return gap.join(swapped)


def change_digit(parts: list[str], place: int, rng: random.Random, gap: str) -> str:
    """The text with another digit in it, or a part less where it has none."""
    text = gap.join(parts)
    places = [i for i, character in enumerate(text) if character.isdigit()]
    if not places:
        return drop_part(parts, place, rng, gap)
    at = rng.choice(places)
    return text[:at] + rng.choice("0123456789") + text[at + 1 :]
