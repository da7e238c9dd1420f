"""What a plugin's tests need: the runtime contract, as tests (needs pytest), and a running server.

`jackfield.testing.conformance` beside it checks servers.

Example:
    ```python
    from jackfield.testing import RuntimeContract


    class TestOnnx(RuntimeContract):
        @pytest.fixture
        def spec(self): ...

        @pytest.fixture
        def model_dir(self, tmp_path): ...

        @pytest.fixture
        def example(self): ...
    ```
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jackfield.testing._running import RunningServer, running
    from jackfield.testing.contract import RuntimeContract

__all__ = ["RunningServer", "RuntimeContract", "running"]


def __getattr__(name: str) -> object:
    """Import what is asked for: `conformance` and `running` beside the contract need no pytest."""
    if name in ("RunningServer", "running"):
        from jackfield.testing import _running

        return getattr(_running, name)
    if name not in __all__:
        message = f"module 'jackfield.testing' has no attribute '{name}'"
        raise AttributeError(message)
    import pytest

    # before the import, so that a failed assertion in there shows its values
    pytest.register_assert_rewrite("jackfield.testing.contract")
    from jackfield.testing.contract import RuntimeContract

    globals()[name] = RuntimeContract
    return RuntimeContract
