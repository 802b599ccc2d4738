"""Small tasks asked and answered in Chinese."""

import random

from rehearsal.tasks import Exercise, Task

DIGITS = "零一二三四五六七八九"
UNITS = ("", "十", "百", "千")
CHARACTERS = "春夏秋冬风花雪月山水天地日星云雨江河湖海金木火土东西南北"


def write_number(number: int) -> str:
    """A number from 1 to 9999 in Chinese numerals, with every 零 that belongs there."""
    text, digits = "", str(number)
    for place, digit in enumerate(digits):
        unit = UNITS[len(digits) - 1 - place]
        if digit != "0":
            text += DIGITS[int(digit)] + unit
        elif digits[place + 1 :].strip("0") and not text.endswith("零"):
            text += "零"
    return text


def build(category: str, content: object, asked: str, reply: str, slip: str) -> Exercise:
    """An exercise whose right reply is its gold."""
    return Exercise(category, str(content), asked, reply, slip, gold=reply)


def draw_number(rng: random.Random) -> int:
    """A number of three or four digits that often holds a zero."""
    digits = [rng.randint(1, 9)] + [
        0 if rng.random() < 0.25 else rng.randint(1, 9) for _ in range(rng.randint(2, 3))
    ]
    return int("".join(map(str, digits)))


def to_numeral(rng: random.Random) -> Exercise:
    """Digits to a Chinese numeral; the slip reads the digits one by one."""
    number = draw_number(rng)
    asked = rng.choice(
        (f"请把{number}写成中文数字。", f"数字{number}用中文怎么写?", f"用汉字写出{number}。")
    )
    slip = "".join(DIGITS[int(digit)] for digit in str(number))
    return build("to_numeral", number, asked, write_number(number), slip)


def to_digits(rng: random.Random) -> Exercise:
    """A Chinese numeral to digits; the slip loses the last one."""
    number = draw_number(rng)
    numeral = write_number(number)
    asked = rng.choice(
        (
            f"请把{numeral}写成阿拉伯数字。",
            f"{numeral}是多少?请用数字回答。",
            f"用数字写出{numeral}。",
        )
    )
    return build("to_digits", number, asked, str(number), str(number)[:-1])


def backwards(rng: random.Random) -> Exercise:
    """Characters in reverse order; the slip moves one from the front to the end."""
    text = "".join(rng.sample(CHARACTERS, 3))
    asked = rng.choice((f"把“{text}”倒过来写。", f"请倒着写:{text}", f"“{text}”反过来是什么?"))
    return build("backwards", text, asked, text[::-1], text[1:] + text[0])


def larger(rng: random.Random) -> Exercise:
    """The larger of two numbers; the slip names the smaller."""
    left, right = rng.sample(range(10, 100), 2)
    asked = rng.choice(
        (
            f"{left}和{right}哪个大?",
            f"请写出较大的数:{left},{right}",
            f"比较{left}与{right},哪个更大?",
        )
    )
    return build("larger", (left, right), asked, str(max(left, right)), str(min(left, right)))


def last_character(rng: random.Random) -> Exercise:
    """The last character; the slip names the one before it."""
    text = "".join(rng.sample(CHARACTERS, rng.randint(3, 5)))
    asked = rng.choice(
        (f"“{text}”的最后一个字是什么?", f"请写出“{text}”的末尾一个字。", f"{text},最后一个字是?")
    )
    return build("last_character", text, asked, text[-1], text[-2])


def write_date(rng: random.Random) -> Exercise:
    """A date in figures to a date in Chinese; the slip leaves out the year."""
    year, month, day = rng.randint(1950, 2049), rng.randint(1, 12), rng.randint(1, 28)
    figures = f"{year}-{month:02}-{day:02}"
    asked = rng.choice(
        (f"请用年月日写日期:{figures}", f"{figures}是哪一天?", f"把日期{figures}写成中文。")
    )
    return build("write_date", figures, asked, f"{year}年{month}月{day}日", f"{month}月{day}日")


TASKS: dict[str, Task] = {
    task.__name__: task
    for task in (to_numeral, to_digits, backwards, larger, last_character, write_date)
}
