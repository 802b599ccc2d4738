"""Where it runs: connect to or start Ray, what it holds, what fits, jobs on it."""
