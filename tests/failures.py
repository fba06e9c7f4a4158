import pytest

from stagescope.engine.protocol import EngineError, Failure


def failure(call, *args, **kwargs) -> Failure:
    """The Failure of the EngineError that a call must raise."""
    with pytest.raises(EngineError) as caught:
        call(*args, **kwargs)
    return caught.value.failure
