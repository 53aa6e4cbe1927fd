"""The command line: parse, call one function, print. Data on stdout, all else on stderr.

Heavy modules are reached through ``sparsecode``'s lazy names, so that ``--help`` does not wait for
torch.
"""

import signal
from types import FrameType
from typing import Annotated

import typer

import sparsecode
from sparsecode.cli_files import decode, info, merge, verify
from sparsecode.cli_options import EXIT_TERMINATED
from sparsecode.cli_reports import probe, report
from sparsecode.cli_work import encode, fit

app = typer.Typer(
    name="sparsecode",
    help="Sparse codes with exact zeros, as many as you ask for.",
    epilog="Exit codes: 0 done; 1 bug; 2 refused; 3 finished, some inputs failed; 4 no input "
    "found; 5 output or disk error; 130 and 143 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, _terminate)
    app()


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(EXIT_TERMINATED)  # through the context managers, which remove partial files


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sparsecode {sparsecode.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


for _command in (fit, encode, decode, report, probe, info, verify, merge):
    app.command()(_command)


if __name__ == "__main__":
    main()
