"""What `slap` can do, and the group that imports a command's module only when the command is used.

A command is a function with typer's annotations in a module of this package, and a line in `COMMANDS`. Its docstring is
its help; what follows a line `Examples:` keeps its lines. Heavy libraries are imported inside functions.
"""

import inspect
import io
import re
from contextlib import redirect_stdout, suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from typer.core import TyperCommand, TyperGroup

LISTEN, LIBRARY, MODELS = "Listen", "A library of sounds", "Models"
# name: (module of this package, what the list of commands says, panel); the function has the command's name
COMMANDS = {
    "demo": ("demo", "Try the model that ships on the sounds that ship.", LISTEN),
    "classify": ("listen", "Which of your labels fit a sound.", LISTEN),
    "caption": ("listen", "Say in words what is heard.", LISTEN),
    "timeline": ("timeline", "What happens when in a long recording.", LISTEN),
    "embed": ("listen", "Turn sounds into vectors, any number of any length.", LISTEN),
    "index": ("library", "Make folders of sounds searchable.", LIBRARY),
    "search": ("library", "Find sounds by words, or by an example.", LIBRARY),
    "app": ("app", "A page in the browser for all of this.", LISTEN),
    "info": ("work", "Sizes, training and scores of a model; length and format of a sound.", MODELS),
    "eval": ("work", "Judge a model on a suite of tasks.", MODELS),
    "prepare": ("work", "Turn downloaded sources into one corpus to train on.", MODELS),
    "train": ("work", "Pretrain or fine-tune as a configuration file says.", MODELS),
    "export": ("publish", "Make the folder of a model that goes to the Hub, and check it.", MODELS),
    "push": ("publish", "Upload that folder in one commit.", MODELS),
    "convert": ("convert", "Turn a published CLAP checkpoint into a folder of safetensors.", MODELS),
}

_VALUES = {str: "TEXT", int: "NUMBER", float: "NUMBER", Path: "PATH"}

EXAMPLES = """Examples:
  slap classify clip.wav --labels "a dog, rain, a guitar"
  slap caption recordings/
  slap COMMAND --help          more examples of a command"""


class _Plain:
    """Help in which arguments and values are called as people call them, and flags have none."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [re.sub("[{}]", "", piece).upper() for piece in super().collect_usage_pieces(ctx)]

    def get_params(self, ctx: Any) -> list:
        params = super().get_params(ctx)
        for param in params:
            if param.param_type_name == "argument":
                param.display_type_rich = lambda ctx: None  # what it is, is said in its help
            elif param.metavar is None:
                param.metavar = "" if param.is_flag else _VALUES.get(_type_of(self.callback, param.name))
        return params


class _Command(_Plain, TyperCommand):
    pass


class _Script(_Command):
    """Hands what it is given to a script that reads its command line itself, whose own options its help shows too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or {"-h", "--help"} & set(args):
            return super().parse_args(ctx, ["--help"])
        ctx.params["arguments"] = args
        return []

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        help = io.StringIO()
        with redirect_stdout(help), suppress(SystemExit):
            self.script(["--help"])
        print(re.sub(r".*?^(?=positional arguments|options)", "", help.getvalue(), flags=re.DOTALL | re.MULTILINE))


class _Group(_Plain, TyperGroup):
    """Lists stubs; the command that is used is built from its module."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple:
        name, stub, rest = super().resolve_command(ctx, args)
        return name, stub and _build(name), rest


def run(arguments: list[str]) -> int:
    """Runs one command; errors that a user can mend are one line on stderr. Returns the exit status."""
    app = _new_app(cls=_Group, help=_help("Listen to sounds with SLAP.\n\n" + EXAMPLES), no_args_is_help=True)
    app.callback()(_options)
    for name, (_, summary, panel) in COMMANDS.items():
        app.command(name, short_help=summary, rich_help_panel=panel)(_stub)
    try:
        typer.main.get_command(app)(args=arguments, prog_name="slap")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if _Settings.debug:
            raise
        from .output import complain

        complain(str(error) or type(error).__name__)
        return 2
    return 0


class _Settings:
    debug = False


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        print(f"hf_slap {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_print_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> None:
    _Settings.debug = debug


def _stub() -> None:
    raise AssertionError("a command is built before it runs")


def _build(name: str) -> Any:
    """The command, from its module."""
    module, summary, _ = COMMANDS[name]
    function = getattr(import_module(f".{module}", __package__), name)
    app = _new_app()
    kind = _Script if hasattr(function, "takes_all") else _Command
    app.command(name, cls=kind, short_help=summary, help=_help(inspect.getdoc(function) or summary))(function)
    command = typer.main.get_command(app)
    command.script = function
    return command


def _new_app(**keywords: Any) -> typer.Typer:
    style = {"rich_markup_mode": "rich", "context_settings": {"help_option_names": ["-h", "--help"]}}
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, **style, **keywords)


def _help(text: str) -> str:
    """Help whose paragraphs are wrapped to the screen, and whose examples keep their lines."""
    words, found, examples = text.replace("[", r"\[").partition("\nExamples:\n")
    words = re.sub(r"(?<!\n)\n(?!\n)", " ", words.strip())
    lines = "\n".join(f"[cyan]{line}[/cyan]" for line in examples.splitlines())  # the mark keeps the line's indent
    return f"{words}\n\n\b[bold]Examples[/bold]\n{lines}" if found else words


def _type_of(function: Any, name: str) -> Any:
    """What a parameter is annotated with, less `Annotated`, `list` and None."""
    kind = function.__annotations__.get(name)
    while get_args(kind):
        kind = get_args(kind)[0]
    return kind
