"""The ``moltune`` command."""

from __future__ import annotations

import errno
import gc
from collections.abc import Callable
from typing import Annotated, Any

import typer

from moltune import __version__
from moltune.cli import choose, explain, predict, pretrain, serve, start, study, tune
from moltune.cli.console import err, print_error
from moltune.cli.help import Command, Group
from moltune.errors import MoltuneError

# By task, in the order in which a newcomer meets them.
COMMANDS: dict[str, dict[str, Callable[..., None] | typer.Typer]] = {
    "Start here": {"demo": start.demo, "data": start.data},
    "Tune and predict": {
        "finetune": tune.finetune,
        "predict": predict.predict,
        "models": predict.models,
        "explain": explain.explain,
        "evaluate": predict.evaluate,
        "embed": predict.embed,
        "ionisation": predict.ionisation,
        "serve": serve.serve,
        "tune": tune.tune,
        "params": tune.params,
        "merge": tune.merge,
        "export": tune.export,
    },
    "Choose data": {
        "audit": choose.audit,
        "influence": choose.influence,
        "uncertainty": choose.uncertainty,
        "select": choose.select,
    },
    "Compare": {"study": study.app},
    "Pretrain": {"pretrain": pretrain.pretrain, "adapt": pretrain.adapt},
}


class Commands(Group):
    """Turns our errors into one line and an exit code: 2 for bad usage or input, 1 for a failure."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands by task."""
        return [name for commands in COMMANDS.values() for name in commands]

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except MoltuneError as error:
            print_error(error)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            err.print("interrupted; the same command goes on, that of a run with --resume")
            ctx.exit(130)
        except OSError as error:
            # A reader that went away (`| head`) is no error of ours, and Typer knows how to end then.
            if error.errno == errno.EPIPE:
                raise
            print_error(error)
            ctx.exit(1)


app = typer.Typer(
    name="moltune",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"moltune {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Adapt a chemical language model to one molecular property, and learn what really helped.

    First:  moltune demo
    Then:   moltune finetune my.csv --target COLUMN --output runs/mine
    """


for panel, commands in COMMANDS.items():
    for name, command in commands.items():
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, rich_help_panel=panel)
        else:
            app.command(name, cls=Command, rich_help_panel=panel)(command)


def main() -> None:
    """Entry point of the console script."""
    # Importing torch and transformers makes a million objects that stay: looking through them again and again for
    # garbage would take a fifth of the time.
    gc.set_threshold(100_000, 50, 100)
    app()


if __name__ == "__main__":
    main()
