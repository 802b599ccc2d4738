"""The page of the endpoint: ask the sources, compare their answers, look at a run's pairs."""
