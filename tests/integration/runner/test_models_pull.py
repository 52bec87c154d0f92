"""Models from a hub, over true connections that break."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from reelnet.errors import ConfigError
from reelnet.jobs import Licence
from runner.backend import SetupError
from runner.cli import cli
from runner.models.choice import Wish
from runner.models.digest import survey
from runner.models.download import Patience
from runner.models.hub import Hub, connect
from runner.models.manifest import read_manifest
from runner.models.meter import Lines
from runner.models.pull import Order, Pull, Pulled
from runner.models.store import ModelStore, StoreError
from tests.fakes.hub import COMMIT, FakeHub, tensors

WEIGHTS = "unet/model.safetensors"
INDEX = json.dumps({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet"], "version": "1"}).encode()
ORDER = Order("acme/model", reserve_bytes=0)
PLENTY = 1 << 50


def repository() -> dict[str, bytes]:
    return {
        "README.md": b"# a model",
        ".gitattributes": b"*",
        "model_index.json": INDEX,
        "unet/config.json": b"{}",
        WEIGHTS: tensors(bytes(range(256)) * 4000),
        "unet/model.fp16.safetensors": tensors(b"half"),
        "unet/pytorch_model.bin": b"a pickle",
        "checkpoint.safetensors": tensors(b"all in one"),
    }


@pytest.fixture(autouse=True)
def _loop_never_blocks() -> None:
    """A pull has no event loop; here it runs in a thread, beside the loop of the hub and of the test."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "models"


class Puller:
    """Pulls in a thread, as a command would, and notes what it says and how long it would have slept."""

    def __init__(self, home: Path) -> None:
        home.mkdir()
        self.store = ModelStore(home)
        self.said: list[str] = []
        self.slept: list[float] = []

    async def __call__(
        self, hub: FakeHub, order: Order = ORDER, free: int = PLENTY, token: str | None = None
    ) -> Pulled:
        def pull() -> Pulled:
            with connect(hub.url, token, 10) as client:
                patience = Patience(2, self.slept.append)
                return Pull(Hub(client), self.store, Lines(self.said.append), patience, lambda _: free).run(order)

        return await asyncio.to_thread(pull)

    def nothing_stored(self) -> bool:
        return not list(self.store.models())


@pytest.fixture
def pull(home: Path) -> Puller:
    return Puller(home)


async def test_a_model_is_pulled_once(pull: Puller) -> None:
    """Weights in safetensors and configurations, with a manifest; a second pull fetches nothing."""
    async with FakeHub(repository()).serving() as hub:
        done = await pull(hub)
        files = survey(done.folder)
        assert [path.relative_to(done.folder).as_posix() for path in files.paths] == [
            "model_index.json",
            "unet/config.json",
            WEIGHTS,
        ]
        assert (done.folder / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
        assert files.licence == Licence("Apache-2.0", "yes")
        assert read_manifest(done.folder) == done.manifest
        assert done.manifest.digest == files.digest()
        assert done.manifest.source["revision"] == COMMIT
        assert oct((done.folder / WEIGHTS).stat().st_mode & 0o777) == "0o644"
        count = len(hub.seen)
        assert not (await pull(hub)).fresh
        assert len(hub.seen) == count


async def test_a_transfer_that_is_cut_goes_on(pull: Puller) -> None:
    """Each try asks for the rest alone, and what comes together has the stated digest."""
    async with FakeHub(repository(), cuts={WEIGHTS: [100_000, 400_000]}).serving() as hub:
        done = await pull(hub)
        first, second, third = hub.asked(WEIGHTS)
        assert first is None
        assert second == "bytes=100000-"
        assert third == "bytes=500000-"
        assert (done.folder / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
        assert len(pull.slept) == 2


async def test_a_pull_that_failed_goes_on_in_the_next(pull: Puller) -> None:
    """What a broken pull has is kept, is no model yet, and is not fetched again."""
    async with FakeHub(repository(), cuts={WEIGHTS: [200_000, 0, 0, 0]}).serving() as hub:
        with pytest.raises(StoreError, match="pull again to go on"):
            await pull(hub)
        assert pull.nothing_stored()
        done = await pull(hub)
        assert hub.asked(WEIGHTS)[-1] == "bytes=200000-"
        assert (done.folder / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
        assert not list((pull.store.home / ".pulling").glob("*@*"))


async def test_a_hub_without_ranges_is_read_from_the_start(pull: Puller) -> None:
    """An answer 200 to a Range begins at the first byte."""
    async with FakeHub(repository(), cuts={WEIGHTS: [100_000]}, ranges=False).serving() as hub:
        done = await pull(hub)
        assert (done.folder / WEIGHTS).read_bytes() == hub.files[WEIGHTS]


async def test_a_damaged_rest_is_fetched_anew(pull: Puller) -> None:
    """A part that does not fit what follows costs a second transfer, not the pull."""
    async with FakeHub(repository()).serving() as hub:
        draft = pull.store.home / ".pulling" / f"acme--model@{COMMIT[:12]}"
        (draft / "unet").mkdir(parents=True)
        (draft / f"{WEIGHTS}.part").write_bytes(b"x" * 1000)
        done = await pull(hub)
        assert hub.asked(WEIGHTS) == ["bytes=1000-", None]
        assert (done.folder / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
        assert any("damaged" in line for line in pull.said)


@pytest.mark.parametrize(
    ("path", "stated"),
    [
        (WEIGHTS, {"lfs": {"sha256": "0" * 64, "size": len(repository()[WEIGHTS])}}),
        ("unet/config.json", {"blobId": "0" * 40}),
    ],
)
async def test_a_wrong_digest_is_refused(pull: Puller, path: str, stated: dict[str, Any]) -> None:
    """Large files are checked by sha256, small ones by git's name of their content; nothing is stored."""
    async with FakeHub(repository(), stated={path: stated}).serving() as hub:
        with pytest.raises(StoreError, match=f"{path}: its digest is not the one"):
            await pull(hub)
        assert pull.nothing_stored()
        assert not list(pull.store.home.rglob(f"{Path(path).name}*"))


async def test_a_file_without_a_digest_is_refused(pull: Puller) -> None:
    """What cannot be checked is not stored."""
    async with FakeHub(repository(), stated={WEIGHTS: {"lfs": None}}).serving() as hub:
        with pytest.raises(StoreError, match="states no digest"):
            await pull(hub)
        assert not hub.asked(WEIGHTS)


async def test_weights_that_are_damaged_at_their_source_are_refused(pull: Puller) -> None:
    """A right digest of half a file is no model."""
    async with FakeHub(repository() | {WEIGHTS: tensors()[:-1]}).serving() as hub:
        with pytest.raises(SetupError, match="download it again"):
            await pull(hub)
        assert pull.nothing_stored()


async def test_the_disk_is_looked_at_first(pull: Puller) -> None:
    """Too little space is said before a byte of weights comes."""
    async with FakeHub(repository()).serving() as hub:
        size = len(hub.files[WEIGHTS])
        with pytest.raises(StoreError, match=r"are to come.*are free"):
            await pull(hub, replace(ORDER, reserve_bytes=1000), free=size + 1000)
        assert not hub.asked(WEIGHTS)
        await pull(hub, replace(ORDER, reserve_bytes=1000), free=size + 5000)


async def test_pickles_are_refused_by_name(pull: Puller) -> None:
    """A repository with nothing else is not fetched."""
    files = {name: data for name, data in repository().items() if not name.endswith(".safetensors")}
    async with FakeHub(files).serving() as hub:
        with pytest.raises(StoreError, match=r"pickles \(unet/pytorch_model.bin\)"):
            await pull(hub)
        assert [path for path, _ in hub.seen] == ["model_index.json"]


@pytest.mark.parametrize(
    "path", ["../evil.json", "/etc/evil.json", "unet/../../evil.json", "a\\..\\evil.json", "a//b.json"]
)
async def test_a_path_that_leads_out_is_refused(pull: Puller, tmp_path: Path, path: str) -> None:
    """A hub that sends one is not believed in anything else either."""
    stated = {"rfilename": path, "size": 2, "blobId": "0" * 40}
    async with FakeHub(repository(), stated={path: stated}).serving() as hub:
        with pytest.raises(StoreError, match="leads out"):
            await pull(hub)
        assert pull.nothing_stored()
        assert not list(tmp_path.rglob("evil*"))


async def test_a_variant_is_taken_alone(pull: Puller) -> None:
    """`fp16` brings the weights that say so, and no others."""
    async with FakeHub(repository()).serving() as hub:
        done = await pull(hub, replace(ORDER, wish=Wish(variant="fp16")))
        assert set(done.manifest.files) == {"model_index.json", "unet/config.json", "unet/model.fp16.safetensors"}


async def test_a_repository_without_an_index_is_taken_whole(pull: Puller) -> None:
    """A LoRA, for example; `weights` chooses one of several."""
    files = {"a.safetensors": tensors(b"a"), "b.safetensors": tensors(b"b"), "note.md": b"x"}
    async with FakeHub(files).serving() as hub:
        done = await pull(hub, replace(ORDER, wish=Wish(weights=("b.safetensors",))))
        assert set(done.manifest.files) == {"b.safetensors"}
        assert set((await pull(hub)).manifest.files) == {"a.safetensors", "b.safetensors"}


@pytest.mark.parametrize(
    ("tag", "licence"), [("openrail++", "conditional"), ("cc-by-nc-4.0", "no"), ("other", "unknown"), (None, "unknown")]
)
async def test_a_licence_has_to_be_accepted(pull: Puller, tag: str | None, licence: str) -> None:
    """Unless it is free for every use; before anything is fetched."""
    async with FakeHub(repository(), card={"license": tag}).serving() as hub:
        with pytest.raises(ConfigError, match="--accept-licence"):
            await pull(hub)
        assert not hub.seen
        done = await pull(hub, replace(ORDER, accept_licence=True))
        assert done.manifest.licence.commercial == licence
        assert done.manifest.licence_accepted


async def test_a_token_goes_to_the_hub_alone(pull: Puller) -> None:
    """Not to the store of large files that it redirects to; without one the hub's refusal says what to do."""
    async with FakeHub(repository(), token="hf_secret").serving() as hub:
        with pytest.raises(StoreError, match="token"):
            await pull(hub)
        await pull(hub, token="hf_secret")
        assert hub.tokens_at_store == [None]


async def test_a_busy_hub_is_asked_again_when_it_says(pull: Puller) -> None:
    """429 and 503 with Retry-After."""
    async with FakeHub(repository(), statuses=[429, 503]).serving() as hub:
        await pull(hub)
        assert pull.slept == [7.0, 7.0]


@pytest.mark.parametrize(("status", "said"), [(404, "no such"), (403, "refuses"), (418, "answers 418")])
async def test_a_refusal_is_not_tried_again(pull: Puller, status: int, said: str) -> None:
    """It would be refused again."""
    async with FakeHub(repository(), statuses=[status]).serving() as hub:
        with pytest.raises(StoreError, match=said):
            await pull(hub)
        assert not pull.slept


async def test_an_unknown_revision_says_so(pull: Puller) -> None:
    """The hub's 404 names model and revision."""
    async with FakeHub(repository()).serving() as hub:
        with pytest.raises(StoreError, match="acme/model at v9"):
            await pull(hub, replace(ORDER, revision="v9"))


async def test_a_newer_commit_replaces_the_older_model(pull: Puller) -> None:
    """What is stored is one commit or the other, never a mixture."""
    async with FakeHub(repository()).serving() as hub:
        await pull(hub)
        hub.commit = "f" * 40
        del hub.files["unet/config.json"]
        hub.files[WEIGHTS] = tensors(b"new")
        done = await pull(hub)
        assert done.fresh
        assert set(done.manifest.files) == {"model_index.json", WEIGHTS}
        assert survey(done.folder).digest() == done.manifest.digest


async def test_a_folder_of_the_operator_is_not_replaced(pull: Puller) -> None:
    """Unless told to."""
    own = pull.store.home / "acme" / "model"
    own.mkdir(parents=True)
    (own / "model_index.json").write_bytes(INDEX)
    async with FakeHub(repository()).serving() as hub:
        with pytest.raises(StoreError, match="--replace"):
            await pull(hub)
        assert (await pull(hub, replace(ORDER, replace=True))).fresh


@pytest.mark.parametrize(
    "change",
    [
        lambda hub: setattr(hub, "commit", "../../x"),
        lambda hub: hub.stated.update({WEIGHTS: {"lfs": {"size": -1}}}),
        lambda hub: hub.stated.update({WEIGHTS: {"lfs": {"size": 1, "sha256": "zz"}}}),
        lambda hub: hub.stated.update({WEIGHTS: {"rfilename": None, "lfs": {"size": "1"}}}),
    ],
)
async def test_a_listing_that_is_none_is_refused(pull: Puller, change: Callable[[FakeHub], None]) -> None:
    """Sizes, digests and commits are looked at before they are used."""
    async with FakeHub(repository()).serving() as hub:
        change(hub)
        with pytest.raises(StoreError, match="not as its API says"):
            await pull(hub)


async def test_the_command_pulls_lists_verifies_and_removes(home: Path) -> None:
    """The whole life of a model, with exit codes and JSON."""
    env = {**os.environ, "REELNET_MODELS": str(home)}

    async def command(*arguments: str) -> tuple[int, str, str]:
        result = await asyncio.to_thread(CliRunner().invoke, cli, ["models", *arguments], env=env)
        return result.exit_code, result.stdout, result.stderr

    async with FakeHub(repository(), card={"license": "openrail++"}).serving() as hub:
        address = ("--endpoint", hub.url, "--reserve", "0")
        code, _, errors = await command("pull", "acme/model", *address)
        assert code == 2
        assert "--accept-licence" in errors
        code, out, errors = await command("pull", "acme/model", *address, "--accept-licence", "--json")
        assert code == 0, errors
        pulled = json.loads(out)
        assert pulled["state"] == "pulled"
        assert "100 %" in errors
        assert (await command("pull", "acme/none", *address))[0] == 1
        assert (await command("pull", "../none", *address))[0] == 2
    code, out, _ = await command("list", "--json")
    (row,) = json.loads(out)
    assert (row["model"], row["digest"], row["pipelines"]) == (
        "acme/model",
        pulled["digest"],
        ["text-to-image", "image-to-image"],
    )
    assert "acme/model" in (await command("list"))[1]
    assert (await command("verify"))[0] == 0
    (home / "acme/model/unet/config.json").write_text("[]")
    code, out, _ = await command("verify", "acme/model")
    assert code == 1
    assert "unet/config.json: its content differs" in out
    assert (await command("rm", "acme/model"))[0] == 2
    assert (home / "acme/model").exists()
    assert (await command("rm", "acme/model", "--yes"))[0] == 0
    assert not (home / "acme").exists()
    assert (await command("rm", "acme/model", "--yes"))[0] == 1
