"""What a reload of a broadcaster changes, and how that is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from broadcaster.keys import Keys
from broadcaster.operator.changes import LIVE, changes, key_changes
from broadcaster.settings import BroadcasterSettings


def settings(**values: Any) -> BroadcasterSettings:
    return BroadcasterSettings.model_validate(values)


def test_each_change_is_said_by_its_place() -> None:
    """What applies at once, and what needs a restart."""
    before = settings(orchestrators=["127.0.0.1:1", "127.0.0.1:2"], limits={"price": {"text-to-image": "0.1"}})
    wanted = settings(
        orchestrators=["127.0.0.1:2", "127.0.0.1:3"],
        limits={"price": {"text-to-image": "0.2"}, "jobs": 5},
        catalogue={"acme/sdxl": {"digests": ["d" * 64]}},
        http={"port": 1234},
    )
    assert changes(before, wanted) == [
        "orchestrators: 127.0.0.1:1 is not in the pool any more",
        "orchestrators: 127.0.0.1:3 is new",
        "http.port: 9935 → 1234 (needs a restart)",
        f"catalogue.acme/sdxl: none → {{'digests': ['{'d' * 64}'], 'defaults': {{}}}}",
        "limits.price.text-to-image: 0.1 → 0.2",
        "limits.jobs: 1000 → 5",
    ]
    assert changes(before, before) == []


def test_what_is_live_is_there() -> None:
    """A field that is renamed must not fall out of a reload in silence."""
    assert set(LIVE) <= BroadcasterSettings.model_fields.keys()


def test_keys_are_told_by_id_and_name(tmp_path: Path) -> None:
    """New, gone, held to something else; never the key."""

    def keys(text: str) -> Keys:
        (tmp_path / "keys").write_text(text)
        return Keys.read(tmp_path / "keys")

    before, after = keys("secret-a name=alice\nsecret-b\n"), keys("secret-b safety=blur\nsecret-c name=carol\n")
    alice, b = before.known()
    assert key_changes(before, after) == [
        f"keys: {alice.id} (alice) is revoked",
        f"keys: {after.known()[1].id} (carol) is new",
        f"keys: {b.id} safety: none → blur",
    ]
    assert key_changes(Keys(None), before)[0] == f"keys: {alice.id} (alice) is new"
    assert "secret" not in " ".join(key_changes(before, after))
