"""ArmoRM computed from its safetensors: no remote code.

RLHFlow/ArmoRM-Llama3-8B-v0.1 is a Llama backbone with 19 regressed objectives, mixed by a gate
that sees the prompt alone. Source: the model's published modelling file and card; "Interpretable
Preferences via Multi-Objective Reward Modeling and Mixture-of-Experts" (arXiv 2406.12845).
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fusion.errors import BadInputError
from fusion.models import weight_map
from fusion.recipe import Reward
from fusion.rewards.scorer import Scored, pad_rows, pad_token

# <|eot_id|><|start_header_id|>assistant<|end_header_id|> and a blank line, in Llama-3's ids
ASSISTANT_HEADER = (128009, 128006, 78191, 128007, 271)
_HEADS = ("regression_layer.", "gating.", "reward_transform_matrix")


class Gate(nn.Module):
    """Prompt's hidden state [batch, hidden] to one coefficient an objective [batch, objectives]."""

    def __init__(
        self, hidden: int, width: int, depth: int, objectives: int, temperature: float
    ) -> None:
        super().__init__()
        sizes = [hidden, *[width] * depth]
        layers = [nn.Linear(i, o) for i, o in itertools.pairwise(sizes)]
        self.layers = nn.ModuleList([*layers, nn.Linear(sizes[-1], objectives)])
        self.logit_scale = nn.Parameter(torch.ones(1))
        self.temperature = temperature

    def forward(self, state: Tensor) -> Tensor:
        """softmax(mlp(state) / temperature) * logit_scale."""
        for layer in self.layers[:-1]:
            state = torch.relu(layer(state))
        return torch.softmax(self.layers[-1](state) / self.temperature, dim=-1) * self.logit_scale


class ArmoScorer:
    """Backbone, objectives and gate of ArmoRM."""

    def __init__(self, reward: Reward, tokenizer: Any, device: torch.device) -> None:
        from transformers import AutoConfig, AutoModel

        folder = _folder(reward)
        config = AutoConfig.from_pretrained(folder)
        objectives = int(getattr(config, "num_objectives", 19))
        dtype = getattr(torch, reward.dtype)
        self._device = device
        self._pad_id = pad_token(reward, config, tokenizer)
        self._backbone = AutoModel.from_pretrained(folder, dtype=dtype).eval().to(device)
        self._objectives = nn.Linear(config.hidden_size, objectives, bias=False)
        self._gate = Gate(
            config.hidden_size,
            int(getattr(config, "gating_hidden_dim", 1024)),
            int(getattr(config, "gating_n_hidden", 3)),
            objectives,
            float(getattr(config, "gating_temperature", 10)),
        )
        self._load_heads(folder, reward)
        self._objectives.to(device, dtype)
        self._gate.to(device, dtype)

    def _load_heads(self, folder: Path, reward: Reward) -> None:
        tensors = _head_tensors(folder)
        try:
            self._transform = tensors.pop("reward_transform_matrix").float().to(self._device)
            self._objectives.load_state_dict({"weight": tensors.pop("regression_layer.weight")})
            self._gate.load_state_dict(
                {name.removeprefix("gating."): tensor for name, tensor in tensors.items()}
            )
        except (KeyError, RuntimeError) as error:
            raise BadInputError(
                f"The reward model {reward.model} is no ArmoRM ({' '.join(str(error).split())}); "
                "use kind: classifier for a model with a single output."
            ) from None

    def score(self, rows: Sequence[Sequence[int]]) -> list[Scored]:
        """Gated sum of debiased objectives; heads are the raw objectives."""
        ids, mask = pad_rows(rows, self._pad_id, self._device)
        with torch.inference_mode():
            states = self._backbone(input_ids=ids, attention_mask=mask).last_hidden_state
            batch = torch.arange(len(rows), device=self._device)
            last = torch.tensor([len(row) - 1 for row in rows], device=self._device)
            objectives = self._objectives(states[batch, last]).float()
            coefficients = self._coefficients(states, rows)
        rewards = (coefficients * (objectives @ self._transform)).sum(dim=-1)
        return [Scored(r, h) for r, h in zip(rewards.tolist(), objectives.tolist(), strict=True)]

    def _coefficients(self, states: Tensor, rows: Sequence[Sequence[int]]) -> Tensor:
        """The gate's [rows, objectives], computed once for each prompt among the rows.

        A causal model's state where the answer's header starts is that of the prompt alone.
        """
        prompts = [tuple(row[: gate_position(row)]) for row in rows]
        distinct = list(dict.fromkeys(prompts))
        firsts = [prompts.index(prompt) for prompt in distinct]
        gates: Tensor = self._gate(states[firsts, [len(prompt) for prompt in distinct]]).float()
        return gates[[distinct.index(prompt) for prompt in prompts]]


def gate_position(row: Sequence[int]) -> int:
    """Where the last assistant header starts: the gate reads the hidden state there.

    Raises:
        BadInputError: the row has no such header.
    """
    size = len(ASSISTANT_HEADER)
    for start in range(len(row) - size, -1, -1):
        if tuple(row[start : start + size]) == ASSISTANT_HEADER:
            return start
    raise BadInputError("A conversation without Llama-3's assistant header cannot be scored.")


def _folder(reward: Reward) -> Path:
    model = str(reward.model)
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors"]
    return Path(snapshot_download(model, revision=reward.revision, allow_patterns=patterns))


def _head_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors beside the backbone, from whichever shard holds them."""
    from safetensors import safe_open

    found: dict[str, Tensor] = {}
    for name, file in weight_map(folder).items():
        if name.startswith(_HEADS):
            with safe_open(folder / file, framework="pt") as tensors:
                found[name] = tensors.get_tensor(name)
    return found
