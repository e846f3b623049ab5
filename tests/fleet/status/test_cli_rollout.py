"""`edgeprune fleet rollout …`, `tick`, `enroll` and the rest, as a user meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgeprune.cli import app
from edgeprune.fleet.repository import Repository
from edgeprune.fleet.store import Store
from edgeprune.records.files import sha256_file
from tests.conftest import ROOT
from tests.fleet.broker import Mosquitto
from tests.fleet.broker import missing as no_broker
from tests.fleet.told import committed, reverted
from tests.test_cli import edgeprune as run


def edgeprune(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run("fleet", *arguments)


def done(*arguments: object) -> str:
    """What a command says that does it; in this process: a start of Python costs a second."""
    ended = CliRunner().invoke(app, ["fleet", *map(str, arguments)])
    assert ended.exit_code == 0, ended.output
    return ended.stdout


def refused(site: Path, *arguments: object) -> str:
    """What is said of what can't be. Nothing published changes."""
    before = [sha256_file(site / "fleet" / folder) for folder in ("metadata", "targets")]
    ended = CliRunner().invoke(app, ["fleet", *map(str, arguments)])
    assert ended.exit_code == 2, ended.output
    assert not isinstance(ended.exception, Exception), ended.exception
    assert [sha256_file(site / "fleet" / folder) for folder in ("metadata", "targets")] == before
    return ended.stderr


def test_a_rollout_from_start_to_end(site: Path, fleet: Store) -> None:
    names = [f"d{n}" for n in range(20)]
    (site / "names").write_text("\n".join(names[2:]))
    tokens = dict(line.split("\t") for line in done(
        "enroll", "d0", "d1", "--names", site / "names", "--sku", "pi", "--product", "cells", "--channel", "stable"
    ).splitlines())  # fmt: skip
    assert sorted(tokens) == sorted(names)
    assert len(set(tokens.values())) == 20
    assert "no rollout yet" in done("status")
    said = done("rollout", "start", "--product", "cells", "--release", "1", "--waves", "20,100", "--dwell", "0",
                "--success", "0.9")  # fmt: skip
    assert "rollout 1 brings cells 1" in said
    assert "20 %" in said
    rollout = Repository.open(site / "fleet").rollout("stable")
    assert rollout is not None
    assert [wave.success for wave in rollout.waves] == [0.9, 0.9]
    assert "nothing to do" in done("tick")
    fleet.take([committed(n, 1, rollout) for n in names if rollout.reaches(n, "pi", "")], rollout.since)
    assert "advanced to 100 %" in done("tick")
    assert "paused" in done("rollout", "pause", "--reason", "lunch")
    shown = done("rollout", "status")
    assert "stable: cells 1  paused" in shown
    assert "lunch" in shown
    assert "running" in done("rollout", "resume")
    assert "aborted" in done("rollout", "abort", "--reason", "enough")
    assert "aborted is final" not in refused(site, "rollout", "resume")
    assert "expected: one that is paused" in refused(site, "rollout", "resume")
    said = done("rollout", "start", "--product", "cells")
    assert "rollout 2 brings cells 3" in said
    record = json.loads(done("rollout", "status", "--json"))["stable"]
    assert (record["serial"], record["stable"], [w["percent"] for w in record["waves"]]) == (2, None, [1, 10, 50, 100])


def test_a_halted_one_on_the_terminal(site: Path, fleet: Store) -> None:
    done("enroll", "a", "b", "c", "--sku", "pi", "--product", "cells", "--channel", "stable")
    done("rollout", "start", "--product", "cells", "--waves", "100", "--min-executed", "2")
    rollout = Repository.open(site / "fleet").rollout("stable")
    assert rollout is not None
    fleet.take(
        [reverted("a", 1, rollout, "latency: 9 ms"), reverted("b", 1, rollout, "crash: [bold]x[/]")], rollout.since
    )
    said = done("tick")
    assert "rollout 1 of cells 3 halted 2 of 2 of the wave failed (100.0%, over 5.0%) at 100 %" in said
    shown = done("status")
    for words in ("halted", "failed, latency: 1", "failed, crash: 1", "3 devices, 2 heard", "never heard", "pi"):
        assert words in shown, shown
    view = json.loads(done("status", "--json"))
    assert view["rollouts"][0]["state"] == "halted"
    assert view["devices"] == 3


def test_a_recipe_and_what_is_wrong_with_one(site: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "waves:\n  - {percent: 5, dwell_s: 60}\n  - {percent: 100, error: 0.1}\nselector: {skus: [orin]}\n"
    )
    done("rollout", "start", "--product", "cells", "--recipe", recipe, "--tag", "day")
    record = json.loads(done("rollout", "status", "--json"))["stable"]
    assert record["selector"] == {"skus": ["orin"], "runtimes": [], "tags": ["day"]}
    assert [(w["percent"], w["dwell_s"], w["error"]) for w in record["waves"]] == [(5, 60, 0.05), (100, 3600, 0.1)]
    recipe.write_text("waves:\n  - {percent: 5, dwel_s: 60}\n")
    said = refused(site, "rollout", "start", "--product", "cells", "--recipe", recipe)
    assert "'dwell_s'?" in said
    assert f"{recipe}:2" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rollout", "start", "--product", "cells", "--waves", "50,10"), "more devices than the one before"),
        (("rollout", "start", "--product", "cells", "--waves", "x"), "--waves"),
        (("rollout", "start", "--product", "cells", "--waves", "0,100"), "percent"),
        (("rollout", "start", "--product", "cells", "--dwell", "soon"), "15m"),
        (("rollout", "start", "--product", "cells", "--error", "2"), "error"),
        (("rollout", "start", "--product", "cells", "--sku", "pie"), "no build for this SKU"),
        (("rollout", "start", "--product", "cells", "--release", "9"), "9"),
        (("rollout", "start", "--product", "cells", "--channel", "Not A Name"), "can't be called that"),
        (("rollout", "start", "--product", "parts"), "no release yet"),
        (("rollout", "start", "--product", "nobody"), "nobody"),
        (("rollout", "pause"), "no rollout"), (("rollout", "status", "--channel", "beta"), "no rollout"),
        (("enroll", "--sku", "pi"), "No device is named"),
        (("enroll", "A B", "--sku", "pi"), "can't be called that"),
        (("enroll", "a", "a", "--sku", "pi"), "enrolled once"),
        (("enroll", "a", "--sku", "pie"), "No release has a build for this SKU"),
        (("enroll", "a", "--sku", "pi", "--product", "nobody"), "nobody"),
        (("enroll", "--names", "/nowhere", "--sku", "pi"), "/nowhere"),
        (("retire", "ghost"), "No such device"),
        (("collect",), "Nothing to listen to"), (("collect", "--http", "0.0.0.0:0"), "as they are"),
        (("collect", "--http", "nonsense"), "no address"), (("collect", "--mqtt", "http://x"), "no broker"),
        (("collect", "--mqtt", "mqtts://127.0.0.1:1", "--mqtt-ca", "/nowhere"), "certificate"),
        (("serve", "--http", "127.0.0.1:99999"), "no address"),
        (("status", "--db", "mysql://x/y"), "mysql"),
        (("tick", "--db", "postgresql://me:secret@127.0.0.1:1/none"), "can't be used"),
        (("tick", "--keys", "/nowhere"), "/nowhere"), (("status", "--repo", "/nowhere"), "/nowhere"),
    ],
)  # fmt: skip
def test_bad_input_ends_in_words(site: Path, arguments: tuple[str, ...], words: str) -> None:
    said = refused(site, *arguments)
    assert words in said
    assert "secret" not in said


def test_a_wrong_password_moves_nothing(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done("rollout", "start", "--product", "cells")
    monkeypatch.setenv("EDGEPRUNE_KEY_PASSWORD", "wrong password")
    before = sha256_file(site / "fleet" / "metadata")
    ended = edgeprune("rollout", "abort")
    assert (ended.returncode, sha256_file(site / "fleet" / "metadata")) == (2, before)
    assert "password" in ended.stderr
    assert "started" not in done("status", "--db", site / "other.db")


def test_enrolled_devices_speak_through_mosquitto(site: Path, tmp_path: Path) -> None:
    if (why := no_broker()) is not None:
        pytest.skip(f"left out: {why}")
    from tests.fleet.status.test_collect import speak

    broker = Mosquitto(tmp_path / "broker")
    broker.passwords.write_text("somebody:$7$101$xxxx$yyyy\n")
    broker.passwords.chmod(0o640)
    said = done("enroll", "a", "b", "--sku", "pi", "--mosquitto", broker.passwords)
    tokens = dict(line.split("\t") for line in said.splitlines())
    assert broker.passwords.stat().st_mode & 0o777 == 0o640
    lines = broker.passwords.read_text().splitlines()
    assert lines[0] == "somebody:$7$101$xxxx$yyyy"
    assert not any(token in broker.passwords.read_text() for token in tokens.values())
    broker.passwords.write_text("\n".join(lines[1:]) + "\n")
    broker.start()
    try:
        assert speak(broker, "a", ("a", b"x"), password=tokens["a"])
        assert not speak(broker, "a", ("a", b"x"), password=tokens["b"])
    finally:
        broker.stop()
    assert "1 retired" in done("retire", "a", "--mosquitto", broker.passwords)
    assert [line.split(":")[0] for line in broker.passwords.read_text().splitlines()] == ["b"]
    new = done("enroll", "b", "--sku", "pi", "--again", "--mosquitto", broker.passwords).split()
    assert new[0] == "b"
    assert new[1] != tokens["b"]


def test_a_password_file_that_cannot_be_written_enrolls_nobody(site: Path, fleet: Store, tmp_path: Path) -> None:
    (tmp_path / "passwords").write_bytes(b"\xff\xfe")
    assert "password file" in refused(site, "enroll", "a", "--sku", "pi", "--mosquitto", tmp_path / "passwords")
    assert fleet.token_sha256("a") is None


def test_without_the_extra_it_is_named(tmp_path: Path) -> None:
    """In a process where none of its packages can be imported."""
    block = (
        "import sys, importlib.abc\n"
        "class Block(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'tuf', 'sqlalchemy', 'alembic', 'paho', 'fastapi', 'uvicorn', 'psycopg'}:\n"
        "            raise ImportError(name, name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "from edgeprune.cli import app\n"
        "from typer.testing import CliRunner\n"
        "for asked in ('tick', 'status', 'serve', 'rollout start --product x', 'rollout status', 'rollout abort',\n"
        "              'enroll a --sku x', 'retire a', 'collect --http 127.0.0.1:0'):\n"
        "    ended = CliRunner().invoke(app, ['fleet', *asked.split()])\n"
        "    assert ended.exit_code == 2, asked\n"
        "    assert \"pip install 'edgeprune[fleet]'\" in ended.stderr, asked\n"
    )
    ended = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
