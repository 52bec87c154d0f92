"""`runner models`: list, pull, import, verify, make and remove models."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.filesize import decimal
from rich.table import Table

from reelnet.errors import ConfigError, StartError
from reelnet.home import models_home
from reelnet.jobs import Licence
from reelnet.model_classes import pipelines_of
from reelnet.operating.console import print_json, to_terminal
from runner.backend import SetupError
from runner.commands.exit_codes import exit_codes
from runner.models import full
from runner.models.choice import Wish
from runner.models.copying import Import, import_model
from runner.models.digest import FILM
from runner.models.licences import spdx
from runner.models.manifest import Manifest, differences, files_in, read_manifest
from runner.models.meter import meter_on
from runner.models.store import ModelStore, StoredModel

GIB = 2**30
models = typer.Typer(
    help="Lists, pulls, checks and makes models.\n\nExample: runner models pull acme/sdxl --variant fp16",
    no_args_is_help=True,
)
Home = Annotated[Path | None, typer.Option("--home", help="Folder of models; default: $REELNET_MODELS.", metavar="DIR")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Accept = Annotated[bool, typer.Option("--accept-licence", help="Accept a licence that is not free for every use.")]
Replace = Annotated[bool, typer.Option("--replace", help="Replace a folder of that id that came from elsewhere.")]
Reserve = Annotated[float, typer.Option(help="GiB of the disk that stay free.", min=0, metavar="GIB")]
ModelId = Annotated[str, typer.Argument(help="Its id: ORG/NAME.", metavar="ORG/NAME")]


@models.command("list", epilog="Example: runner models list --json")
def list_models(home: Home = None, as_json: Json = False) -> None:
    """Lists the models of this machine, with size, digest, licence and pipelines."""
    with exit_codes():
        store = _store(home)
        found = list(store.models())
        if as_json:
            print_json([_row(model) for model in found])
            return
        if not found:
            typer.echo(f"no models in {store.home}; pull one, or make tiny ones: runner models make-tiny {store.home}")
            return
        to_terminal().print(_table(found))
        for model in found:
            if model.fault:
                typer.echo(f"! {model.fault}")


@models.command(epilog="Example: runner models pull acme/sdxl --variant fp16 --accept-licence")
def pull(
    model: ModelId,
    revision: Annotated[str, typer.Option(help="Branch, tag or commit.")] = "main",
    endpoint: Annotated[str | None, typer.Option(help="Address of the hub; default: $HF_ENDPOINT.")] = None,
    variant: Annotated[str | None, typer.Option(help="Weights of this variant, fp16 for example.")] = None,
    file: Annotated[list[str] | None, typer.Option(help="Only these weights, by name; may be repeated.")] = None,
    safety_checker: Annotated[bool, typer.Option(help="With the model's safety checker, if it has one.")] = True,
    accept_licence: Accept = False,
    replace: Replace = False,
    token_file: Annotated[Path | None, typer.Option(help="File with the hub's token; default: $HF_TOKEN.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds of silence before a new try.", min=1)] = 30,
    retries: Annotated[int, typer.Option(help="Tries in a row that may bring nothing.", min=0, max=100)] = 5,
    reserve: Reserve = 1,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Downloads a model: safetensors and configurations, checked by their digests. A broken pull goes on where it was.

    Exit codes: 0 there, 1 failed, 2 usage or a licence that was not accepted, 3 a missing library.
    """
    with exit_codes():
        hub, pulling = import_library("runner.models.hub"), import_library("runner.models.pull")
        download = import_library("runner.models.download")
        order = pulling.Order(
            model,
            revision,
            Wish(variant, tuple(file or ()), safety_checker),
            accept_licence,
            replace,
            int(reserve * GIB),
        )
        address = endpoint or os.environ.get("HF_ENDPOINT") or hub.DEFAULT_ENDPOINT
        meter = meter_on(to_terminal(stderr=True))
        with hub.connect(address, _token(token_file), timeout) as client, meter:
            patience = download.Patience(retries)
            done = pulling.Pull(hub.Hub(client), _store(home, make=True), meter, patience).run(order)
        _report(done.folder, done.manifest, as_json, "pulled" if done.fresh else "already there")


@models.command(
    "import", epilog="Example: runner models import ./sdxl --id acme/sdxl --licence Apache-2.0 --commercial yes"
)
def import_(
    path: Annotated[Path, typer.Argument(help="A model's folder, or a safetensors file.", metavar="FOLDER|FILE")],
    model: Annotated[
        str | None, typer.Option("--id", help="Its id; default: local/<name>.", metavar="ORG/NAME")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Its licence: an SPDX id.", metavar="SPDX")] = None,
    commercial: Annotated[
        Literal["yes", "no", "conditional", "unknown"], typer.Option(help="What it says of commercial use.")
    ] = "unknown",
    kind: Annotated[Literal["film"] | None, typer.Option("--as", help="Convert a published file of this kind.")] = None,
    beside: Annotated[
        str | None, typer.Option("--for", help="Store FILM in this video model's folder.", metavar="ORG/NAME")
    ] = None,
    link: Annotated[bool, typer.Option("--link", help="Hard links instead of copies (same file system).")] = False,
    accept_licence: Accept = False,
    replace: Replace = False,
    reserve: Reserve = 1,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Stores a model that is on this machine already."""
    with exit_codes():
        order = Import(
            path=path,
            model=model or f"local/{path.resolve().stem if path.is_file() else path.resolve().name}",
            licence=Licence(spdx(licence), commercial) if licence else Licence(commercial=commercial),
            accept_licence=accept_licence,
            link=link,
            kind=kind,
            beside=beside,
            replace=replace,
            reserve_bytes=int(reserve * GIB),
        )
        with meter_on(to_terminal(stderr=True)) as meter:
            folder, manifest = import_model(order, _store(home, make=True), meter)
        _report(folder, manifest, as_json, "imported")


@models.command(epilog="Example: runner models verify acme/sdxl")
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Models; default: all.", metavar="ORG/NAME…")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Reads every file of models again and says which is not as it was when it was stored.

    Exit codes: 0 all as stored, 1 one differs or has nothing to compare with.
    """
    with exit_codes():
        store = _store(home)
        rows = [_verified(found) for found in ([store.get(name) for name in names] if names else store.models())]
        if as_json:
            print_json(rows)
        for row in [] if as_json else rows:
            typer.echo(f"{row['model']}: {'as stored' if row['ok'] else 'DIFFERS'}")
            for line in row["differences"]:
                typer.echo(f"  {line}")
        if not all(row["ok"] for row in rows):
            raise typer.Exit(1)


@models.command(epilog="Example: runner models rm acme/sdxl --yes")
def rm(
    model: ModelId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Deletes a model from this machine."""
    with exit_codes():
        store = _store(home)
        found = store.get(model)
        if not yes:
            if not sys.stdin.isatty():
                raise ConfigError("nobody can be asked here; say --yes")
            typer.confirm(f"Delete {found.folder} ({decimal(found.size)})?", abort=True, err=True)
        store.remove(model)
        if as_json:
            print_json({"model": model, "removed": True, "size": found.size})
        else:
            typer.echo(f"removed {model} ({decimal(found.size)})")


@models.command("make-tiny", epilog="Example: runner models make-tiny ~/.local/share/reelnet/models")
def make_tiny(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write the models into.")],
) -> None:
    """Writes tiny models: reelnet/tiny-random-sd and others with random weights, and those of the toy world.

    They run the true model code on a CPU in a second or two. Those with random weights draw nothing sensible; those
    of the toy world, reelnet/toy-world and reelnet/toy-world-clip, draw flat shapes as words say.
    """
    with exit_codes():
        console = to_terminal(stderr=True)
        tiny = import_library("runner.models.tiny")
        with console.status("making tiny models"):
            made = tiny.make_all(folder)
        for path in made:
            console.print(str(path), highlight=False, soft_wrap=True)


@models.command("make-full", epilog="Example: runner models make-full ./models --only sd15")
def make_full(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of models.")],
    only: Annotated[str | None, typer.Option(help="Some of sd15,sdxl,svd-xt; default: all, 13.6 GB.")] = None,
) -> None:
    """Writes models of full size with random weights: reelnet/full-random-sd15, …-sdxl and …-svd-xt.

    They take the time and the memory of the real ones, for measuring, and draw nothing sensible.
    """
    with exit_codes():
        console = to_terminal(stderr=True)
        with console.status("making models of full size"):
            made = full.make(folder, full.parse_names(only))
        for path in made:
            console.print(str(path), highlight=False, soft_wrap=True)


@models.command("convert", epilog="Example: runner models convert ./RealESRGAN_x4plus.pth ./models/acme/esrgan")
def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="FILE", help="An upscaler's .pth, .pt or .ckpt.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the new model.")],
) -> None:
    """Writes an upscaler's pickled checkpoint as safetensors, which runners read.

    No code of the pickle is run: one that names any is refused.
    """
    with exit_codes():
        try:
            architecture = import_library("runner.models.conversion").convert(checkpoint, folder)
        except SetupError as error:
            raise StartError(str(error)) from None
        to_terminal(stderr=True).print(f"{folder}: {architecture}", highlight=False, soft_wrap=True)


def _store(home: Path | None, *, make: bool = False) -> ModelStore:
    folder = home or models_home()
    if make:
        folder.mkdir(parents=True, exist_ok=True)
    return ModelStore(folder.resolve())


def import_library(module: str) -> Any:
    """A module that needs a library which not every installation has."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise StartError(f"{error.name} is not installed; install the extra: reelnet[diffusers]") from None


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get("HF_TOKEN") or None
    token = file.read_text("utf-8").strip()
    if not token or not token.isprintable() or " " in token:
        raise ConfigError(f"{file}: expected a token on one line")
    return token


def _report(folder: Path, manifest: Manifest, as_json: bool, done: str) -> None:
    if as_json:
        print_json(manifest.to_document() | {"folder": str(folder), "size": manifest.size, "state": done})
        return
    licence = f"{manifest.licence.id}, commercial use: {manifest.licence.commercial}"
    typer.echo(f"{manifest.model}: {done} ({decimal(manifest.size)}; {licence})")
    typer.echo(f"digest {manifest.digest}")
    typer.echo(str(folder))


def _verified(model: StoredModel) -> dict[str, Any]:
    if model.manifest is not None:
        found = list(differences(model.folder, model.manifest))
    elif model.fault:
        found = [model.fault]
    elif model.digest is None:
        found = ["it was neither pulled nor imported, so there is nothing to compare with"]
    else:
        now = Manifest(model.id, model.licence, files_in(model.folder)).digest
        found = [] if now == model.digest else [f"its digest is {now} instead of {model.digest}"]
    found += _beside(model.folder)
    return {"model": model.id, "ok": not found, "digest": model.digest, "differences": found}


def _beside(folder: Path) -> list[str]:
    """What is wrong with the FILM network that was imported into a model's folder."""
    try:
        manifest = read_manifest(folder / FILM)
        return [f"{FILM}/{line}" for line in differences(folder / FILM, manifest)] if manifest else []
    except SetupError as error:
        return [str(error)]


def _row(model: StoredModel) -> dict[str, Any]:
    return {
        "model": model.id,
        "folder": str(model.folder),
        "size": model.size,
        "digest": model.digest,
        "licence": {"id": model.licence.id, "commercial": model.licence.commercial},
        "class": model.class_name or None,
        "pipelines": list(pipelines_of(model.class_name)),
        "source": dict(model.manifest.source) if model.manifest else None,
        "fault": model.fault or None,
    }


def _table(found: list[StoredModel]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (("MODEL", "left"), ("SIZE", "right"), ("DIGEST", "left"), ("LICENCE", "left")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    table.add_column("COMMERCIAL")
    table.add_column("PIPELINES", overflow="fold")
    for model in found:
        table.add_row(
            model.id,
            decimal(model.size),
            (model.digest or "unknown")[:12],
            model.licence.id,
            model.licence.commercial,
            ", ".join(pipelines_of(model.class_name)) or model.class_name or "(an upscaler, or a LoRA)",
        )
    return table
