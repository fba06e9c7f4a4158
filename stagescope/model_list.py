"""The models there are: what lies on this machine first, then what can be fetched, with what each takes. Without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stagescope.engine import catalog, directory, fit, store
from stagescope.engine.protocol import EngineError


@dataclass(frozen=True)
class Listed:
    name: str  # what to give to --model
    directory: Path | None  # None: not here
    bytes: int | None  # on disk; of one that is not here about what is fetched
    parameters: int | None
    dtype: str  # that would be chosen, or that was asked for; auto where that cannot be told
    memory: int | None  # bytes that the weights take in it
    free: int | None  # bytes, where it would run; None: not known
    note: str

    @property
    def size(self) -> str:
        """on disk 0.50 GiB; fetch  ~0.51 GiB"""
        place = "on disk " if self.directory else "fetch  ~"
        return f"{place}{gib(self.bytes)}" if self.bytes is not None else place.rstrip(" ~")

    @property
    def need(self) -> str:
        """0.50 GiB fp32; 27.5 GiB bf16, 21.8 free"""
        if self.memory is None:
            return ""
        short = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[self.dtype]
        return f"{gib(self.memory)} {short}" + (f", {gib(self.free).removesuffix(' GiB')} free" if self.fits is False else "")

    @property
    def fits(self) -> bool | None:
        """In what is free; None: not known."""
        return None if self.memory is None or self.free is None else self.memory <= self.free


def listed(free: fit.Free, dtype: str = "auto") -> list[Listed]:
    here = [_listed(e.name, e.directory, e.bytes, _parameters(e.directory), e.note, free, dtype) for e in store.on_disk()]
    names = {entry.name for entry in here}
    there = [
        _listed(known.name, None, known.download, known.parameters, known.note, free, dtype)
        for known in catalog.MODELS
        if known.name not in names
    ]
    return here + there


def _listed(
    name: str, place: Path | None, size: int | None, parameters: int | None, note: str, free: fit.Free, dtype: str
) -> Listed:
    told = parameters is not None and free.bytes is not None
    chosen = fit.auto_dtype(parameters, free.bytes) if dtype == "auto" and told else dtype
    memory = None if parameters is None or chosen == "auto" else parameters * fit.BYTES[chosen]
    return Listed(name, place, size, parameters, chosen, memory, free.bytes, note)


def _parameters(place: Path) -> int | None:
    try:
        return directory.parameters(place) or None
    except (EngineError, OSError):  # not whole: its note says so
        return None


def gib(n: int) -> str:
    """0.50 GiB; 27.5 GiB"""
    return f"{n / 2**30:.{2 if n < 10 * 2**30 else 1}f} GiB"
