"""What judges answers: scorers that give rewards, and the limits of the verifiers."""

from typing import Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from fusion.recipe.section import Section, check_keys_of_kind
from fusion.recipe.sources import Model


class Judge(Section):
    """How a language model behind an OpenAI-compatible endpoint is asked to judge."""

    url: str = Field(
        pattern=r"^https?://", description="The endpoint, as http://127.0.0.1:8000/v1."
    )
    key_env: str | None = Field(
        None, description="The environment variable, on every node, that holds the endpoint's key."
    )
    comparison: Literal["pointwise", "pairwise"] = Field(
        "pointwise",
        description="pointwise: each answer is rated alone; pairwise: against the other answers of "
        "its source to the prompt, in both orders, and the reward is its share of wins.",
    )
    lowest: float = Field(1.0, description="The worst rating, for pointwise.")
    highest: float = Field(10.0, description="The best rating, for pointwise.")
    instruction: str | None = Field(
        None, description="What a good answer is, in place of our own words."
    )
    temperature: float = Field(0.0, ge=0, le=2, description="Of the judge's own sampling.")
    max_tokens: PositiveInt = Field(1024, description="Longest judgement, in tokens.")
    at_once: PositiveInt = Field(16, description="Requests in flight.")
    attempts: PositiveInt = Field(4, description="Tries of a request that fails or is unclear.")
    timeout_s: PositiveFloat = Field(120.0, description="Longest wait for one judgement.")

    @model_validator(mode="after")
    def _is_a_scale(self) -> Self:
        if not self.lowest < self.highest:
            raise ValueError(f"lowest {self.lowest} is not below highest {self.highest}")
        return self


class Reward(Section):
    """What gives an answer a reward: a model, a judge, a file of scores, or a constant."""

    kind: Literal["classifier", "armorm", "judge", "imported", "constant"] = Field(
        "classifier",
        description="A sequence classifier with one output, ArmoRM, a language model as judge, "
        "scores made elsewhere, or one value for all, for tests.",
    )
    model: str | None = Field(
        None, description="A local folder, a hub id, or for kind judge its name at the endpoint."
    )
    revision: str | None = Field(None, description="A commit or tag; needed for a hub id.")
    max_length: PositiveInt = Field(4096, description="Longer conversations go to quarantine.")
    batch_size: PositiveInt = Field(16, description="Conversations a forward pass.")
    dtype: Literal["bfloat16", "float16", "float32"] = Field(
        "bfloat16", description="Number format of the weights."
    )
    replicas: PositiveInt = Field(1, description="Copies of the reward model, one GPU each.")
    judge: Judge | None = Field(None, description="For kind judge: where and how it is asked.")
    path: str | None = Field(
        None, description="For kind imported: the scores, a file or hub data set (hf://)."
    )
    fields: dict[str, str] = Field(
        {},
        description="For kind imported: where reward stands in a row, and what it judges: "
        "response_id, or text with prompt (or messages) as the data set maps it.",
    )
    turn_marker: str | None = Field(
        None, min_length=1, description="With fields.prompt: the data set's own, if it has one."
    )
    value: float = Field(0.0, description="For kind constant: every answer's reward.")

    @model_validator(mode="after")
    def _kind_has_its_keys(self) -> Self:
        owners = {"path": "imported", "turn_marker": "imported", "judge": "judge"}
        check_keys_of_kind(self, owners)
        needs = {"judge": ("model", "judge"), "imported": ("path",), "constant": ()}
        for key in needs.get(self.kind, ("model",)):
            if not getattr(self, key):
                raise ValueError(f"a reward of kind {self.kind} needs the key {key}")
        if self.kind == "imported":
            self._check_fields()
        return self

    def _check_fields(self) -> None:
        given = set(self.fields)
        if given not in ({"reward", "response_id"}, {"reward", "text", "prompt"}, _OF_MESSAGES):
            raise ValueError(
                "fields needs reward, and either response_id or text with prompt or messages, "
                f"not {sorted(given)}"
            )
        if self.turn_marker and "prompt" not in self.fields:
            raise ValueError("turn_marker needs fields.prompt")

    @property
    def served_model(self) -> Model | None:
        """The model that is loaded for this reward, None for a judge, a file and a constant."""
        if self.kind not in ("classifier", "armorm"):
            return None
        return Model(model=str(self.model), revision=self.revision)


_OF_MESSAGES = {"reward", "text", "messages"}


class CodeVerification(Section):
    """Limits of one program in the sandbox."""

    timeout_s: PositiveFloat = Field(10.0, description="Wall-clock time of one program.")
    memory_mib: PositiveInt = Field(
        512, description="Memory of each process and of a program's whole tree."
    )
    processes: PositiveInt = Field(16, description="Processes and threads of one program.")
    output_kib: PositiveInt = Field(64, description="Output kept; more is cut off.")
    file_mib: PositiveInt = Field(
        16, description="Largest file a program may write, and all of them together."
    )


class MathVerification(Section):
    """Limits of one comparison of mathematics."""

    timeout_s: PositiveInt = Field(5, description="Time to parse and compare one answer.")


class Verification(Section):
    """How answers are checked."""

    code: CodeVerification = CodeVerification()
    math: MathVerification = MathVerification()
    workers: PositiveInt = Field(2, description="Answers checked at the same time on a node.")
