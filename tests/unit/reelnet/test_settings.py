"""How configuration is read: file, environment, flags, and what is said of faults."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import SettingsConfigDict

from reelnet.errors import ConfigError
from reelnet.settings import ComponentSettings, Listener, Section, load


class Inner(Section):
    """A nested part."""

    seconds: float = 1.0
    texts: dict[str, str] = Field(default_factory=dict)


class Item(Section):
    """One of several."""

    model: str
    replicas: int = 1
    inner: Inner | None = None


class Demo(ComponentSettings):
    """A component's settings as the components write them."""

    model_config = SettingsConfigDict(env_prefix="REELNET_DEMO_")

    name: str = "default"
    listener: Listener = Listener(port=1234)
    inner: Inner = Inner()
    items: tuple[Item, ...] = ()
    by_name: dict[str, Item] = Field(default_factory=dict)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the configuration lies."""
    return tmp_path / "demo.yaml"


def fault(file: Path, text: str | bytes) -> str:
    """What is said of a file."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load(Demo, file)
    return str(caught.value)


def test_without_anything_the_defaults() -> None:
    """No file is needed."""
    assert load(Demo) == Demo()
    assert load(Demo).listener == Listener(host="127.0.0.1", port=1234)


def test_flags_over_environment_over_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each level changes single nested keys and leaves the others; a flag that is None says nothing."""
    file.write_text("name: file\nlistener: {host: '::1', port: 1}\ninner: {seconds: 3, texts: {a: b}}\n")
    monkeypatch.setenv("REELNET_DEMO_LISTENER__PORT", "2")
    monkeypatch.setenv("REELNET_DEMO_INNER__SECONDS", "4.5")
    from_both = load(Demo, file, {"name": None, "listener": None})
    assert (from_both.name, from_both.listener) == ("file", Listener(host="::1", port=2))
    assert from_both.inner == Inner(seconds=4.5, texts={"a": "b"})
    flagged = load(Demo, file, {"name": "flag", "listener": {"port": 3}})
    assert (flagged.name, flagged.listener) == ("flag", Listener(host="::1", port=3))


def test_lists_come_from_the_environment_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list is one JSON value."""
    monkeypatch.setenv("REELNET_DEMO_ITEMS", '[{"model": "a"}]')
    assert load(Demo).items == (Item(model="a"),)


def test_a_faulty_environment_is_the_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is no JSON is a ConfigError that names it, as any other fault."""
    monkeypatch.setenv("REELNET_DEMO_ITEMS", "[{model: a}]")
    with pytest.raises(ConfigError, match=r"(?i)items"):
        load(Demo)


@pytest.mark.parametrize(
    ("text", "where", "hint"),
    [
        ("nmae: x", "nmae", "'name'"),
        ("listener: {prot: 1}", "listener.prot", "'port'"),
        ("inner: {second: 1}", "inner.second", "'seconds'"),
        ("items: [{model: a}, {model: b, replica: 2}]", "items.1.replica", "'replicas'"),
        ("items: [{model: a, inner: {secnds: 2}}]", "items.0.inner.secnds", "'seconds'"),
        ("by_name: {x: {modle: a, model: b}}", "by_name.x.modle", "'model'"),
    ],
)
def test_an_unknown_key_is_an_error_with_a_hint(file: Path, text: str, where: str, hint: str) -> None:
    """A misspelt key would be silently without effect: it is refused, at any depth, with the nearest known one."""
    assert f"{file}: {where}: unknown key; did you mean {hint}?" in fault(file, text)


def test_every_fault_has_its_line(file: Path) -> None:
    """An operator sees all faults at once, each with the file and the place."""
    lines = fault(file, "name: [1]\nlistener: {port: 70000}\nitems: [{}]\n").splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"{file}: ") for line in lines)
    assert "listener.port: Input should be less than or equal to 65535" in lines[1]
    assert "items.0.model: Field required" in lines[2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: [1\n", "not valid YAML"),
        ("name: !!python/object/apply:os.system [id]\n", "not valid YAML"),
        ("\tname: x\n", "not valid YAML"),
        ("- 1\n", "found list"),
        ("only text\n", "found str"),
        (b"\xff\xfe\x00", "cannot be read"),
        ("8935: x\n", "8935"),
        ("on: x\n", "True"),
    ],
)
def test_a_file_that_is_no_configuration(file: Path, text: str | bytes, said: str) -> None:
    """Every fault of a file is one ConfigError line that names the file; a file is data, never code."""
    message = fault(file, text)
    assert message.startswith(f"{file}: ")
    assert said in message
    assert "\n" not in message


def test_a_missing_file_is_an_error(file: Path) -> None:
    """Who names a file wants it."""
    with pytest.raises(ConfigError, match="no such file; name one with --config"):
        load(Demo, file)
    with pytest.raises(ConfigError, match="cannot be read"):
        load(Demo, file.parent)


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null\n"])
def test_an_empty_file_is_the_defaults(file: Path, text: str) -> None:
    """A file in which all is commented out is a configuration."""
    file.write_text(text)
    assert load(Demo, file) == Demo()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.5.5.5", "::1", "localhost"])
def test_loopback_hosts_are_taken(host: str) -> None:
    """Any loopback address; the name becomes the address, whatever a hosts file says."""
    assert Listener(host=host).host == ("127.0.0.1" if host == "localhost" else host)


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "192.168.1.2", "10.0.0.1", "", "example.org", "localhost.example.org", "127.0.0.1.example.org",
     "127.1", "0x7f000001", "[::1]", "*"],
)  # fmt: skip
def test_other_hosts_are_refused(file: Path, host: str) -> None:
    """Nothing listens where others can reach it, until peers authenticate each other; the error says what to do."""
    message = fault(file, f"listener: {{host: '{host}'}}")
    assert "listener.host" in message
    assert "tunnel" in message


@pytest.mark.parametrize("port", [-1, 65536, "http", 1.5])
def test_ports_are_bounded(port: object) -> None:
    """0 takes a free one."""
    assert Listener(port=0).port == 0
    with pytest.raises(ValidationError):
        Listener(port=port)  # type: ignore[arg-type]


def test_settings_do_not_change() -> None:
    """What a component read at its start is what it works with."""
    with pytest.raises(ValidationError):
        load(Demo).name = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        load(Demo).inner.seconds = 2.0  # type: ignore[misc]


def test_a_secret_is_not_repeated() -> None:
    """A fault's line shows no value: it may be a secret at the wrong place."""

    class Secret(ComponentSettings):
        key: SecretStr = SecretStr("")
        count: int = 0

    with pytest.raises(ConfigError) as caught:
        load(Secret, None, {"count": "hunter2"})
    assert "hunter2" not in str(caught.value)
