"""Settings: a flag before the environment before the file before the default, and a clear word on what cannot be."""

import json
import re
import stat
import sys
from pathlib import Path

import pytest
from textual.theme import BUILTIN_THEMES

from stagescope import actions, cli, config, console, paths, settings
from stagescope.commands import arguments, parsers, session_parser, tour

OTHERS = {  # setting -> (in the file, its value, of the environment, its value)
    "model": ('"gpt2"', "gpt2", "phi-2", "phi-2"),
    "device": ('"cpu"', "cpu", "cuda:1", "cuda:1"),
    "dtype": ('"float16"', "float16", "bfloat16", "bfloat16"),
    "threads": ("3", 3, "5", 5),
    "memory": ('"3G"', 3 * 2**30, "512M", 512 * 2**20),
    "bos": ('"none"', "none", "<s>", "<s>"),
    "cache": ("2097152", 2 * 2**20, "1G", 2**30),
    "theme": ('"nord"', "nord", "stagescope-light", "stagescope-light"),
    "color": ('"mono"', "mono", "16", "16"),
    "glyphs": ('"ascii"', "ascii", "unicode", "unicode"),
    "mouse": ("false", False, "yes", True),
    "recording": ("false", False, "1", True),
}


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("STAGESCOPE_HOME", str(tmp_path))
    for setting in settings.TABLE:
        monkeypatch.delenv(setting.environment, raising=False)
    config.path().parent.mkdir()
    return config.path()


def run(capsys, *words: str):
    with pytest.raises(SystemExit) as ended:
        cli.main(list(words))
    return ended.value.code or 0, *capsys.readouterr()


# ------------------------------------------------------------------------------------------------- precedence


def test_every_setting_is_tried_here():
    assert set(OTHERS) == set(settings.NAMED)


@pytest.mark.parametrize("name", OTHERS)
def test_a_flag_goes_before_the_environment_that_before_the_file_and_that_before_the_default(name, file, monkeypatch):
    setting, (in_file, of_file, word, of_environment) = settings.NAMED[name], OTHERS[name]
    assert config.settings()[name] == (setting.default, "default")
    file.write_text(f"{name} = {in_file}\n")
    assert config.settings()[name] == (of_file, "file")
    monkeypatch.setenv(setting.environment, word)
    assert config.settings()[name] == (of_environment, "environment")
    assert config.value(name) == of_environment and config.value(name, "of a flag") == "of a flag"
    file.write_text("")
    assert config.settings()[name] == (of_environment, "environment")


def test_an_empty_variable_says_nothing(file, monkeypatch):
    monkeypatch.setenv("STAGESCOPE_DTYPE", " ")
    assert config.settings()["dtype"].source == "default"


FLAGS = {"model": "gpt2", "device": "cpu", "dtype": "float16", "threads": "7", "memory": "7M", "bos": "x"}


@pytest.mark.parametrize("command", ["read", "sweep", "attribution", "lens"])
def test_what_a_command_loads_is_said_by_flags_environment_and_file(command, file, monkeypatch):
    parse = {
        "read": lambda words: parsers.command_parser("read").parse_args(words),
        "sweep": parsers.sweep_arguments,
        "attribution": lambda words: parsers.cause_arguments("attribution", words),
        "lens": lambda words: parsers.stage_arguments("lens", words),
    }[command]
    file.write_text('model = "phi-2"\ndevice = "cuda:3"\ndtype = "bfloat16"\nthreads = 2\nmemory = "1G"\nbos = "none"\n')
    load = arguments.load_request(parse(["hello"]))
    assert (load.model, load.device, load.dtype, load.threads) == ("phi-2", "cuda:3", "bfloat16", 2)
    assert (load.memory, load.bos) == (2**30, "none")
    monkeypatch.setenv("STAGESCOPE_MODEL", "gpt2-xl")
    monkeypatch.setenv("STAGESCOPE_THREADS", "auto")
    load = arguments.load_request(parse(["hello"]))
    assert (load.model, load.threads, load.device) == ("gpt2-xl", None, "cuda:3")
    load = arguments.load_request(parse(["hello", *(word for name in FLAGS for word in (f"--{name}", FLAGS[name]))]))
    assert (load.model, load.device, load.dtype, load.threads, load.memory, load.bos) == ("gpt2", "cpu", "float16", 7, 7 * 2**20, "x")
    assert arguments.load_request(parse(["hello", "--device", "auto", "--threads", "auto"])).device is None


@pytest.fixture
def loaded(monkeypatch) -> list:
    """What was asked to be loaded; nothing is."""
    from stagescope.engine import local
    from stagescope.engine.protocol import EngineError

    asked = []

    def answer(self, request):
        asked.append(request)
        raise EngineError("missing", "nothing is loaded here.")

    monkeypatch.setattr(local.LocalEngine, "answer", answer)
    return asked


def test_a_flag_of_auto_holds_where_the_app_gives_way_to_a_reading(capsys, file, loaded):
    file.write_text('device = "cuda:1"\nthreads = 3\nmodel = "gpt2"\n')
    assert run(capsys, "--device", "auto", "hello")[:2] == (3, "")
    assert (loaded[-1].device, loaded[-1].threads, loaded[-1].model) == (None, 3, "gpt2")
    run(capsys, "hello", "--chat", "--no-cache", "--offline")
    assert loaded[-1].device == "cuda:1" and loaded[-1].chat and loaded[-1].offline and not loaded[-1].cache


def test_a_session_gone_on_with_where_there_is_no_terminal_keeps_its_device_and_threads(capsys, file, loaded):
    from stagescope.engine.protocol import Load
    from stagescope.sessions import files

    recording = files.begin(Load("phi-2"))
    recording.write({"event": "prompt", "prompt": "hello"})
    recording.close()
    path = recording.path
    file.write_text('device = "cuda:1"\nthreads = 3\nmodel = "gpt2"\n')
    assert run(capsys, "--session", str(path))[0] == 3 and loaded[-1] == Load("phi-2")
    assert run(capsys, "--session", str(path), "--threads", "2")[0] == 3 and loaded[-1] == Load("phi-2", threads=2)


def test_without_settings_a_command_loads_what_the_engine_says(file):
    from stagescope.engine.protocol import Load

    assert arguments.load_request(parsers.command_parser("read").parse_args(["hello"])) == Load()
    assert Load().model == settings.NAMED["model"].default


OPENS_THE_APP = {  # command -> its parser
    "": lambda words: parsers.app_parser().parse_args(words),
    "tour": tour.arguments,
    "session watch": lambda words: session_parser.arguments(["watch", "last", *words]),
}


@pytest.mark.parametrize("command", OPENS_THE_APP)
def test_flags_of_the_app_go_first(command, file, monkeypatch):
    monkeypatch.setattr(actions, "ACTIONS", actions.ACTIONS)  # so that it is taken back
    parse, no_record = OPENS_THE_APP[command], [] if command == "session watch" else ["--no-record"]
    file.write_text('color = "16"\nglyphs = "ascii"\nmouse = false\nrecording = false\ntheme = "nord"\n[keys]\ndrop = "Z"\n')
    look = arguments.app_look(parse([]))
    assert look == {"record": False, "theme": "nord", "color": "16", "ascii_only": True, "mouse": False}
    assert actions.find("explore", "drop").keys == ("Z",)
    file.write_text("")
    look = arguments.app_look(parse(["--color", "256", "--ascii", "--no-mouse", *no_record]))
    assert look == {"record": not no_record, "theme": "stagescope", "color": "256", "ascii_only": True, "mouse": False}


def test_the_bound_of_the_cache_reaches_the_engine(file, monkeypatch):
    monkeypatch.setenv("STAGESCOPE_CACHE", "")  # so that what is set is taken back
    config.hand_on()
    assert paths.cache_bytes() == 512 * 2**20
    file.write_text('cache = "3M"\n')
    config.hand_on()
    assert paths.cache_bytes() == 3 * 2**20  # of this process, and of every one it starts
    monkeypatch.setenv("STAGESCOPE_CACHE", "nonsense")
    config.hand_on()
    assert paths.cache_bytes() == 512 * 2**20  # the engine goes on; the command tells it
    with pytest.raises(config.ConfigError, match="STAGESCOPE_CACHE is nonsense"):
        config.settings()


# ----------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("\n\nmodle = 'x'", "line 3: no setting is called modle: did you mean model\\? There is model, device"),
        ("zzz = 1", r"line 1: no setting is called zzz\. There is"),
        ("model = 3", "line 1: model is 3: give a catalogue name"),
        ("model = ' '", "line 1: model is  : give"),
        ("device = 'gpu'", "line 1: device is gpu: give auto, cpu, cuda or cuda:N"),
        ("dtype = 'float23'", r"dtype is float23: give one of auto, float32, bfloat16, float16 \(did you mean float32\?\)"),
        ("dtype = ['float32']", "dtype is .* give one of"),
        ("threads = 0", "threads is 0: give auto, or 1 to 1024"),
        ("threads = 99999", "threads is 99999: give"),
        ("threads = true", "threads is true: give"),
        ("threads = 1.5", "threads is 1.5: give"),
        ("memory = 'lots'", "memory is lots: give bytes, or a number with K, M or G"),
        ("memory = -1", "memory is -1: give bytes"),
        ("cache = '1K'", "cache is 1K: give .* 1M or more"),
        ("bos = ''", "bos is empty: give"),
        ("theme = 'nrod'", r"theme is nrod: give one of stagescope, .* \(did you mean nord\?\)"),
        ("color = 256", "color is 256: give one of auto, truecolor, 256"),
        ("glyphs = 'emoji'", "glyphs is emoji: give one of unicode, ascii"),
        ("mouse = 1", "mouse is 1: give true or false"),
        ("recording = 'yes'", "recording is yes: give true or false"),
        ("recording = ", "is no TOML: .*line 1"),
        ("mouse = true\nmouse = false", "is no TOML: .*line 2"),
        ("model = '\x1b[31m'", "is no TOML"),
        ('model = 1979-05-27\nx = "a\\u001b]52;c;AA"', "model is"),
        ("a = " + "[" * 3000, "is no TOML"),
        ("[model]\nname = 'x'", "line 1: model is .* give"),
        ("keys = 'x'", r"line 1: keys is a table: write \[keys\]"),
        ("[keys]\n\ndorp = 'x'", "line 3: no action is called dorp: did you mean drop"),
        ("[keys.explor]\ndrop = 'x'", "line 1: no place is called explor: did you mean explore"),
        ("[keys]\nexplore.dorp = 'X'", "line 2: no action of explore is called dorp: did you mean drop"),
        ("[keys]\ndrop = 'esc'", r"line 2: esc is no key: did you mean escape\?"),
        ("[keys]\ndrop = 'hyper+x'", r"line 2: hyper\+x is no key: "),
        ("[keys]\ndrop = 'shift+d'", r"shift\+d is no key: a capital letter"),
        ("[keys]\ndrop = ''", "an empty text is no key"),
        ("[keys]\ndrop = 5", 'drop is 5: give a key, as "x"'),
        ("[keys]\ndrop = ['x', 5]", "drop is .* give a key"),
        ("[keys]\ndrop = ['Z', 'Z']", "drop has a key twice"),
        ("[keys]\ndrop = 'ctrl+i'", r"ctrl\+i comes from a terminal as tab"),
        ("[keys]\ndrop = 'u'", "line 2: u is the key of undo .* in explore: give drop another, or undo too"),
        ("[keys]\ndrop = 'ctrl+c'", r"ctrl\+c is the key of interrupt .* everywhere"),
        ("[keys]\ndrop = 'Z'\nattn = 'Z'", "Z is the key of"),
        ("[keys]\nview = 'right_square_bracket'", r"\] is the key of deck_forward"),
        ("[keys]\nquit = []", "line 2: quit has no key left"),
        ("[keys]\nhelp = []", "help has no key left"),
        ("[keys]\nback = []", "back has no key left"),
        ("[keys]\nprompt.leave = 'x'", "prompt.leave is x, which could not be typed"),
        ("[keys]\ncommand_palette = 'p'", "command_palette is p, which could not be typed"),
        ("\udcff", "line 1: this is no UTF-8 text"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_the_file_is_told_with_its_place(file, text, told):
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(config.ConfigError) as error:
        config.settings()
    assert str(error.value).startswith(str(file)) and re.search(told, str(error.value)), error.value
    assert "\x1b" not in str(error.value)


@pytest.mark.parametrize(
    ("variable", "word", "told"),
    [
        ("STAGESCOPE_DEVICE", "gpu0", "STAGESCOPE_DEVICE is gpu0: give auto, cpu"),
        ("STAGESCOPE_DTYPE", "fp32", "STAGESCOPE_DTYPE is fp32: give one of auto, float32"),
        ("STAGESCOPE_THREADS", "0", "STAGESCOPE_THREADS is 0: give auto, or 1"),
        ("STAGESCOPE_MEMORY", "2T", "STAGESCOPE_MEMORY is 2T: give bytes"),
        ("STAGESCOPE_CACHE", "1", "STAGESCOPE_CACHE is 1: give bytes"),
        ("STAGESCOPE_THEME", "pink", "STAGESCOPE_THEME is pink: give one of"),
        ("STAGESCOPE_COLOR", "88", "STAGESCOPE_COLOR is 88: give one of auto"),
        ("STAGESCOPE_GLYPHS", "braille", "STAGESCOPE_GLYPHS is braille: give one of"),
        ("STAGESCOPE_MOUSE", "maybe", "STAGESCOPE_MOUSE is maybe: give true or false .*1 or 0"),
        ("STAGESCOPE_RECORD", "maybe\x1b", r"STAGESCOPE_RECORD is maybe\\u\{1b\}: give true or false"),
    ],
)
def test_what_is_wrong_in_the_environment_is_told_with_its_name(file, monkeypatch, variable, word, told):
    monkeypatch.setenv(variable, word)
    with pytest.raises(config.ConfigError, match=told):
        config.settings()


def test_a_file_that_cannot_be_read_is_told(file):
    file.mkdir()
    with pytest.raises(config.ConfigError, match="cannot be read .* make it a file"):
        config.settings()


@pytest.mark.parametrize("word", ["0", "x", "1.5", "99999"])
def test_a_flag_is_checked_as_the_setting_is(capsys, file, word):
    code, out, err = run(capsys, "read", "x", "--threads", word)
    assert (code, out) == (2, "") and f"argument --threads: {word}: give auto, or 1 to 1024." in err


@pytest.mark.parametrize("command", [("read", "x"), ("models",), ("doctor",), ("session", "replay", "last"), ()], ids=" ".join)
@pytest.mark.parametrize(
    ("name", "word"),
    [("model", " "), ("device", "cuda:x"), ("dtype", "fp32"), ("threads", "-1"), ("memory", "2T"), ("bos", ""), ("color", "88")],
)
def test_every_flag_of_the_machine_is_checked_by_the_table(capsys, file, command, name, word):
    setting = settings.NAMED[name]
    code, out, err = run(capsys, *command, f"{setting.flag}={word}")
    assert (code, out) == (2, "") and f"{setting.flag}: {settings.short(word)}: give {setting.kind.allowed}" in err


def test_the_help_of_a_flag_is_what_the_table_says(capsys, file):
    told = " ".join(run(capsys, "read", "--help")[1].split())
    for name in (*config.OF_LOAD, "color"):
        assert f"{settings.NAMED[name].kind.allowed}. {settings.NAMED[name].help}" in told


def test_a_token_of_blanks_may_be_the_prefix(file):
    assert arguments.load_request(parsers.command_parser("read").parse_args(["hello", "--bos", "\n"])).bos == "\n"


@pytest.mark.parametrize(
    "words", [["read", "x", "--json"], ["sweep", "x"], ["lens", "x"], ["heads"], ["compare", "x", "--edit", "drop 1", "--with-edit", "drop 2"], [], ["hello"]]
)
def test_a_broken_file_ends_what_needs_it_before_anything_is_loaded(capsys, file, words):
    file.write_text("modle = 1")
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "") and err.startswith(f"stagescope: {file}, line 1: no setting is called modle")


@pytest.mark.parametrize("words", [["config", "path"], ["where"], ["--help"], ["read", "--help"], ["models"], ["config", "--help"]])
def test_a_broken_file_leaves_alone_what_does_not(capsys, file, words):
    file.write_text("modle = ")
    assert run(capsys, *words)[0] == 0


def test_the_doctor_finds_a_broken_file(capsys, file):
    file.write_text("modle = 1")
    code, out, _ = run(capsys, "doctor", "--json", "--device", "cpu")
    (found,) = [finding for finding in json.loads(out)["findings"] if finding["what"] == "settings"]
    assert code == 1 and found["state"] == "fail" and "modle" in found["detail"]
    file.write_text('model = "gpt2"')
    found = {finding["what"]: finding for finding in json.loads(run(capsys, "doctor", "--json", "--device", "cpu")[1])["findings"]}
    assert found["settings"]["state"] == "ok" and str(file) in found["settings"]["detail"]
    assert "gpt2" in found and f"{file}" in run(capsys, "where")[1]


def terminal_found(capsys, *words: str) -> str:
    found = json.loads(run(capsys, "doctor", "--json", "--device", "cpu", *words)[1])["findings"]
    return next(finding["detail"] for finding in found if finding["what"] == "terminal")


def test_the_doctor_tells_the_colours_that_are_sent_and_why_no_more_only_where_it_knows(capsys, file, monkeypatch):
    for name in ("COLORTERM", "NO_COLOR", "TMUX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    ssh = " (ssh does not forward COLORTERM)"
    assert f"sent: 256{ssh}" in terminal_found(capsys)
    assert "sent: 16" in terminal_found(capsys, "--color", "16") and ssh not in terminal_found(capsys, "--color", "16")
    for term in ("xterm-kitty", "screen-256color"):  # has 24 bits all the same; would not have them with it
        monkeypatch.setenv("TERM", term)
        assert ssh not in terminal_found(capsys)
    file.write_text('color = "mono"')
    found = terminal_found(capsys)
    assert "sent: mono" in found and ssh not in found


# ------------------------------------------------------------------------------------------- the command config


def test_show_says_every_setting_and_where_it_comes_from(capsys, file, monkeypatch):
    file.write_text('threads = 3\ntheme = "nord"\n[keys]\nexplore.drop = ["Z", "ctrl+x"]\n')
    monkeypatch.setenv("STAGESCOPE_THEME", "dracula")
    code, out, _ = run(capsys, "config", "show", "--json")
    shown = json.loads(out)
    assert code == 0 and shown["schema"] == "config/1" and shown["file"] == str(file)
    rows = {row["name"]: row for row in shown["settings"]}
    assert list(rows) == list(settings.NAMED)
    assert (rows["threads"]["value"], rows["threads"]["from"]) == (3, "file")
    assert (rows["theme"]["value"], rows["theme"]["from"], rows["theme"]["environment"]) == ("dracula", "environment", "STAGESCOPE_THEME")
    assert (rows["memory"]["value"], rows["memory"]["from"]) == (2**31, "default")
    assert shown["keys"] == [{"place": "explore", "action": "drop", "keys": ["Z", "ctrl+x"]}]
    plain = run(capsys, "config")[1]
    assert re.search(r"threads +3 +config.toml", plain) and re.search(r"theme +dracula +STAGESCOPE_THEME", plain)
    assert re.search(r"memory +2G +default", plain) and re.search(r"explore.drop +config.toml +Z ctrl\+x", plain)


def test_show_says_of_the_cache_too_where_it_comes_from(capsys, file, monkeypatch):
    monkeypatch.setenv("STAGESCOPE_CACHE", "")  # so that what is set is taken back
    file.write_text('cache = "3M"\n')
    assert re.search(r"cache +3M +config.toml", run(capsys, "config")[1])
    run(capsys, "where")
    assert paths.cache_bytes() == 3 * 2**20  # every other command hands it on


def test_show_tells_what_is_wrong(capsys, file):
    file.write_text("threads = 0")
    assert run(capsys, "config", "show")[:2] == (2, "")


def test_path(capsys, file):
    assert run(capsys, "config", "path")[:2] == (0, f"{file}\n")
    code, _, err = run(capsys, "config", "path", "--json")
    assert code == 2 and "--json goes with show" in err


def editor(tmp_path, code: str) -> str:
    script = tmp_path / "an editor.py"
    script.write_text(f"import sys\nfrom pathlib import Path\nfile = Path(sys.argv[-1])\n{code}\n")
    return f"'{sys.executable}' '{script}' --wait"


def test_edit_makes_a_private_file_in_which_every_setting_stands(capsys, file, tmp_path, monkeypatch):
    file.parent.rmdir()
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", editor(tmp_path, "file.unlink(), file.write_text('threads = 4')"))
    text = []
    write = paths.write_atomic
    monkeypatch.setattr(paths, "write_atomic", lambda at, data: (text.append(data.decode()), write(at, data)))
    assert run(capsys, "config", "edit")[0] == 0
    assert all(f"# {name} = " in text[0] for name in settings.NAMED) and "[keys]" in text[0]
    assert config.settings()["threads"].value == 4
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    monkeypatch.setenv("VISUAL", editor(tmp_path, "file.write_text('threads = 5')"))  # before EDITOR
    assert run(capsys, "config", "edit")[0] == 0 and config.settings()["threads"].value == 5


def test_edit_tells_what_came_out_wrong_and_can_be_run_again(capsys, file, tmp_path, monkeypatch):
    monkeypatch.setenv("VISUAL", editor(tmp_path, "file.write_text('threads = 0')"))
    code, _, err = run(capsys, "config", "edit")
    assert code == 2 and "line 1: threads is 0" in err
    monkeypatch.setenv("VISUAL", editor(tmp_path, "file.write_text('')"))
    assert run(capsys, "config", "edit")[0] == 0


def test_edit_without_an_editor_says_what_to_do(capsys, file, tmp_path, monkeypatch):
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.delenv("EDITOR", raising=False)
    code, _, err = run(capsys, "config", "edit")
    assert code == 2 and "Set VISUAL or EDITOR" in err and str(file) in err and file.exists()
    monkeypatch.setenv("EDITOR", "/no/such/editor")
    code, _, err = run(capsys, "config", "edit")
    assert code == 2 and "/no/such/editor does not start" in err
    monkeypatch.setenv("EDITOR", "'unclosed")
    assert run(capsys, "config", "edit")[0] == 2
    monkeypatch.setenv("EDITOR", editor(tmp_path, "sys.exit(3)"))
    code, _, err = run(capsys, "config", "edit")
    assert code == 1 and "ended with 3" in err


def test_edit_in_a_folder_that_cannot_be_made_is_one_line(capsys, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STAGESCOPE_HOME", str(tmp_path / "file"))
    code, _, err = run(capsys, "config", "edit")
    assert code == 1 and "set STAGESCOPE_HOME" in err and "Traceback" not in err


# ---------------------------------------------------------------------------------------- what the table says


def test_the_template_says_the_defaults(file):
    file.write_text(settings.template())
    assert all(value.source == "default" for value in config.settings().values())
    bare = [line.removeprefix("# ") for line in settings.template().splitlines() if re.match(r"# (\w+ =|\[keys\]|\w+\.\w+ =)", line)]
    file.write_text("\n".join(line for line in bare if not line.startswith("drop")))
    assert all(found == (settings.NAMED[name].default, "file") for name, found in config.settings().items())
    assert config.keys() == {("explore", "lens_curves"): ("f", "ctrl+f"), ("explore", "pin"): ()}


def test_docs_configuration_is_what_the_table_says():
    page = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text("utf-8")
    assert page == settings.page(page), "stale: make settings"


def test_docs_configuration_names_every_place():
    page = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text("utf-8")
    named = re.search(r"a place as there: ([\w,\s]+)\.", page)[1]
    assert re.split(r",\s+", named) == list(dict.fromkeys(named.replace(",", "").split()))
    assert set(named.replace(",", "").split()) == {action.place for action in actions.ACTIONS}


def test_the_themes_are_those_there_are():
    from stagescope import themes

    assert set(settings.THEMES) == {*settings.HOUSE_THEMES, *BUILTIN_THEMES}
    assert set(settings.HOUSE_THEMES) <= {theme.name for theme in themes.HOUSE}


def test_devices_are_those_of_the_engine():
    from stagescope.engine.load import DEVICES

    assert settings.DEVICES == f"auto|{DEVICES}"


# ------------------------------------------------------------------------------------------------------ colours


@pytest.mark.parametrize(
    ("environment", "depth"),
    [
        ({"TERM": "xterm-256color"}, "256"),  # ssh, which forwards no COLORTERM
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, "truecolor"),
        ({"TERM": "tmux-256color", "TMUX": "x", "COLORTERM": "24bit"}, "truecolor"),
        ({"TERM": "screen-256color", "TMUX": "x"}, "256"),
        ({"TERM": "screen-256color", "COLORTERM": "truecolor"}, "256"),  # GNU screen
        ({"TERM": "screen-256color", "TMUX": "x", "COLORTERM": "truecolor"}, "truecolor"),
        ({"TERM": "xterm-direct"}, "truecolor"),
        ({"TERM": "xterm-kitty"}, "truecolor"),
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor", "NO_COLOR": "1"}, "mono"),
        ({"TERM": "xterm-256color", "NO_COLOR": ""}, "256"),
    ],
)
def test_auto_sends_what_the_terminal_shows(monkeypatch, environment, depth):
    for name in ("TERM", "COLORTERM", "NO_COLOR", "TMUX"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert console.color_depth() == depth
    assert console.color_depth("16") == "16"  # said is said, NO_COLOR or not


@pytest.mark.parametrize(("colours", "depth"), [(8, "16"), (16, "16"), (256, "256"), (-1, "mono")])
def test_other_terminals_are_looked_up(monkeypatch, colours, depth):
    monkeypatch.setenv("TERM", "sun-color")
    monkeypatch.delenv("COLORTERM", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(console, "_terminfo_colours", lambda term: colours)
    assert console.color_depth() == depth


def test_the_example_of_the_docs_is_allowed(file):
    page = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text("utf-8")
    file.write_text(re.search(r"```toml\n(.*?)```", page, re.DOTALL)[1])
    assert config.keys()["sweep", "open"] == ("enter", "space") and config.keys()["explore", "lens_curves"] == ("F",)


def test_a_command_to_read_again_means_the_same_here_and_elsewhere(file):
    from stagescope.engine.protocol import Load, Read
    from stagescope.exports.again import read_command

    asked = Read("x", top=5)
    assert read_command(Load(), asked) == "stagescope read x"
    file.write_text('model = "gpt2"\ndevice = "cuda:1"\n')
    told = read_command(Load(model="gpt2", dtype="float16"), asked)
    assert told == "stagescope read --model gpt2 --device auto --dtype float16 x"
    assert "--model smollm2-135m" in read_command(Load(), asked)
    file.write_text("broken")
    assert read_command(Load(), asked) == "stagescope read x"
