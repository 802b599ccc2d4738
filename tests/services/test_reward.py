"""The reward model's server and its classifier, on the rehearsal's reward model and on copies."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from fusion.errors import BadInputError
from fusion.recipe import Reward
from fusion.rewards.judgement import Judgement
from rehearsal.train_models import FOLDER
from services.reward import RewardServer

MODEL = FOLDER / "reward"
TEMPLATE = "chat_template.jinja"
TEXTS = [
    "river stone",
    "A far longer answer, which is cut into many more tokens than the others of its batch. " * 4,
    "7",
    "stone river stone river stone",
    "The answer is 12.",
]


def server(model: Path = MODEL, **keys: object) -> RewardServer:
    return RewardServer(Reward(model=str(model), **{"dtype": "float32"} | keys), on_cpu=True)


def conversation(text: str, prompt: str = "Say river stone") -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]


def rewards(judgements: list[Judgement]) -> list[float | None]:
    return [judgement.reward for judgement in judgements]


@pytest.fixture
def copied(tmp_path):
    """A copy of the reward model that may be changed."""
    return Path(shutil.copytree(MODEL, tmp_path / "reward"))


@pytest.fixture(scope="module")
def by_hand():
    """The head's raw output at the last token of the text, computed without the scorer."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForSequenceClassification.from_pretrained(MODEL, dtype=torch.float32).eval()

    def value(text: str) -> float:
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            return float(model.score(model.model(ids).last_hidden_state[0, -1]))

    return value


def test_every_conversation_has_its_own_score_in_the_order_given(by_hand):
    given = [conversation(text) for text in [*TEXTS, TEXTS[1]]]
    expected = [by_hand(_written(c)) for c in given]
    assert len({round(value, 3) for value in expected}) == len(TEXTS)
    for size in (1, 2, 16):
        assert rewards(server(batch_size=size).score(given)) == pytest.approx(expected, abs=1e-4)


def test_batches_hold_conversations_of_like_length_and_equal_ones_once():
    up, widths = server(batch_size=2), []
    scored = up._scorer.score

    def note(rows):
        widths.append([len(row) for row in rows])
        return scored(rows)

    up._scorer.score = note
    up.score([conversation(text) for text in [*TEXTS, *TEXTS]])
    flat = [width for batch in widths for width in batch]
    assert [len(batch) for batch in widths] == [2, 2, 1] and flat == sorted(flat)


def test_the_score_is_the_raw_logit_after_the_answer_s_end_token(by_hand):
    text = _written(conversation(TEXTS[0]))
    assert "<|im_end|>" in text[-12:]
    logits = rewards(server().score([conversation(text) for text in TEXTS]))
    assert min(logits) < 0 or max(logits) > 1
    assert logits[0] == pytest.approx(by_hand(text), abs=1e-4)
    assert abs(logits[0] - by_hand(text.rpartition("<|im_end|>")[0])) > 0.01


def test_a_reward_that_is_no_number_is_a_failure(copied):
    tensors = load_file(copied / "model.safetensors")
    tensors["score.weight"] = torch.full_like(tensors["score.weight"], float("nan"))
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    (judgement,) = server(copied).score([conversation("7")])
    assert (judgement.reward, judgement.failure) == (None, "not_a_number")
    assert judgement.detail == "the reward is nan"


def test_a_conversation_that_is_too_long_is_a_failure_and_leaves_the_others_their_scores():
    given = [conversation(text) for text in TEXTS]
    expected = rewards(server().score(given))
    judgements = server(max_length=60).score(given)
    assert judgements[1].failure == "too_long" and "the limit is 60" in judgements[1].detail
    expected[1] = None
    assert rewards(judgements) == pytest.approx(expected, abs=1e-4)


def test_a_conversation_that_the_template_refuses_is_a_failure_with_the_template_s_words(copied):
    refusal = (
        "{%- if messages[0]['content'] == '?' %}{{ raise_exception('no questions') }}{% endif %}"
    )
    (copied / TEMPLATE).write_text(refusal + (MODEL / TEMPLATE).read_text())
    good, bad = server(copied).score([conversation("7"), conversation("7", prompt="?")])
    assert bad.failure == "template" and "no questions" in bad.detail
    assert good.reward == pytest.approx(rewards(server().score([conversation("7")]))[0], abs=1e-4)


def test_a_classifier_with_several_outputs_is_refused(copied):
    model = AutoModelForSequenceClassification.from_pretrained(
        copied, num_labels=2, ignore_mismatched_sizes=True
    )
    model.save_pretrained(copied)
    with pytest.raises(BadInputError, match="has 2 outputs"):
        server(copied)


def _written(turns: list[dict[str, str]]) -> str:
    """The conversation as the shipped template writes it."""
    return "".join(f"<|im_start|>{t['role']}\n{t['content'].strip()}<|im_end|>\n" for t in turns)
