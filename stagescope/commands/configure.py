"""The command `config`: the settings shown, and their file found and edited. Path and edit work whatever the file says."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess

from stagescope import config, paths, settings
from stagescope.console import print_json, say

ACTIONS = {
    "show": "every setting, its value and where that comes from (the default)",
    "path": "where the file is, or would be",
    "edit": "open it in $VISUAL or $EDITOR, made from a template if there is none; checked afterwards",
}


def arguments(words: list[str]) -> argparse.Namespace:
    listing = "\n".join(f"  {name:6} {text}" for name, text in ACTIONS.items())
    parser = argparse.ArgumentParser(
        prog="stagescope config",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"The settings.\n\nactions:\n{listing}",
        epilog="A flag goes before the environment, that before config.toml, and that before the default.",
    )
    parser.add_argument("action", nargs="?", default="show", choices=tuple(ACTIONS), metavar="ACTION", help="show, path or edit")
    parser.add_argument("--json", action="store_true", help="of show: JSON on stdout")
    args = parser.parse_args(words)
    if args.json and args.action != "show":
        parser.error("--json goes with show")
    return args


def config_command(args: argparse.Namespace) -> int:
    """Raises ConfigError."""
    match args.action:
        case "path":
            print(config.path())
            return 0
        case "edit":
            return _edit()
        case _:
            return _show(args.json)


def _show(as_json: bool) -> int:
    found, keys = config.settings(), config.keys()
    if as_json:
        rows = [
            {"name": s.name, "value": found[s.name].value, "from": found[s.name].source, "environment": s.environment,
             "flag": s.flag or None, "default": s.default, "help": s.help}
            for s in settings.TABLE
        ]  # fmt: skip
        of_keys = [{"place": place, "action": action, "keys": list(them)} for (place, action), them in keys.items()]
        print_json({"schema": "config/1", "file": str(config.path()), "settings": rows, "keys": of_keys})
        return 0
    for setting in settings.TABLE:
        at, source = found[setting.name]
        told = {"environment": setting.environment, "file": "config.toml"}.get(source, source)
        print(f"{setting.name:10} {settings.harmless(settings.shown(setting, at)):22} {told:22} {setting.help}".rstrip())
    for (place, action), them in keys.items():
        print(f"{'key':10} {f'{place}.{action}':22} {'config.toml':22} {' '.join(them) or 'none'}")
    print(f"\n{config.path()}{'' if config.path().exists() else ' (not there: stagescope config edit makes it)'}")
    return 0


def _edit() -> int:
    file = config.path()
    try:
        paths.config_dir()
        if not file.exists():
            paths.write_atomic(file, settings.template().encode())
    except OSError as error:
        say(f"stagescope: {error}")
        return 1
    editor = os.environ.get("VISUAL", "").strip() or os.environ.get("EDITOR", "").strip()
    if not editor:
        say(f"stagescope: no editor is named. Set VISUAL or EDITOR, as in EDITOR=nano, or open {settings.harmless(str(file))} yourself.")
        return 2
    try:
        code = subprocess.call([*shlex.split(editor), str(file)])
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        say(f"stagescope: the editor {settings.harmless(editor)} does not start ({why}). Set VISUAL or EDITOR, or open {settings.harmless(str(file))} yourself.")
        return 2
    if code:
        say(f"stagescope: {settings.harmless(editor)} ended with {code}.")
        return 1
    if file.is_file() and not file.is_symlink():
        file.chmod(0o600)  # editors that write a new file give it their own mode
    config.settings()
    return 0
