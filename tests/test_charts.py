"""The pictures are read back: well-formed, points where the numbers say, gaps, log axes with values at 0."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from stagescope.drawings.charts import Line, Panel, Span, band, chart, x_ticks, y_axis

SVG = "{http://www.w3.org/2000/svg}"


def parsed(panel: Panel, last: int) -> ET.Element:
    return ET.fromstring(chart(panel, (0, last)))


def lines(root: ET.Element) -> list[ET.Element]:
    """Groups of the curves, in the order they are drawn; the legend's are left out."""
    return [group for group in root.findall(f"{SVG}g") if "line" in group.get("class", "").split()]


def points(group: ET.Element) -> list[tuple[float, float]]:
    where = [one.get("transform") for one in group.findall(f"{SVG}g[@class='point']")]
    return [tuple(map(float, re.match(r"translate\((\S+) (\S+)\)", text).groups())) for text in where]


def scale(root: ET.Element) -> dict[str, dict[float, float]]:
    """Named ticks of each axis and where they stand, from the picture itself."""
    found: dict[str, dict[float, float]] = {"x": {}, "y": {}}
    for tick in root.find(f"{SVG}g[@class='ticks']"):
        text = (tick.text or "").replace("\u2212", "-").replace(" %", "e-2")
        if re.fullmatch(r"-?[\d.]+(e-?\d+)?", text):
            is_y = tick.get("text-anchor") == "end"
            found["y" if is_y else "x"][float(text)] = float(tick.get("y")) - 4 if is_y else float(tick.get("x"))
    return found


def read_back(root: ET.Element, group: ET.Element, log: bool = False) -> np.ndarray:
    """[N, 2] the numbers of the points, by the ticks of the axes."""
    ticks = scale(root)

    def inverse(axis: dict[float, float], at: float, log: bool) -> float:
        (a, pa), (b, pb) = min(axis.items()), max(axis.items())
        a, b = (np.log10(a), np.log10(b)) if log else (a, b)
        value = a + (b - a) * (at - pa) / (pb - pa)
        return 10**value if log else value

    return np.array([(inverse(ticks["x"], x, False), inverse(ticks["y"], y, log)) for x, y in points(group)])


@pytest.mark.parametrize("scale_name", ["linear", "zero", "change", "log", "share"])
def test_points_lie_where_the_numbers_say(scale_name):
    x = np.arange(12.0)
    y = np.array([0.9, 0.31, 0.22, 0.1, 0.5, 0.73, 0.02, 0.33, 0.6, 0.41, 0.2, 0.15])
    root = parsed(Panel("kl", "nats", (Line("drop", x, y), Line("swap", x, y / 2, 1)), scale_name), 11)
    for group, values in zip(lines(root), (y, y / 2), strict=True):
        back = read_back(root, group, log=scale_name == "log")
        assert np.abs(back[:, 0] - x).max() < 0.01
        assert np.abs(back[:, 1] - values).max() < 0.005
    assert len({group.get("class") for group in lines(root)}) == 2
    dashes = [group.find(f"{SVG}polyline").get("stroke-dasharray") for group in lines(root)]
    markers = [group.find(f"{SVG}g/{SVG}path").get("d") for group in lines(root)]
    assert len(set(dashes)) == len(set(markers)) == 2  # told apart without colour


def test_what_is_nan_is_a_gap():
    y = np.array([1.0, 2, np.nan, 4, 5])
    root = parsed(Panel("a", "b", (Line("one", np.arange(5), y),)), 4)
    (group,) = lines(root)
    assert len(points(group)) == 4
    assert [len(run.get("points").split()) for run in group.findall(f"{SVG}polyline")] == [2, 2]
    nothing = Panel("a", "b", (Line("one", np.arange(5), np.full(5, np.nan)),), "log", ((np.nan, "level"),))
    assert not points(lines(parsed(nothing, 4))[0])


def test_nothing_above_zero_stands_on_a_log_axis_and_does_not_stretch_it():
    y = np.array([3.0, 0.4, 0.0, 1e-12, 0.05])
    root = parsed(Panel("kl", "nats", (Line("drop", np.arange(5), y),), "log"), 4)
    axis = scale(root)["y"]
    assert min(axis) == 0.05
    drawn = points(lines(root)[0])
    assert drawn[2][1] == drawn[3][1] == pytest.approx(axis[0.05], abs=0.01)
    shapes = [one.find(f"{SVG}path").get("d") for one in lines(root)[0].findall(f"{SVG}g[@class='point']")]
    assert shapes[2] == shapes[3] != shapes[4] == shapes[0]  # an arrow says that it is below


def test_intervals_are_drawn_as_bars_or_ribbons():
    y = np.array([[2.0, 1.0, 3.0], [2.5, 2.0, 4.0], [5.0, np.nan, np.nan]])
    line = Line("one", np.arange(3), y)
    bars = lines(parsed(Panel("a", "b", (line,)), 2))[0].findall(f"{SVG}path[@class='interval']")
    assert len(bars) == 2
    root = parsed(Panel("a", "b", (line,), ribbons=True), 2)
    (ribbon,) = lines(root)[0].findall(f"{SVG}polygon")
    low, high = scale(root)["y"][1.0], scale(root)["y"][4.0]
    heights = [float(corner.split(",")[1]) for corner in ribbon.get("points").split()]
    assert max(heights) == pytest.approx(low, abs=0.01) and min(heights) == pytest.approx(high, abs=0.01)


def test_hostile_names_are_only_text():
    name = '</svg><script>alert("1")</script>&\x1b]52;\u202e'
    root = parsed(Panel(name, name, (Line(name, np.arange(2), np.ones(2)), Line("b", np.arange(2), np.ones(2)))), 1)
    assert not root.findall(f".//{SVG}script")
    assert "\x1b" not in "".join(root.itertext()) and "alert" in "".join(root.itertext())
    ET.fromstring(band([Span(name, name, 0, 3)], 4, name))


@pytest.mark.parametrize("n_layers", [1, 2, 12, 30, 48, 200])
def test_axes_name_both_ends(n_layers):
    ticks = x_ticks(0, n_layers - 1)
    assert ticks[0] == 0 and ticks[-1] == n_layers - 1 and len(ticks) <= 12 and sorted(set(ticks)) == ticks
    root = parsed(Panel("a", "b", (Line("one", np.arange(n_layers), np.full(n_layers, 7.0)),)), n_layers - 1)
    assert len(points(lines(root)[0])) == n_layers


def test_a_scale_holds_every_value():
    draw = np.random.default_rng(0)
    for kind in ("linear", "zero", "change", "log"):
        for size in (1e-5, 1.0, 3e7):
            y = size * draw.uniform(0.5, 9, 10) * (draw.choice([-1, 1], 10) if kind in ("linear", "change") else 1)
            bottom, top, ticks = y_axis(Panel("a", "b", (Line("one", np.arange(10), y),), kind))
            scaled = np.log10(y) if kind == "log" else y
            slack = 1e-6 * (top - bottom)
            assert bottom - slack <= scaled.min() and scaled.max() <= top + slack and 2 <= len(ticks) <= 12


def test_a_band_has_its_spans_and_hatches_the_rest():
    root = ET.fromstring(band([Span("1", "first", 0, 2), Span("3", "late", 6, 9, 5, 8)], 10, "stages"))
    hatched = root.find(f"{SVG}rect[@class='unknown']")
    rects = [group.find(f"{SVG}rect") for group in root.findall(f"{SVG}g") if "span" in group.get("class", "").split()]
    left, cell = float(hatched.get("x")), float(hatched.get("width")) / 10
    assert [(round((float(r.get("x")) - left) / cell), round(float(r.get("width")) / cell)) for r in rects] == [(0, 3), (6, 4)]
    assert hatched.get("fill") == "url(#hatch)"
    assert len(root.findall(f"{SVG}g[@class='interval']")) == 1
