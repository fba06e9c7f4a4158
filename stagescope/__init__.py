"""stagescope: a terminal microscope for the layers of a language model.

    import stagescope as ss
    m = ss.load("smollm2-135m")
    print(m.read("The capital of France is", "drop 7; swap 11 12"))

docs/api.md tells what else a model can be asked. Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from stagescope.answers import Answer as Answer
    from stagescope.api import Model as Model
    from stagescope.api import Sweeps as Sweeps
    from stagescope.api import load as load
    from stagescope.engine.compare_messages import Comparison as Comparison
    from stagescope.engine.compare_messages import TakeComparison as TakeComparison
    from stagescope.engine.protocol import Attribution as Attribution
    from stagescope.engine.protocol import Census as Census
    from stagescope.engine.protocol import CorpusSweep as CorpusSweep
    from stagescope.engine.protocol import EngineError as EngineError
    from stagescope.engine.protocol import Evidence as Evidence
    from stagescope.engine.protocol import FindHeads as FindHeads
    from stagescope.engine.protocol import FindToken as FindToken
    from stagescope.engine.protocol import Generate as Generate
    from stagescope.engine.protocol import Generation as Generation
    from stagescope.engine.protocol import HeadPattern as HeadPattern
    from stagescope.engine.protocol import HeadScores as HeadScores
    from stagescope.engine.protocol import LensCurves as LensCurves
    from stagescope.engine.protocol import Load as Load
    from stagescope.engine.protocol import MapStages as MapStages
    from stagescope.engine.protocol import ModelInfo as ModelInfo
    from stagescope.engine.protocol import Neurons as Neurons
    from stagescope.engine.protocol import Probe as Probe
    from stagescope.engine.protocol import Progress as Progress
    from stagescope.engine.protocol import Read as Read
    from stagescope.engine.protocol import Reading as Reading
    from stagescope.engine.protocol import ShowNeurons as ShowNeurons
    from stagescope.engine.protocol import ShowPattern as ShowPattern
    from stagescope.engine.protocol import Similarity as Similarity
    from stagescope.engine.protocol import StageMap as StageMap
    from stagescope.engine.protocol import Sweep as Sweep
    from stagescope.engine.protocol import SweepCorpus as SweepCorpus
    from stagescope.engine.protocol import SweepRow as SweepRow
    from stagescope.engine.protocol import TakeAttribution as TakeAttribution
    from stagescope.engine.protocol import TakeCensus as TakeCensus
    from stagescope.engine.protocol import TakeEvidence as TakeEvidence
    from stagescope.engine.protocol import TakeLens as TakeLens
    from stagescope.engine.protocol import TakeProbe as TakeProbe
    from stagescope.engine.protocol import TakeSimilarity as TakeSimilarity
    from stagescope.engine.protocol import TakeSweep as TakeSweep
    from stagescope.engine.protocol import Texts as Texts
    from stagescope.engine.schedule import Schedule as Schedule
    from stagescope.engine.schedule import ScheduleError as ScheduleError
    from stagescope.engine.schedule import parse as parse
    from stagescope.engine.tokens import Token as Token

_NAMES = {  # where each is found, once it is asked for
    "stagescope.api": ("load", "Model", "Sweeps"),
    "stagescope.answers": ("Answer",),
    "stagescope.engine.schedule": ("parse", "Schedule", "ScheduleError"),
    "stagescope.engine.tokens": ("Token",),
    "stagescope.engine.compare_messages": ("Comparison", "TakeComparison"),
    "stagescope.engine.protocol": (
        *("Attribution", "Census", "CorpusSweep", "EngineError", "Evidence", "FindHeads", "FindToken", "Generate"),
        *("Generation", "HeadPattern"),
        *("HeadScores", "LensCurves", "Load", "MapStages", "ModelInfo", "Neurons", "Probe", "Progress", "Read", "Reading"),
        *("ShowNeurons", "ShowPattern", "Similarity", "StageMap", "Sweep", "SweepCorpus", "SweepRow", "TakeAttribution"),
        *("TakeCensus", "TakeEvidence", "TakeLens", "TakeProbe", "TakeSimilarity", "TakeSweep", "Texts"),
    ),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted([*_MODULE_OF, "__version__"])  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'stagescope' has no attribute {name!r}")
    import_module("stagescope.showing")  # so that what it gives can show itself
    found = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
