"""What a plugin's tests inherit: the runtime contract, as tests. Needs pytest.

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

import pytest

# before the import, so that a failed assertion in there shows its values
pytest.register_assert_rewrite("jackfield.testing.contract")

from jackfield.testing.contract import RuntimeContract  # noqa: E402  see above

__all__ = ["RuntimeContract"]
