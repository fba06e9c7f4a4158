"""What the edit keys do to a schedule. No screen in here."""

from __future__ import annotations

from stagescope.engine.schedule import Plan, Schedule, attn_off, drop, mlp_off, repeat, swap, toggle


class CannotEdit(Exception):
    """A key that makes no sense on this row; says why."""


def key_edit(
    verb: str, schedule: Schedule, plan: Plan, layer: int, place: int | None, towards: int = 0
) -> Schedule:
    """The schedule after an edit key on `layer`, which runs at `place` of `plan` (None: it does not run).

    verb: drop | attn | mlp | swap | repeat. towards: +1 exchanges with the place that runs after, -1 before.
    Raises CannotEdit; the result may still be refused by `resolve` (a layer already dropped).
    """
    match verb:
        case "drop":
            return toggle(schedule, drop(layer))
        case "attn":
            return toggle(schedule, attn_off(layer))
        case "mlp":
            return toggle(schedule, mlp_off(layer))
        case "repeat":
            return toggle(schedule, repeat(layer))
    if place is None:
        raise CannotEdit(f"layer {layer} does not run, so there is nothing to swap")
    if not 0 <= place + towards < len(plan):
        end = "last" if towards > 0 else "first"
        raise CannotEdit(f"layer {layer} already runs {end}: nothing to swap it with")
    neighbours = plan[place + towards]
    if len(neighbours) > 1:
        raise CannotEdit(f"layer {layer} stands beside a parallel group: swap single layers")
    if neighbours[0].layer == layer:
        raise CannotEdit(f"layer {layer} stands beside its own copy: swap two different layers")
    return toggle(schedule, swap(*sorted((layer, neighbours[0].layer))))
