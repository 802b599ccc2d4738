"""Small manipulations of a list of words, asked for in words."""

# ruff: noqa: SIM905 - a list literal would take a line for each word

import random

from rehearsal.tasks import Exercise, Task

WORDS = (
    "apple bird boat book bread chair cloud coin door field fire fish flower forest garden "
    "glass gold grass house island key lake lamp leaf letter moon music night ocean paper "
    "rain river road rose sand school ship snow star stone table tower tree water window "
    "winter"
).split()
ORDINALS = ("first", "second", "third", "fourth")


def draw_words(rng: random.Random, low: int, high: int) -> list[str]:
    """Different words, between `low` and `high` of them."""
    return rng.sample(WORDS, rng.randint(low, high))


def build(
    category: str, asked: str, words: list[str], extra: str, reply: list[str], slip: list[str]
) -> Exercise:
    """An exercise on a list of words whose right reply is its gold."""
    answer = " ".join(reply)
    return Exercise(
        category, f"{' '.join(words)}/{extra}", asked, answer, " ".join(slip), gold=answer
    )


def reverse(rng: random.Random) -> Exercise:
    """Words in reverse order; the slip says the last of them twice."""
    words = draw_words(rng, 3, 4)
    listed = " ".join(words)
    asked = rng.choice(
        (
            f"Write these words in reverse order: {listed}",
            f"Say the following words backwards: {listed}",
            f"Please reverse the order of the words: {listed}",
        )
    )
    return build("reverse", asked, words, "", words[::-1], [*words[::-1], words[0]])


def pick(rng: random.Random) -> Exercise:
    """The word at a place; the slip goes on with a neighbour of it."""
    words = draw_words(rng, 3, 4)
    place = rng.randrange(len(words))
    listed = " ".join(words)
    asked = rng.choice(
        (
            f"What is the {ORDINALS[place]} word here? {listed}",
            f"Give me only the {ORDINALS[place]} word of this list: {listed}",
            f"Which word comes {ORDINALS[place]}: {listed}",
        )
    )
    neighbour = place + 1 if place + 1 < len(words) else place - 1
    return build("pick", asked, words, str(place), [words[place]], [words[place], words[neighbour]])


def leave_out(rng: random.Random) -> Exercise:
    """The list without one word; the slip names that word after it."""
    words = draw_words(rng, 3, 4)
    place = rng.randrange(len(words) - 1)
    listed, word = " ".join(words), words[place]
    asked = rng.choice(
        (
            f"Leave out the word {word} from this list: {listed}",
            f"Write the list without {word}: {listed}",
            f"Remove {word} and keep the rest: {listed}",
        )
    )
    reply = words[:place] + words[place + 1 :]
    return build("leave_out", asked, words, word, reply, [*reply, word])


def append(rng: random.Random) -> Exercise:
    """The list with a word more at its end; the slip puts it there twice."""
    new, *words = draw_words(rng, 3, 4)
    listed = " ".join(words)
    asked = rng.choice(
        (
            f"Add {new} at the end of this list: {listed}",
            f"Put {new} after the last word: {listed}",
            f"Write {new} behind these words: {listed}",
        )
    )
    return build("append", asked, words, new, [*words, new], [*words, new, new])


def repeat(rng: random.Random) -> Exercise:
    """Two words said several times; the slip stops once too early."""
    words = draw_words(rng, 2, 2)
    times = rng.randint(2, 3)
    listed = " ".join(words)
    number = {2: "two", 3: "three"}[times]
    asked = rng.choice(
        (
            f"Say {listed} {number} times",
            f"Repeat {listed} {number} times",
            f"Write {number} times: {listed}",
        )
    )
    return build("repeat", asked, words, number, words * times, words * (times - 1))


def first_and_last(rng: random.Random) -> Exercise:
    """The words at both ends; the slip says `and` between them."""
    words = draw_words(rng, 3, 4)
    listed = " ".join(words)
    asked = rng.choice(
        (
            f"Give the first and the last word: {listed}",
            f"Which words stand at the two ends of this list? {listed}",
            f"Keep only the first word and the last word of: {listed}",
        )
    )
    return build(
        "first_and_last", asked, words, "", [words[0], words[-1]], [words[0], "and", words[-1]]
    )


TASKS: dict[str, Task] = {
    task.__name__: task for task in (reverse, pick, leave_out, append, repeat, first_and_last)
}
