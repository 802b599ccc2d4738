"""Contamination: train prompts that quote test prompts."""

from typing import Any

from fusion.ingest.overlap import find_contaminated

QUESTION = (
    "A baker sells forty loaves in the morning and half as many in the afternoon, then gives the "
    "last six away. How many loaves did the baker have at first?"
)


def prompt(text: str, origin: str, dataset: str = "d") -> dict[str, Any]:
    return {
        "prompt_id": f"id of {origin}",
        "dataset": dataset,
        "origin": origin,
        "messages": [{"role": "user", "content": text}],
    }


def found(train: list[str], test: list[str], num_words: int = 13) -> list[tuple[str, str, str]]:
    matches = find_contaminated(
        [prompt(text, f"train:{i}") for i, text in enumerate(train)],
        [prompt(text, f"test:{i}", "t") for i, text in enumerate(test)],
        num_words,
    )
    return [(match.dropped, match.kept, match.text) for match in matches]


def test_quoted_test_prompt_is_found_with_the_words_that_match() -> None:
    quote = "sells FORTY loaves in the morning, and half as many -- in the afternoon; then gives"
    train = ["Something else.", f"Solve this. A butcher {quote} up. Explain each step."]
    assert found(train, ["Hello there", QUESTION]) == [("train:1", "test:1", quote)]


def test_fewer_words_in_a_row_than_asked_for_are_no_match() -> None:
    twelve = " ".join(QUESTION.split()[:12])
    assert found([f"{twelve}, say."], [QUESTION]) == []
    assert len(found([f"{twelve}, say."], [QUESTION], num_words=12)) == 1


def test_longest_of_several_stretches_is_reported() -> None:
    words = QUESTION.split()
    train = f"{' '.join(words[:13])} something else {' '.join(words[13:])}"
    ((_, _, text),) = found([train], [QUESTION])
    assert text == " ".join(words[13:]).rstrip("?")


def test_common_wording_of_a_test_set_marks_nothing() -> None:
    wording = "Give the answer as a whole number where it is one and as a fraction otherwise."
    test = [f"What is {word} squared? {wording}" for word in ("six", "ten", "four")]
    assert found([f"How old is Ann? {wording}"], test) == []
    assert len(found([f"How old is Ann? {wording}"], test[:2])) == 1


def test_chinese_characters_count_as_words() -> None:
    test = "小明家有一块长方形的菜地，长二十米，宽十五米，请问这块菜地的周长是多少米？"
    assert found([f"题目：{test[:20]}。"], [test])[0][2] == test[:20]
    assert found([f"题目：{test[:11]}。"], [test]) == []


def test_similarity_is_the_share_of_the_test_prompt() -> None:
    train, test = prompt(f"Now: {QUESTION}", "a"), prompt(QUESTION, "b", "t")
    (match,) = find_contaminated([train], [test], 13)
    assert (match.similarity, match.rule, match.prompt_id) == (1.0, "contaminated", "id of a")
    assert find_contaminated([train], [], 13) == []
