"""Files and hub data sets to prompts, to answers sampled elsewhere, and to training rows."""

from fusion.ingest.answers import AnswerMapping, ImportedAnswers, import_answers, map_answers
from fusion.ingest.ingest import Ingested, ingest_datasets, ingest_key
from fusion.ingest.matches import Drop
from fusion.ingest.prompts import PromptMapping, map_rows
from fusion.ingest.reading import DataPath, check_data_path, read_rows
from fusion.ingest.rewards import import_rewards, map_rewards
from fusion.ingest.rows import DatasetCounts
from fusion.ingest.training import read_training_rows

__all__ = [
    "AnswerMapping",
    "DataPath",
    "DatasetCounts",
    "Drop",
    "ImportedAnswers",
    "Ingested",
    "PromptMapping",
    "check_data_path",
    "import_answers",
    "import_rewards",
    "ingest_datasets",
    "ingest_key",
    "map_answers",
    "map_rewards",
    "map_rows",
    "read_rows",
    "read_training_rows",
]
