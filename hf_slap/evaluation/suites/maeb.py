"""MAEB (arXiv 2602.16008), run by mteb itself. Beside each task's own score mteb's files keep the rest."""

from ..tasks import Task

TASKS = (
    Task("maeb", "mteb", "MAEB(beta)", "mean", "MAEB(beta) of mteb: 30 tasks; the mean of their main scores"),
    Task("maeb-audio-only", "mteb", "MAEB(beta, audio-only)", "mean", "MAEB(beta, audio-only) of mteb: 19 tasks"),
)
