"""From scored answers to training rows: which answer is best, which pair teaches, what is dropped.

    answers    what the rules need of an answer, its judgement, and which answers are left out
    fitting    which answers are too long to train on
    pairs      the best and the worst answer of one source, the margin, which source gives the pair
    split      which prompts become sft rows and which preference pairs
    rows       the two tables
    possible   whether a recipe can give a row at all
    yields     how much came of every data set and source, and where the rest went

Every rule has a total order behind it, so neither the order nor the sharding of the input matters.
"""

from fusion.selection.answers import describe
from fusion.selection.fitting import Room, longest_row
from fusion.selection.possible import why_no_rows
from fusion.selection.select import Choice, Selected, choose, fill, select
from fusion.selection.yields import PromptYield, SourceYield, Yields

__all__ = [
    "Choice",
    "PromptYield",
    "Room",
    "Selected",
    "SourceYield",
    "Yields",
    "choose",
    "describe",
    "fill",
    "longest_row",
    "select",
    "why_no_rows",
]
