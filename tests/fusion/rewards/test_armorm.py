"""ArmoRM against its formula written out again, on a tiny random model of its shape."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaModel

from fusion.errors import BadInputError
from fusion.recipe import Reward
from fusion.rewards.armorm import ASSISTANT_HEADER, ArmoScorer, gate_position

HIDDEN, OBJECTIVES, WIDTH = 32, 19, 16


class _Tokenizer:
    pad_token_id = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("armorm")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128_256,
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=3,
    )
    LlamaModel(config).save_pretrained(folder)
    tensors = {f"model.{k}": v for k, v in load_file(folder / "model.safetensors").items()}
    tensors["regression_layer.weight"] = torch.randn(OBJECTIVES, HIDDEN)
    tensors["reward_transform_matrix"] = torch.randn(OBJECTIVES, OBJECTIVES)
    tensors["gating.logit_scale"] = torch.tensor([1.7])
    for layer, (i, o) in enumerate([(HIDDEN, WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH)]):
        tensors[f"gating.layers.{layer}.weight"] = torch.randn(o, i)
        tensors[f"gating.layers.{layer}.bias"] = torch.randn(o)
    tensors["gating.layers.3.weight"] = torch.randn(OBJECTIVES, WIDTH)
    tensors["gating.layers.3.bias"] = torch.randn(OBJECTIVES)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    raw = json.loads((folder / "config.json").read_text())
    raw |= {"gating_hidden_dim": WIDTH, "gating_n_hidden": 3, "gating_temperature": 10}
    raw |= {"num_objectives": OBJECTIVES, "architectures": ["LlamaForRewardModelWithGating"]}
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def _score_by_hand(folder, row):
    tensors = load_file(folder / "model.safetensors")
    backbone = LlamaModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        states = backbone(torch.tensor([row])).last_hidden_state[0]
    gate = states[gate_position(row)]
    for layer in range(3):
        weight, bias = (tensors[f"gating.layers.{layer}.{n}"] for n in ("weight", "bias"))
        gate = torch.relu(weight @ gate + bias)
    gate = tensors["gating.layers.3.weight"] @ gate + tensors["gating.layers.3.bias"]
    gate = torch.softmax(gate / 10, 0) * 1.7
    heads = tensors["regression_layer.weight"] @ states[-1]
    return float(gate @ (heads @ tensors["reward_transform_matrix"])), heads.tolist()


def test_batched_score_and_heads_equal_the_formula(folder):
    rows = [
        [1, 2, *ASSISTANT_HEADER, 50, 51, 128009],
        [1, *ASSISTANT_HEADER, 60, 128009, 7, *ASSISTANT_HEADER, 70, 71, 72, 73, 128009],
    ]
    reward = Reward(model=str(folder), kind="armorm", dtype="float32")
    scored = ArmoScorer(reward, _Tokenizer(), torch.device("cpu")).score(rows)
    for row, got in zip(rows, scored, strict=True):
        value, heads = _score_by_hand(folder, row)
        assert got.reward == pytest.approx(value, abs=1e-4)
        assert got.heads == pytest.approx(heads, abs=1e-4)


def test_answers_of_one_prompt_share_the_gate_and_score_as_they_do_alone(folder):
    answers = ([70, 71], [72], [70, 71, 73, 74], [75])
    prompts = ([1, 2], [1, 9], [1, 2], [1, 2])
    rows = [
        [*prompt, *ASSISTANT_HEADER, *answer, 128009]
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    reward = Reward(model=str(folder), kind="armorm", dtype="float32")
    scorer = ArmoScorer(reward, _Tokenizer(), torch.device("cpu"))
    gated = []
    scorer._gate.register_forward_pre_hook(lambda _, states: gated.append(len(states[0])))
    scored = scorer.score(rows)
    assert gated == [2]
    for row, got in zip(rows, scored, strict=True):
        value, heads = _score_by_hand(folder, row)
        assert got.reward == pytest.approx(value, abs=1e-4)
        assert got.heads == pytest.approx(heads, abs=1e-4)


def test_gate_reads_the_last_assistant_header():
    assert gate_position([*ASSISTANT_HEADER, 1, *ASSISTANT_HEADER, 2]) == 6


def test_a_conversation_without_the_header_is_refused():
    with pytest.raises(BadInputError, match="assistant header"):
        gate_position([1, 2, 3])


def test_a_plain_model_is_refused_as_armorm(folder, tmp_path):
    LlamaModel.from_pretrained(folder).save_pretrained(tmp_path)
    with pytest.raises(BadInputError, match="is no ArmoRM"):
        ArmoScorer(Reward(model=str(tmp_path), kind="armorm"), _Tokenizer(), torch.device("cpu"))
