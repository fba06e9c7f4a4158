"""The words of the explore screen's single lines: header, jobs, failures, footer. Plain functions of data, all text harmless."""

from __future__ import annotations

import math
import re
from collections.abc import Collection

from rich.cells import cell_len
from textual.content import Content

from stagescope import actions
from stagescope.engine.protocol import Failure, ModelInfo, Progress, Reading
from stagescope.engine.schedule import ScheduleError
from stagescope.screens.widgets.glyphs import number
from stagescope.text import fit, printable

EMPTY = "the prompt is empty: type one"
UNKNOWN = "the model's layers are not known yet"


def header(
    info: ModelInfo | None, reading: Reading | None, state: str, width: int, mark: Content = Content("")
) -> Content:
    """Model and state; then, as far as the width allows: time of the reading, layers, what the weights are,
    dtype, noise floor. mark: at the right edge, whatever the width."""
    name = Content.styled("stagescope", "bold $primary")
    if info is None:
        return _at_right(Content.assemble(name, "  ", state), mark, width)
    source = printable(info.source)
    in_short = re.split("[,;]", re.sub(r" ?\([^)]*\)", "", source))[0]  # "4-bit dequantised to fp32"
    parts = {  # as drawn, from the left
        "name": printable(info.name),
        "source": in_short,
        "layers": f"{info.n_layers} layers",
        "dtype": info.dtype,
        "device": info.device + (f" {info.bytes / 2**30:.1f} GiB" if info.loaded and info.bytes else ""),
        "took": "" if reading is None else "cached" if reading.cached else f"{reading.milliseconds:.0f} ms",
        "state": state,
        "noise": "" if math.isnan(info.noise_kl) else f"noise floor KL {number(info.noise_kl)}",
    }
    kept, room = set(), width - len("stagescope  ") - (mark.cell_length + 2 if mark else 0)
    for part in ("name", "state", "took", "layers", "source", "device", "dtype", "noise"):
        cells = cell_len(parts[part]) + 3
        if parts[part] and (cells - 3 <= room or part == "name"):
            kept.add(part)
            room -= cells
    if "source" in kept and cell_len(source) - cell_len(in_short) <= room:
        room -= cell_len(source) - cell_len(in_short)
        parts["source"] = source
    words = " · ".join(text for part, text in parts.items() if part in kept and part != "noise")
    noise = parts["noise"] if "noise" in kept else ""
    gap = " " * (max(room, 0) + 3) if noise else ""
    return _at_right(Content.assemble(name, "  ", words, gap, (noise, "$foreground 60%")), mark, width)


def _at_right(line: Content, mark: Content, width: int) -> Content:
    if not mark:
        return line
    room = width - mark.cell_length
    line = line.truncate(room - 1, ellipsis=True)
    return Content.assemble(line, " " * (room - line.cell_length), mark)


def stage(job: Progress) -> str:
    """ "census of neurons 42 % · 0:31 left" """
    text = printable(job.stage) + ("" if math.isnan(job.done) else f" {100 * job.done:.0f} %")
    if math.isnan(job.seconds_left):
        return text
    minutes, seconds = divmod(round(job.seconds_left), 60)
    return f"{text} · {minutes}:{seconds:02d} left"


def progress(job: Progress, cancel: str = "back") -> str:
    """cancel: the action that ends it."""
    return f"{stage(job)} · {actions.key(cancel)} cancels"


def failure(reply: Failure) -> str:
    hint = "" if "\n" in reply.hint else reply.hint  # carets below a schedule: they make no sense on this line
    return printable(f"{reply.message} {hint}".strip())


def schedule_error(error: ScheduleError, indent: int, width: int) -> Content:
    """Carets under the place (the schedule is drawn from cell `indent`), the reason where it fits best."""
    start, end = (indent + cell_len(printable(error.text[:stop])) for stop in (error.start, error.end))
    start = min(start, width - 1)
    end = min(max(end, start + 1), width)
    carets, reason = ("^" * (end - start), "bold $text-error"), (printable(error.reason), "$text-error")
    if end + 1 + cell_len(reason[0]) <= width:
        return Content.assemble(" " * start, carets, " ", reason)
    if cell_len(reason[0]) < start:
        return Content.assemble(fit(reason[0], start - 1), " ", carets).stylize("$text-error")
    return Content.assemble(" " * start, carets, "\n", reason)


def footer(width: int, place: str, without: Collection[str] = ()) -> Content:
    """The most wanted keys that fit, of the screen or of the line being typed; a click does the same.

    without: actions that can do nothing now.
    """
    parts = []
    for action in actions.footer(width, place, without):
        key = Content.styled(actions.key_name(action.keys[0]), "bold $primary")
        words = Content.assemble(key, " ", (action.label, "$foreground"))
        parts += [words.stylize(f"@click=screen.{action.name}()"), "  "]
    return Content.assemble(*parts)
