"""Loads every module of the program, for processes that fork: what they import no fork has to import again."""

from __future__ import annotations

import functools
import gc
import pkgutil
from contextlib import suppress
from importlib import import_module

import typer.main

import transporter
from transporter.cli import main as program


def load_every_module() -> None:
    """Import them, and take what is there by then out of the forks' collectors."""
    for module in pkgutil.walk_packages(transporter.__path__, "transporter."):
        if not module.name.endswith("__main__"):
            # Some need what need not be installed; whoever imports them says so then.
            with suppress(ModuleNotFoundError):
                import_module(module.name)
    remember_parameters()
    typer.main.get_command(program.make_app([]))
    gc.collect()
    gc.freeze()


def remember_parameters() -> None:
    """Have typer read the signature of each command once in a process: half of what it takes to run a command.

    It reads all of a group's whenever one of them is run, twice. The answer is what it was, and nobody changes it.
    """
    if not hasattr(typer.main.get_params_from_function, "cache_info"):
        typer.main.get_params_from_function = functools.cache(typer.main.get_params_from_function)
