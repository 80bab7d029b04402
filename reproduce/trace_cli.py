"""`lmmr1 trace` and `lmmr1 bundle`: where a number comes from, and a run that others can verify."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from lmmr1.exits import FAILURE
from lmmr1.types import UserError

if TYPE_CHECKING:
    from reproduce.trace import Link

console = Console()
bundle = typer.Typer(help="A whole run as one archive: write, verify, unpack.", no_args_is_help=True)
MARKS = {"verified": "[green]ok[/]", "broken": "[red]BROKEN[/]", "unknown": "[yellow]??[/]"}


def trace(
    table: Annotated[Path, typer.Argument(help="results/NAME/report/table1.csv", show_default=False)],
    cell: Annotated[str, typer.Option(help="ARM:COLUMN, e.g. two_stage:mathvision or fre:mm_avg.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Walk from a cell to records, checkpoint, settings, data, parents, commit; say what still verifies.

    Exit code 1 where a link is broken. `??` marks what cannot be checked on this machine, with the reason.
    """
    from reproduce.trace import trace as walk

    with Console(stderr=True).status("hashing what is behind the cell"):
        root = walk(table, cell)
    links = list(root.walk())
    broken = [link for link in links if link.state == "broken"]
    if as_json:
        typer.echo(json.dumps(root.as_json(), indent=1))
    else:
        console.print(_tree(root, None), soft_wrap=True)
        counts = Counter(link.state for link in links)
        console.print(", ".join(f"{counts[state]} {state}" for state in MARKS))
    if broken:
        raise typer.Exit(FAILURE)


def _tree(link: Link, parent: Tree | None) -> Tree:
    label = f"{MARKS[link.state]} {link.what} [bold]{escape(link.name)}[/]  {escape(link.found)}"
    tree = parent.add(label) if parent else Tree(label)
    for one in link.behind:
        _tree(one, tree)
    return tree


@bundle.command(epilog="Example: lmmr1 bundle write results/micro --out micro.tar.gz")
def write(
    results: Annotated[Path, typer.Argument(help="results/NAME", show_default=False)],
    out: Annotated[Path, typer.Option(help="The archive, a new .tar.gz.")],
    no_weights: Annotated[bool, typer.Option("--no-weights", help="Leave the checkpoints out.")] = False,
) -> None:
    """Pack results and checkpoints, with a list of every file's sha256."""
    from reproduce.bundle import write_bundle

    index = write_bundle(results, out, not no_weights)
    megabytes = out.stat().st_size / 2**20
    console.print(
        f"{out}: {len(index.files)} files, {len(index.checkpoints)} checkpoints, {megabytes:.1f} MB", soft_wrap=True
    )


@bundle.command(epilog="Example: lmmr1 bundle verify micro.tar.gz")
def verify(path: Annotated[Path, typer.Argument(help="The archive.", show_default=False)]) -> None:
    """Compare every file of an archive with its list."""
    from reproduce.bundle import verify_bundle

    index = verify_bundle(path)
    console.print(
        f"{path}: {len(index.files)} files of run {index.name}, made by {index.code}: all as listed", soft_wrap=True
    )


@bundle.command(epilog="Example: lmmr1 bundle unpack micro.tar.gz, then: lmmr1 bundle report results/micro")
def unpack(
    path: Annotated[Path, typer.Argument(help="The archive.", show_default=False)],
    into: Annotated[Path, typer.Option(help="Folder that gets results/ and checkpoints/.")] = Path(),
) -> None:
    """Verify an archive and put its run in place; nothing that is there is overwritten."""
    from reproduce.bundle import unpack_bundle

    index = unpack_bundle(path, into)
    console.print(f"{into / 'results' / index.name}: {len(index.files)} files verified and in place", soft_wrap=True)


@bundle.command(epilog="Example: lmmr1 bundle report results/micro")
def report(
    results: Annotated[Path, typer.Argument(help="results/NAME of an unpacked run.", show_default=False)],
    cores: Annotated[str, typer.Option(help="Cores that Snakemake may use.")] = "all",
) -> None:
    """Make tables, plots and page again from the records, without training or evaluating anything."""
    from reproduce.again import report_again

    if not (results / "profile.json").is_file():
        raise UserError(f"{results}: no profile.json in it; give results/NAME of a finished run")
    report_again(results, cores)
