"""A screen beside the stack by itself, on the fake engine."""

from contextlib import asynccontextmanager
from dataclasses import replace

from test_explore import until
from textual.app import App

from stagescope.engine.fake import FakeEngine
from stagescope.engine.protocol import Load
from stagescope.screens.asking import Looked

PROMPT = "The Eiffel Tower is in"  # 6 tokens with the prefix in the fake's tokenizer


class Bench(App):
    """`shown` is the screen; `results` is what it was dismissed with."""

    def __init__(self, engine, screen):
        super().__init__()
        self.engine, self.shown, self.results = engine, screen, []

    def on_mount(self) -> None:
        self.push_screen(self.shown, self.results.append)


def is_due(screen) -> bool:
    """A drawing, or a question that waits for the cursor to rest."""
    return screen.drawing is not None or screen.moved or screen.pause is not None


async def settled(pilot) -> None:
    """Until what is looked at is there, and drawn."""
    s = pilot.app.shown
    await until(pilot, lambda: s.is_known(s.wanted()) and not s.running and not is_due(s))


async def press(pilot, *keys: str) -> None:
    """The keys, and what follows them."""
    await pilot.press(*keys)
    await until(pilot, lambda: not is_due(pilot.app.shown))


@asynccontextmanager
async def beside(
    kind, engine=None, settled=settled, *, size=(80, 24), prompt=PROMPT, schedule="", position=-1, tracked=None,
    census=None, ascii_only=False, **info,
):  # fmt: skip
    """(screen, pilot, engine), by default when what is looked at is there; settled: None does not wait. info: of the model."""
    engine = engine or FakeEngine()
    engine.info = replace(engine.info, loaded=True, **info)
    engine.loaded.set()
    screen = kind(Looked(engine.info, Load(), prompt, schedule, position, tracked, census, ascii_only))
    app = Bench(engine, screen)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.screen is screen and engine.requests)
        if settled is not None:
            await settled(pilot)
        yield screen, pilot, engine
