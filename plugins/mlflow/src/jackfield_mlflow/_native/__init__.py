"""The fast path: serve a flavour by the plugin of its framework, where it answers as pyfunc does.

Decided once, when a model loads: what MLmodel says comes first (`_plan`), then both answer some
rows (`_trials`), and the plugin serves only if it gives the same bits (`_choice`). A request that
does not fit the signature (`_reader`) is left to pyfunc, which says what is wrong with it
(`_serving`).
"""

from jackfield_mlflow._native._choice import Choice, choose
from jackfield_mlflow._native._plan import METHODS
from jackfield_mlflow._native._serving import Native

__all__ = ["METHODS", "Choice", "Native", "choose"]
