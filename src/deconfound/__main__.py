"""One subcommand per rule of the graph: parse, call, write. `deconfound COMMAND --help` explains each.

Everything heavy is imported inside a command, so that help and errors in options are instant.
"""

import sys

import typer

from deconfound.commands.data import fetch, poison
from deconfound.commands.models import attack, defend, evaluate, interpret, train
from deconfound.commands.reports import calibrate, claims, plan, report, timings
from deconfound.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Which published robustness claims survive a fair test?\n\n"
    "Each command is one step of the pipeline and can be run by hand: it reads the files it is given and writes one"
    " artifact. `snakemake --cores all` runs them all in order and prints the exact commands with `-p`.",
)


COMMANDS = (
    plan,
    fetch,
    poison,
    train,
    defend,
    attack,
    evaluate,
    interpret,
    calibrate,
    claims,
    report,
    timings,
)
for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """Run a command; an error that the user can act on is one message and exit status 1."""
    try:
        app()
    except UserError as error:
        print(f"deconfound: error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("deconfound: interrupted; run the same command again to go on", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
