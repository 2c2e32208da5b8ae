"""Tables of tasks, one suite a file."""

from ..tasks import Task
from . import captionstew, clap2023, maeb, own, quick, slap

SUITES: dict[str, tuple[Task, ...]] = {
    "quick": quick.TASKS,
    "slap": slap.TASKS,
    "clap2023": clap2023.TASKS,
    "captionstew": captionstew.TASKS,
    "maeb": maeb.TASKS,
    "own": own.TASKS,
}
