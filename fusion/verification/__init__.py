"""Checks answers: maths, exact text, multiple choice, and code under an isolator."""

from fusion.verification.task import Limits, Malformed, Task, Verdict
from fusion.verification.verifier import VERIFIERS, Verifier, Verifiers, verify

__all__ = [
    "VERIFIERS",
    "Limits",
    "Malformed",
    "Task",
    "Verdict",
    "Verifier",
    "Verifiers",
    "verify",
]
