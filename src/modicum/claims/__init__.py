"""A paper's claim, checked: arms, seeds, paired differences, an interval and a verdict.

A study trains every *arm* with every seed, evaluates each network on data that no choice was made
on, and compares the arms a claim names, seed by seed. An arm is the last of a chain of *stages*,
each trained by a recipe of the method; there is no second training loop for demonstrations.
"""

from modicum.claims.claim import (
    ArmResult,
    Claim,
    Picture,
    Study,
    StudyResult,
    Verdict,
    Word,
    judge,
    judge_study,
    summarise,
)
from modicum.claims.runner import run_study
from modicum.claims.stages import Stage

__all__ = [
    "ArmResult",
    "Claim",
    "Picture",
    "Stage",
    "Study",
    "StudyResult",
    "Verdict",
    "Word",
    "judge",
    "judge_study",
    "run_study",
    "summarise",
]
