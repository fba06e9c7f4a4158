"""The cache of results: what is put comes back, and no disk, other process or damage makes a reading fail."""

import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import stagescope
from stagescope.engine import cache, wire
from stagescope.engine.protocol import Census, ModelInfo, Progress, Reading
from stagescope.engine.tokens import Token

NAME = "reading-0"


pytestmark = pytest.mark.usefixtures("home")  # an empty one for every test


def a_reading(seed: int = 0, n_layers: int = 3, baseline: Reading | None = None) -> Reading:
    n, t, k = n_layers + 1, 4, 2
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        array = rng.normal(size=shape).astype(np.float32)
        array.flat[:: max(1, array.size // 3)] = np.nan
        return array

    return Reading(
        model=ModelInfo("tiny", "test", "Test", n_layers, 8, 16, 2, 50, 128, prefix=Token(0, "⟨eot⟩"), loaded=True),
        prompt="caf\udce9 ☕\n",
        tokens=tuple(Token(i, f" {i}") for i in range(t)),
        schedule="drop 1" if baseline else "",
        lens="standard",
        positions=(0, 1, 2, 3),
        layers=((), (0,), (1, 2), (3,)),
        top_ids=rng.integers(0, 50, (n, t, k)).astype(np.int32),
        top_p=draw(n, t, k),
        tracked=rng.integers(0, 50, t).astype(np.int32),
        baseline_depth=(0, None, 2, 3),
        texts={3: "a", 41: "\u202e"},
        baseline=baseline,
        milliseconds=12.5,
        **{name: draw(t) for name in ("effect_kl_nats", "effect_top1_same", "effect_entropy_bits")},
        **{
            name: draw(n, t)
            for name in ("entropy_bits kl_final_nats tracked_rank tracked_p resid_norm attn_norm mlp_norm "
                         "kl_nats resid_rel resid_cos top1_same").split()
        },
    )  # fmt: skip


def a_census(n: int = 5) -> Census:
    counts = {name: np.arange(n, dtype=np.int32) for name in "high prediction suppression unsigned partition".split()}
    shapes = {name: np.full((n, 7), n / 3, np.float64) for name in "variance skew kurtosis".split()}
    shapes |= {"sign": np.ones((n, 7), np.int8), "consistency": np.ones((n, 7), np.float32)}
    return Census("tiny", "f" * 16, "corpus", 256, 0.004, 7, **counts, **shapes)


def same(ours, theirs) -> bool:
    """Byte for byte, NaN included, but for the mark of the cache."""
    return wire.encode(replace(ours, cached=False)) == wire.encode(replace(theirs, cached=False))


def entries() -> list[Path]:
    return sorted(cache.folder().iterdir()) if cache.folder().is_dir() else []


def test_what_is_put_comes_back_marked():
    for name, message in (("reading-1", a_reading(baseline=a_reading(1))), ("census-1", a_census())):
        assert cache.get(name) is None and not cache.has(name)
        cache.put(name, message)
        found = cache.get(name)
        assert cache.has(name) and found.cached and not message.cached and same(found, message)


def test_the_index_names_what_is_there():
    for number in range(40):
        cache.put(f"reading-{number}", a_reading(baseline=a_reading()))
    listed = [json.loads(line) for line in cache.index_file().read_text().strip().splitlines()]
    assert [line["name"] for line in listed] == [f"reading-{number}" for number in range(40)]
    assert listed[3]["schedule"] == "drop 1" and listed[3]["bytes"] == cache.file_of("reading-3").stat().st_size
    with cache.index_file().open("ab") as index:
        index.write(b'\n{"name": "cut by a ki')
    cache.put("reading-100", a_reading(), limit_bytes=2 * listed[0]["bytes"])
    assert [json.loads(line)["name"] for line in cache.index_file().read_text().strip().splitlines()] == [
        file.stem for file in sorted(entries(), key=lambda file: file.stat().st_mtime_ns)
    ]
    cache.index_file().unlink()
    assert cache.get("reading-100")


def test_the_last_put_counts():
    cache.put(NAME, a_reading(1))
    cache.put(NAME, a_reading(2))
    assert same(cache.get(NAME), a_reading(2)) and len(entries()) == 1


def test_folders_and_files_are_private(home):
    old = os.umask(0)
    try:
        cache.put(NAME, a_reading())
    finally:
        os.umask(old)
    for place in (home, home / "cache", cache.folder()):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
    for file in entries():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_looking_something_up_makes_no_folder(home):
    assert cache.get(NAME) is None and not cache.has(NAME)
    assert not home.exists()


# ------------------------------------------------------------------------------------------------ damage


def damaged(whole: bytes) -> dict[str, bytes]:
    n = len(whole)
    cut = {f"cut to {size}": whole[:size] for size in (0, 1, 3, 4, 5, 8, 9, 20, n // 4, n // 2, n - 8, n - 1)}
    flipped = {
        f"bit of byte {place}": whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        for place in (0, 3, 4, 7, 8, 20, n // 3, n // 2, n - 1)
    }
    others = {
        "zeros": bytes(n),
        "empty page at the end": whole[: n - 512] + bytes(512),
        "longer": whole + b"\0",
        "twice": whole * 2,
        "random": np.random.default_rng(0).bytes(n),
        "text": b"version https://example.org/spec/v1\n",
    }
    return cut | flipped | others


def test_a_damaged_file_is_a_miss_and_goes():
    cache.put(NAME, a_reading())
    file = entries()[0]
    for what, data in damaged(file.read_bytes()).items():
        file.write_bytes(data)
        assert cache.get(NAME) is None, what
        assert not file.exists(), what
        cache.put(NAME, a_reading())
        assert same(cache.get(NAME), a_reading()), what


@pytest.mark.parametrize("foreign", [Progress("no result", 0.5), (1, 2), None])
def test_an_entry_that_is_no_result_is_a_miss(foreign):
    cache.put(NAME, foreign)
    assert cache.get(NAME) is None and not cache.has(NAME)


def test_a_folder_in_an_entrys_place_is_a_miss():
    cache.put("reading-1", a_reading())
    cache.file_of(NAME).mkdir()
    assert cache.get(NAME) is None and not cache.has(NAME)
    cache.put(NAME, a_reading())
    assert cache.get(NAME) is None
    assert same(cache.get("reading-1"), a_reading())


# ------------------------------------------------------------------------------------------ failing disks


@pytest.mark.parametrize("blocked", ["", "cache", "cache/results"])
def test_a_folder_that_cannot_be_fails_nothing(home, blocked):
    """A file in the folder's place: not even root can write there."""
    (home / blocked).parent.mkdir(parents=True, exist_ok=True)
    (home / blocked).write_text("in the way")
    cache.put(NAME, a_reading())
    assert cache.get(NAME) is None and not cache.has(NAME)
    assert (home / blocked).read_text() == "in the way"


def test_a_full_disk_fails_nothing_and_leaves_nothing(monkeypatch):
    cache.put("reading-1", a_reading())

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        cache.put(NAME, a_reading())
        cache.put("reading-1", a_reading(7))
    assert [file.stem for file in entries()] == ["reading-1"]
    assert same(cache.get("reading-1"), a_reading())


def test_an_entry_whose_time_cannot_be_set_is_still_read(monkeypatch):
    cache.put(NAME, a_reading())

    def refuse(*_args, **_keywords):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    assert same(cache.get(NAME), a_reading())


# --------------------------------------------------------------------------------------------- the limit


def use_in_order(*names: str) -> None:
    """Give entries times of use a minute apart, the first named the oldest."""
    for minute, name in enumerate(names):
        os.utime(cache.file_of(name), (1e9 + 60 * minute, 1e9 + 60 * minute))


def test_the_least_recently_used_go_first():
    names = [f"reading-{number}" for number in range(1, 6)]
    for name in names:
        cache.put(name, a_reading())
    size = entries()[0].stat().st_size
    use_in_order(*names)
    assert cache.get("reading-1")  # used now, so it stays
    cache.put("reading-60", a_reading(), limit_bytes=3 * size)
    assert [file.stem for file in entries()] == ["reading-1", "reading-5", "reading-60"]
    cache.put("reading-70", a_reading(), limit_bytes=3 * size)
    assert [file.stem for file in entries()] == ["reading-1", "reading-60", "reading-70"]


def test_below_the_limit_all_stay_and_an_entry_above_it_goes():
    for number in range(0, 100, 10):
        cache.put(f"reading-{number}", a_reading())
    assert len(entries()) == 10
    cache.put(NAME, a_reading(), limit_bytes=10)
    assert not entries()


def test_every_sixteenth_put_looks_through_the_folder(monkeypatch):
    looked = []
    monkeypatch.setattr(cache, "_shrink", looked.append)
    for number in range(160):
        cache.put(cache.key("reading", number), a_reading())
    assert 0 < len(looked) < 30  # 10 expected


def test_what_a_killed_process_left_is_no_entry_and_goes_with_the_oldest():
    """Killed between the first byte and the rename: the name still shows the whole old entry."""
    cache.put(NAME, a_reading())
    left = cache.file_of(".stagescope-abcdef")
    left.write_bytes(entries()[0].read_bytes()[:100])
    use_in_order(left.stem, NAME)
    assert same(cache.get(NAME), a_reading())
    cache.put("reading-10", a_reading(), limit_bytes=2 * cache.file_of(NAME).stat().st_size)
    assert [file.stem for file in entries()] == [NAME, "reading-10"]


def test_a_folder_of_very_many_entries():
    cache.put("reading-1", a_reading())
    for number in range(3000):
        cache.file_of(f"old-{number}").touch()
    use_in_order(*(f"old-{number}" for number in range(3000)))
    cache.put(NAME, a_reading())
    assert len(entries()) == 3002 and cache.has("reading-1")
    cache.put(NAME, a_reading(), limit_bytes=cache.file_of(NAME).stat().st_size)
    assert [file.stem for file in entries()] == [NAME]


# ------------------------------------------------------------------------------------------ two processes

BUSY = """
import sys
import test_cache as here
from stagescope.engine import cache
which, message = int(sys.argv[1]), here.a_reading(int(sys.argv[1]))
for turn in range(60):
    cache.put("reading-shared", message)
    cache.put(f"reading-{which}-{turn}0", message, limit_bytes=400_000)
    found = cache.get("reading-shared")
    assert found is None or any(here.same(found, here.a_reading(seed)) for seed in (1, 2)), turn
"""


def test_two_processes_write_at_once():
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(stagescope.__file__).parent.parent)])
    command = [sys.executable, "-c", BUSY]
    both = [
        subprocess.Popen([*command, str(which)], env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.PIPE)
        for which in (1, 2)
    ]
    for process in both:
        _, told = process.communicate(timeout=60)
        assert process.returncode == 0 and not told, told.decode()
    assert all(cache.get(file.stem) for file in entries())
    assert not [file for file in entries() if file.name.startswith(".")]


# -------------------------------------------------------------------------------------------------- keys


def test_a_key_depends_on_everything(monkeypatch):
    from stagescope.engine.schedule import parse, resolve

    def key(**changed) -> str:
        parts = dict(fingerprint="a" * 16, ids=(0, 1, 2), schedule="", lens="standard", dtype="float32", top=8,
                     tracked=None) | changed  # fmt: skip
        parts["schedule"] = resolve(parse(parts["schedule"]), 6)
        return cache.key(changed.get("kind", "reading"), *parts.values())

    changes = [
        dict(kind="census"), dict(fingerprint="b" * 16), dict(ids=(0, 1)), dict(ids=(0, 2, 1)), dict(ids=(0, 12)),
        dict(schedule="drop 1"), dict(schedule="drop 1 mean"), dict(schedule="drop 1 @ 2"), dict(schedule="swap 1 2"),
        dict(schedule="attn-off 1"), dict(schedule="mlp-off 1"), dict(schedule="parallel 1-2"), dict(lens="v1"),
        dict(dtype="bfloat16"), dict(top=5), dict(tracked=0), dict(tracked=1),
    ]  # fmt: skip
    keys = [key(), *(key(**change) for change in changes)]
    assert len(set(keys)) == len(keys)
    assert key() == key() and key(schedule="drop 1-2") == key(schedule="DROP  2; drop 1")
    monkeypatch.setattr(cache, "__version__", "99")
    assert key() not in keys


def test_a_key_is_the_same_in_every_process():
    """No hash() of a string, which differs from one process to the next."""
    code = "from stagescope.engine import cache; print(cache.key('reading', 'f', (1, 2), 'standard', None))"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1
    assert runs.pop().decode().strip() == cache.key("reading", "f", (1, 2), "standard", None)
