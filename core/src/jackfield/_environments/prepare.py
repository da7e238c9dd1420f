"""Make or find the environment that a model's settings ask for."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING

from jackfield._cache_folder import cache_folder
from jackfield._environments.given import complete
from jackfield._environments.made import create
from jackfield._environments.resolver import Resolver
from jackfield._environments.running import Running
from jackfield._environments.store import Store
from jackfield._environments.uv import mask
from jackfield.errors import ModelLoadError

if TYPE_CHECKING:
    from pathlib import Path

    from jackfield._environments.environment import Environment
    from jackfield.settings import EnvironmentSettings

logger = logging.getLogger("jackfield")


def prepare(
    settings: EnvironmentSettings, folder: Path, running: Running | None = None
) -> Environment:
    """Make or find an environment; blocks, for minutes where packages must be downloaded.

    Args:
        settings: What it holds.
        folder: The folder of the settings file, to which its paths are relative.
        running: What runs for the same server or load, by which it can be given up; None for
            nothing else.

    Raises:
        ModelLoadError: It can't be made, whatever the reason; with the resolver's words where they
            say why.
    """
    running = running or Running()
    try:
        store = Store(cache_folder("environments"), running.check)
        resolver = Resolver(settings, folder, store, running)
        return complete(resolver) if settings.path else create(resolver)
    except OSError as error:
        # a full disk, a cache that may not be written
        raise ModelLoadError(f"environment: {error}") from error
    except ModelLoadError as error:
        raise ModelLoadError(f"environment: {error.problem}") from error
    # whatever lies in the cache or in what was given, it is one model's matter
    except Exception as error:
        trace = "".join(traceback.format_exception(error))
        logger.error("an environment can't be made:\n%s", mask(trace))
        problem = f"environment: {type(error).__name__}: {mask(str(error))}"
        raise ModelLoadError(problem) from error
