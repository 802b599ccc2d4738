"""How each model writes a conversation down, with its special tokens.

In every template, a prompt with its generation prompt is a prefix of the prompt with its reply.
"""

from dataclasses import dataclass

LLAMA = """\
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

# Gemma knows no system turn: its text goes in front of the first user turn.
GEMMA = """\
{{- bos_token }}
{%- set has_system = messages[0]['role'] == 'system' %}
{%- set system = messages[0]['content'] | trim + '\\n\\n' if has_system else '' %}
{%- set turns = messages[1:] if has_system else messages %}
{%- for message in turns %}
    {{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\\n' }}
    {{- (system if loop.first else '') + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<start_of_turn>model\\n' }}
{%- endif %}
"""

MISTRAL = """\
{{- bos_token }}
{%- set has_system = messages[0]['role'] == 'system' %}
{%- set system = messages[0]['content'] | trim + '\\n\\n' if has_system else '' %}
{%- set turns = messages[1:] if has_system else messages %}
{%- for message in turns %}
    {%- if message['role'] == 'assistant' %}
        {{- message['content'] | trim + '</s>' }}
    {%- else %}
        {{- '[INST]' + (system if loop.first else '') + message['content'] | trim + '[/INST]' }}
    {%- endif %}
{%- endfor %}
"""

CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# The generation block marks what training learns of a conversation (TRL's assistant_only_loss).
TARGET = """\
{%- for message in messages %}
    {{- '<|' + message['role'] + '|>\\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}{{- message['content'] | trim + '<|end|>' }}{%- endgeneration %}
    {%- else %}
        {{- message['content'] | trim + '<|end|>' }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\\n' }}
{%- endif %}
"""


@dataclass(frozen=True)
class ChatFormat:
    """A template and the special tokens it uses; the first ids of a vocabulary, in this order."""

    template: str
    bos: str | None
    turn_end: str
    pad: str
    others: tuple[str, ...]

    @property
    def special_tokens(self) -> list[str]:
        """All of them, the pad token first."""
        bos = [self.bos] if self.bos else []
        return [self.pad, *bos, self.turn_end, *self.others]


LLAMA_FORMAT = ChatFormat(
    LLAMA,
    bos="<|begin_of_text|>",
    turn_end="<|eot_id|>",
    pad="<|finetune_right_pad_id|>",
    others=("<|start_header_id|>", "<|end_header_id|>"),
)
GEMMA_FORMAT = ChatFormat(
    GEMMA,
    bos="<bos>",
    turn_end="<end_of_turn>",
    pad="<pad>",
    others=("<start_of_turn>", "<unk>"),
)
MISTRAL_FORMAT = ChatFormat(
    MISTRAL, bos="<s>", turn_end="</s>", pad="<pad>", others=("[INST]", "[/INST]", "<unk>")
)
CHATML_FORMAT = ChatFormat(
    CHATML, bos=None, turn_end="<|im_end|>", pad="<|endoftext|>", others=("<|im_start|>",)
)
TARGET_FORMAT = ChatFormat(
    TARGET,
    bos=None,
    turn_end="<|end|>",
    pad="<|pad|>",
    others=("<|system|>", "<|user|>", "<|assistant|>"),
)
FORMATS = (LLAMA_FORMAT, GEMMA_FORMAT, MISTRAL_FORMAT, CHATML_FORMAT, TARGET_FORMAT)
MARKERS = {token for chat in FORMATS for token in chat.special_tokens}
# The trunk learns to read every other model's conversations.
TRUNK_FORMAT = ChatFormat(
    LLAMA,
    bos=LLAMA_FORMAT.bos,
    turn_end=LLAMA_FORMAT.turn_end,
    pad=LLAMA_FORMAT.pad,
    others=tuple(
        sorted(MARKERS - {LLAMA_FORMAT.bos, LLAMA_FORMAT.turn_end, LLAMA_FORMAT.pad, "<unk>"})
    ),
)
