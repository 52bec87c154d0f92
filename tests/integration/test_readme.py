"""README's lines do what README says: each is executed as it stands, in its order, in the place of a new reader."""

from __future__ import annotations

import itertools
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import av
import pytest
import yaml
from PIL import Image

from runner.models.tiny import SD, SVD
from tests.fakes.machine import PATIENCE_S, ROOT, Machine, machine

BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
DRAWING = ""
"""The language of a block that is a picture."""
POOL = re.compile(r"make pool\b")
NODE_ID = re.compile(r"[a-z2-7]{52}")
TINY_JOBS, AT_ONCE = 40, 4
TINY = (
    (r"\b(width|height)(\W+)\d+", r"\1\g<2>64"),
    (r"\b(num_inference_steps)(\W+)\d+", r"\1\g<2>1"),
    (r"\bnum_frames=\d+", "num_frames=2"),
)
"""What makes a line's job as small as can be: patterns, and what is put in their places."""
STAND_INS = {"text-to-image": SD, "image-to-video": SVD}
"""The tiny model that takes the place of a real one, by what it is sold for."""


class Block(NamedTuple):
    """A fenced block: what stands behind the fence, and its text."""

    language: str
    text: str


def blocks(section: str) -> list[Block]:
    """The blocks of a section that are no drawings."""
    found = (Block(language.strip(), text) for language, text in BLOCK.findall(section))
    return [block for block in found if block.language != DRAWING]


def commands(block: Block) -> list[str]:
    """The lines of a shell block."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def walks() -> Iterator[Any]:
    """The ways through README: a section each, and one for each pool where a section has several to choose from."""
    for text in re.split(r"^## ", (ROOT / "README.md").read_text("utf-8"), flags=re.MULTILINE):
        pools = [line for block in blocks(text) for line in commands(block) if POOL.match(line)]
        for pool in pools or [""]:
            steps = [Block(language, _without(set(pools) - {pool}, body)) for language, body in blocks(text)]
            if steps:
                yield pytest.param(
                    steps, id=re.sub(r"\W+", "-", f"{text.splitlines()[0]} {pool.partition('#')[0]}").strip("-")
                )


def _without(lines: set[str], text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if line.rstrip("\n") not in lines)


@dataclass
class Reader:
    """Somebody who follows README at a desk, with a node on a second machine, and the tiny models as downloads."""

    desk: Machine
    gpu_box: Machine
    models: Path
    node_id: str = ""
    tunnel: str = ""
    """Its near end, as the broadcaster's list has it."""
    jobs: list[str] = field(default_factory=list)
    """The lines that sent a job."""

    def follow(self, block: Block) -> None:
        """Does what a block says; one that nothing here knows is a failure."""
        if block.language == "sh":
            for line in commands(block):
                self._way(line)(line)
        elif block.language == "yaml orchestrator":
            self._write_orchestrator(block.text)
        else:
            assert block.language == "yaml broadcaster", f"README has a block that this test cannot use: {block}"
            self._write_broadcaster(block.text)

    def again_after_tiny_jobs(self) -> None:
        """Sends many jobs that are as small as can be, and then the lines' own jobs again."""
        tiny = list(itertools.islice(itertools.cycle(map(shrunk, self.jobs)), TINY_JOBS if self.jobs else 0))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(self.desk.run, tiny))
        assert [answer.rpartition("\n")[2] for answer in answers] == ["200"] * len(tiny), answers
        for line in list(self.jobs):
            self._ask(line)

    def finish(self) -> None:
        """Ctrl-C everywhere."""
        self.desk.interrupt()
        self.gpu_box.interrupt()

    def _way(self, line: str) -> Callable[[str], object]:
        """How a line is executed."""
        ways = {
            r"make (demo|test)$": self._named,
            POOL.pattern: self._pool,
            r"\.venv/bin/orchestrator id ": self._id,
            r"\.venv/bin/orchestrator doctor ": self._doctor,
            r"\.venv/bin/orchestrator serve ": self._serve_node,
            r"\.venv/bin/broadcaster serve ": self._serve,
            r"ssh ": self._open_tunnel,
            r"curl -s http://127\.0\.0\.1:9935/models\b": self._models,
            r"curl ": self._ask,
        }
        found = [way for pattern, way in ways.items() if re.match(pattern, line)]
        assert found, f"README has a line that this test cannot run: {line}"
        return found[0]

    def _named(self, line: str) -> None:
        """What runs as long as all of this is not run here: the target is there, and it runs the script of its name."""
        assert f"scripts/{line.split()[1]}" in self.desk.run(line.replace("make ", "make -n ", 1))

    def _pool(self, line: str) -> None:
        """The tiny models are made already."""
        folder = self.desk.clone / "out" / "pool"
        folder.mkdir(parents=True)
        (folder / "models").symlink_to(self.models)
        self.desk.start(line).wait_until_it_says("Ctrl-C stops everything.")

    def _id(self, line: str) -> None:
        self.node_id = self.gpu_box.run(line).strip()
        assert NODE_ID.fullmatch(self.node_id)

    def _doctor(self, line: str) -> None:
        """It finds nothing that keeps the node from working: no GPU is a warning."""
        assert re.search(r"\d+ PASS, \d+ WARN, 0 FAIL", self.gpu_box.run(line))

    def _serve_node(self, line: str) -> None:
        self.gpu_box.start(line).wait_until_it_says("node serves")

    def _serve(self, line: str) -> None:
        self.desk.start(line).wait_until_it_says("broadcaster serves")

    def _write_orchestrator(self, text: str) -> None:
        (self.gpu_box.clone / "orchestrator.yaml").write_text(text, "utf-8")
        for entry in yaml.safe_load(text)["models"]:
            folder = self.gpu_box.home / ".local" / "share" / "reelnet" / "models" / entry["model"]
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.symlink_to(self.models / STAND_INS[next(iter(entry["pipelines"]))])

    def _write_broadcaster(self, text: str) -> None:
        """The ids in README are nobody's: a reader puts the node's in the place of that behind the tunnel."""
        addresses = yaml.safe_load(text)["orchestrators"]
        place = next(NODE_ID.findall(address)[0] for address in addresses if self.tunnel in address)
        (self.desk.clone / "broadcaster.yaml").write_text(text.replace(place, self.node_id), "utf-8")

    def _open_tunnel(self, line: str) -> None:
        self.tunnel = re.findall(r"-L (\S+?:\d+):", line)[0]
        self.desk.start(line)

    def _models(self, line: str) -> None:
        """Each node is up, or there is why not: here nothing serves at the desk. The other one serves in the end."""
        deadline = time.monotonic() + PATIENCE_S
        while not (answer := answered(self.desk.run(line)))["offers"]:
            assert time.monotonic() < deadline, answer
            time.sleep(0.2)
        nodes = answer["nodes"]
        down, up = sorted(nodes, key=lambda node: bool(node["up"]))
        assert (up["node"], up["address"], up["up"]) == (self.node_id, self.tunnel, True)
        assert not down["up"]
        assert "Connection refused" in down["reason"]

    def _ask(self, line: str) -> None:
        """A line that sends a job: 200, and behind its link what was asked for."""
        answer = answered(self.desk.run(line))
        file = self.desk.folder / "result"
        assert self.desk.run(f"curl -s -o {file} {answer['images'][0]['url']}").strip() == "200"
        size = tuple(int(n) for n in re.findall(r"\b(?:width|height)\W+(\d+)", line))
        assert (size_of_clip if answer["job"]["pipeline"].endswith("video") else size_of_picture)(file) == size
        if line not in self.jobs:
            self.jobs.append(line)


def shrunk(line: str) -> str:
    """The same job, as small as can be."""
    for pattern, tiny in TINY:
        line = re.sub(pattern, tiny, line)
    return line


def answered(said: str) -> Any:
    """The JSON of an answer with status 200."""
    body, _, status = said.rpartition("\n")
    assert status == "200", said
    return json.loads(body)


def size_of_picture(file: Path) -> tuple[int, int]:
    """Width and height of a picture that decodes."""
    with Image.open(file) as picture:
        picture.load()
        return picture.size


def size_of_clip(file: Path) -> tuple[int, int]:
    """Width and height of a clip of several frames."""
    with av.open(file) as clip:
        frames = list(clip.decode(video=0))
    assert len(frames) > 1
    return frames[0].width, frames[0].height


@pytest.fixture
def reader(tiny_models: Path) -> Iterator[Reader]:
    """A reader with two machines, below a folder whose sockets fit a path's limit."""
    with tempfile.TemporaryDirectory(prefix="rn-", dir="/tmp") as folder, ExitStack() as stack:
        gpu_box = stack.enter_context(machine(Path(folder) / "gpu-box"))
        hosts = json.dumps({"gpu-box": gpu_box.network})
        yield Reader(stack.enter_context(machine(Path(folder) / "desk", hosts)), gpu_box, tiny_models)


@pytest.mark.timeout(2 * PATIENCE_S)
@pytest.mark.parametrize("walk", list(walks()))
def test_the_lines_of_a_section_work_in_their_order(walk: list[Block], reader: Reader) -> None:
    """Every line does what README says, on a fresh pool, and again when the pool has done many tiny jobs."""
    for block in walk:
        reader.follow(block)
    reader.again_after_tiny_jobs()
    reader.finish()
