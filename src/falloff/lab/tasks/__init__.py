"""What is learned and tested, one file each: a file in this folder with a public `Task` is all that a new one needs."""

import pkgutil
from importlib import import_module

from falloff.lab.tasks.base import Measure, Outcome, Task


def _tasks() -> dict[str, type[Task]]:
    """The public tasks in the files of this folder, "text" first."""
    modules = [import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules(__path__)]
    found = [
        task
        for module in modules
        for task in vars(module).values()
        if isinstance(task, type)
        and issubclass(task, Task)
        and hasattr(task, "name")
        and task.__module__ == module.__name__
        and not task.__name__.startswith("_")
    ]
    return {task.name: task for task in sorted(found, key=lambda task: (task.name != "text", task.name))}


TASKS: dict[str, type[Task]] = _tasks()
"""Every task by its name on the command line."""

__all__ = ["TASKS", "Measure", "Outcome", "Task"]
