"""The ``moltune`` command."""

from __future__ import annotations

import errno
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from moltune import __version__
from moltune.cli import (
    adapt,
    audit,
    data,
    demo,
    evaluate,
    finetune,
    influence,
    merge,
    params,
    predict,
    pretrain,
    select,
    study,
    tune,
    uncertainty,
)
from moltune.cli.console import err, print_error
from moltune.errors import MoltuneError


class Commands(TyperGroup):
    """Turns our errors into one line and an exit code: 2 for bad usage or input, 1 for a failure."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except MoltuneError as error:
            print_error(error)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            err.print("interrupted; a run goes on with the same command and --resume")
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
    help="Adapt a chemical language model to one molecular property, and learn what really helped.",
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
    pass


app.command("finetune")(finetune.finetune)
app.command("adapt")(adapt.adapt)
app.command("evaluate")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("tune")(tune.tune)
app.command("merge")(merge.merge)
app.command("pretrain")(pretrain.pretrain)
app.command("params")(params.params)
app.command("demo")(demo.demo)
app.command("audit")(audit.audit)
app.command("influence")(influence.influence)
app.command("uncertainty")(uncertainty.uncertainty)
app.command("select")(select.select)
app.add_typer(data.app, name="data")
app.add_typer(study.app, name="study")


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
