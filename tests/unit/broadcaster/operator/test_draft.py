"""The file that `broadcaster init` writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from broadcaster.operator.draft import Draft, draft_text
from broadcaster.settings import BroadcasterSettings
from reelnet.errors import ConfigError
from reelnet.operating.drafts import write_draft

ID = "khcz5zguzkmg2wfq66e2zlyc2peetw4beaidmciz5m4g5ar5uhcq"


@pytest.mark.parametrize("name", ["default", 'a"b: c'])
def test_it_is_what_was_asked_for(tmp_path: Path, name: str) -> None:
    """Each value comes back, or is refused as it would be in a file by hand."""
    draft = Draft(name, (f"127.0.0.1:8935#{ID}",), tmp_path / "a: home", tmp_path / "k # eys")
    if name != "default":
        with pytest.raises(ConfigError, match="name"):
            write_draft(tmp_path / "b.yaml", draft_text(draft), BroadcasterSettings, force=False)
        assert list(tmp_path.iterdir()) == []
        return
    got = write_draft(tmp_path / "b.yaml", draft_text(draft), BroadcasterSettings, force=False)
    assert (got.home, got.keys_file, got.orchestrators) == (draft.home, draft.keys_file, draft.orchestrators)


def test_a_file_is_replaced_by_force_alone(tmp_path: Path) -> None:
    """Else it stays as it is."""
    file = tmp_path / "b.yaml"
    file.write_text("name: mine\n")
    with pytest.raises(ConfigError, match="is there already; replace it with --force"):
        write_draft(file, draft_text(Draft("default")), BroadcasterSettings, force=False)
    assert file.read_text() == "name: mine\n"
    assert write_draft(file, draft_text(Draft("other")), BroadcasterSettings, force=True).name == "other"
