"""`status`, `nodes`, `logs`: what a running broadcaster is like."""

from __future__ import annotations

from rich.text import Text

from broadcaster.operator.commands.options import client_of, settings_of
from broadcaster.operator.status import PoolNode, to_document
from broadcaster.operator.status_view import NodesView, StatusView
from reelnet.client import Address
from reelnet.operating.console import print_json, to_terminal
from reelnet.operating.control_client import ControlError
from reelnet.operating.log_tail import LogTail
from reelnet.operating.options import Config, Follow, Json, Lines, Name, Seconds, Watch, exit_codes
from reelnet.operating.watching import StatusWatch, print_logs

LINES = 100


def status(
    seconds: Seconds = 2, config: Config = None, name: Name = None, watch: Watch = False, as_json: Json = False
) -> None:
    """Show a running broadcaster: its jobs, its nodes, and what keeps it from working.

    Example: broadcaster status --watch 5
    """
    with exit_codes():
        watched = StatusWatch(client_of(config, name).status, StatusView, to_document)
        watched.show(watch=watch, seconds=seconds, as_json=as_json)


def nodes(config: Config = None, name: Name = None, as_json: Json = False) -> None:
    """List the nodes of the pool: which are up, why the others are not, what they serve.

    Without a running broadcaster it lists what the file says.

    Example: broadcaster nodes --config broadcaster.yaml
    """
    with exit_codes():
        settings = settings_of(config, name)
        try:
            listed, note = client_of(config, name).status().nodes, ""
        except ControlError as error:
            listed, note = tuple(map(_configured, settings.orchestrators)), f"as configured: {error}"
        if as_json:
            print_json([to_document(node) for node in listed])
            return
        console = to_terminal()
        console.print(NodesView(listed) if listed else Text("no nodes: name them under `orchestrators`", "yellow"))
        for node in listed:
            if node.reason:
                console.print(Text(f"! {node.address}: {node.reason}", "red"), soft_wrap=True)
        if note:
            console.print(Text(note, "dim"), soft_wrap=True)


def logs(config: Config = None, name: Name = None, lines: Lines = LINES, follow: Follow = False) -> None:
    """Print the newest lines of a running broadcaster's log.

    Example: broadcaster logs --lines 50 --follow
    """
    with exit_codes():
        print_logs({"": LogTail("", lines)}, client_of(config, name).logs, follow=follow)


def _configured(text: str) -> PoolNode:
    address = Address.parse(text)
    return PoolNode(address.node_id or address.target, address.target, "unknown")
