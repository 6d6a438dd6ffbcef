"""`ftvm`: finds the command, turns what users and peers did wrong into one line and an exit code.

Commands are named by import path and imported when asked for: starting a guest must not wait for the code of
all the others.
"""

import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from ftvm.errors import ExitCode, FtvmError

COMMANDS = {
    "demo": ("ftvm.cli.demo:demo", "Protect a machine, load it, kill its primary, and count."),
    "run": ("ftvm.cli.run:run", "Run a guest image alone."),
    "primary": ("ftvm.cli.nodes:primary", "Start a protected machine."),
    "shadow": ("ftvm.cli.nodes:shadow", "Join a protected machine as its shadow."),
    "promote": ("ftvm.cli.planned:promote", "Make a shadow the live node."),
    "migrate": ("ftvm.cli.planned:migrate", "Move the machine to another node, and end the old one."),
    "edge": ("ftvm.cli.edge:edge", "Serve the machine's console to clients."),
    "witness": ("ftvm.cli.witness:witness", "Grant generations to a machine's nodes, from a third host."),
    "status": ("ftvm.cli.status:status", "How the nodes and the edge are."),
    "console": ("ftvm.cli.console:console", "Talk to the machine's console."),
    "record": ("ftvm.cli.record:record", "Run a guest image alone, and write its execution log."),
    "replay": ("ftvm.cli.replay:replay", "Repeat the run that a log describes."),
    "log": ("ftvm.cli.log:app", "Look into an execution log."),
    "image": ("ftvm.cli.image:app", "Make guests to run."),
    "certs": ("ftvm.cli.certs:app", "Make the certificates of a machine."),
    "check": ("ftvm.cli.check:check", "Check a machine.toml."),
}
"""Name: import path, and what the list of commands says of it."""

HELP = """A RISC-V machine that survives the loss of its host.

Settings come from flags, then from FTVM_* in the environment, then from machine.toml, then from defaults."""


def version() -> str:
    from importlib.metadata import version as version_of

    from ftvm.log.entry import LOG_VERSION

    return f"ftvm {version_of('ftvm')} (log version {LOG_VERSION})"


def build_app(wanted: str = "") -> App:
    """The whole command line. The command `wanted` says of itself more than the summary."""
    app = App(name="ftvm", help=HELP, version=version, help_format="plaintext", result_action="return_value")
    for name, (target, summary) in COMMANDS.items():
        app.command(target, name=name, **({} if name == wanted else {"help": summary}))
    return app


def run_command(arguments: Sequence[str]) -> int:
    """Runs one command line and returns the exit code. Only our own mistakes raise."""
    app = build_app(next(iter(arguments), ""))
    try:
        if not arguments:
            app.help_print([])
            return ExitCode.USAGE
        result = app(list(arguments), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        say(f"{_one_line(str(error))}; see `ftvm {_command_of(arguments)}--help`")
        return ExitCode.USAGE
    except FtvmError as error:
        say(_one_line(str(error)))
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output has seen enough; and nothing may be flushed to it at exit.
        sys.stdout = None
        return ExitCode.OK
    except KeyboardInterrupt:
        return 130
    return result if isinstance(result, int) else ExitCode.OK


def say(message: str) -> None:
    """One line for the user, apart from what the command prints."""
    print(f"ftvm: {message}", file=sys.stderr)


def main() -> None:
    """The `ftvm` script."""
    sys.exit(run_command(sys.argv[1:]))


def _command_of(arguments: Sequence[str]) -> str:
    return f"{arguments[0]} " if arguments[0] in COMMANDS else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    main()
