"""`edgeprune fleet …` as a user meets it: words, exit codes, passwords, and nothing done where it says no."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgeprune.cli import app
from edgeprune.fleet.repository import Repository
from tests.fleet.bundles import make_bundle
from tests.fleet.clients import get_release
from tests.fleet.fleets import NOW, PASSWORD, days, state_of


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("EDGEPRUNE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("EDGEPRUNE_KEY_PASSWORD", PASSWORD)
    return tmp_path


def fleet(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["fleet", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output


def refused(*arguments: object) -> str:
    """What it says; nothing in the folder has changed."""
    before = state_of(Path.cwd())
    said = fleet(*arguments, code=2)
    assert state_of(Path.cwd()) == before
    assert "Traceback" not in said
    return said


def test_from_nothing_to_a_revert(here: Path) -> None:
    said = fleet("init", "fleet", "--root-keys", 3, "--root-threshold", 2)
    assert "metadata/1.root.json" in said
    fleet("product", "add", "cells")
    first, second = (make_bundle(here / f"build-{n}", "pi", n) for n in (1, 2))
    said = fleet("publish", first, "--product", "cells", "--label", "night shift")
    assert "cells 1 night shift" in said
    assert "next: edgeprune fleet rollout start --product cells --release 1" in said
    assert "deltas of" in fleet("publish", second, "--product", "cells")
    assert "cells 3 (back to 1)" in fleet("revert", "--product", "cells", "--to", 1)
    listed = fleet("releases", "--product", "cells")
    assert re.findall(r"^cells (\d)", listed, re.MULTILINE) == ["1", "2", "3"]
    assert "everything is there and signed" in fleet("check")
    assert get_release(here / "fleet", here / "device", "cells", 3) is not None
    assert "2 of 3" in fleet("keys", "list")
    assert "nothing expires soon" in fleet("renew")
    assert "signed anew: targets" in fleet("renew", "targets")
    assert "signed by release-" in fleet("keys", "rotate", "release")
    assert get_release(here / "fleet", here / "device", "cells", 3) is not None


def test_what_is_refused_says_so_and_changes_nothing(here: Path) -> None:
    assert "no fleet repository here" in refused("releases", "--product", "cells")
    assert "no folder of keys" in refused("product", "add", "cells")
    assert "inside the folder that is served" in refused("init", "fleet", "--keys", "fleet/keys")
    assert "can't be read" in fleet("init", "other", "--keys", "k", "--signer", "root=x", code=2)
    fleet("init", "fleet")
    assert "belong to a repository already" in refused("init", "fleet")
    assert "Nobody knows the product cells" in refused("publish", make_bundle(here / "b", "pi"), "--product", "cells")
    fleet("product", "add", "cells")
    assert "can't be called that" in refused("product", "add", "Cells!")
    assert "no bundle here" in refused("publish", "nothing", "--product", "cells")
    assert "a report for each bundle" in refused(
        "publish", "b/bundle", "--product", "cells", "--report", "a", "--report", "b"
    )
    assert "has no release 3" in refused("revert", "--product", "cells", "--to", 3)
    assert "no such role of keys" in refused("keys", "rotate", "admin")
    assert "no such key here" in refused("keys", "move", "root-1", "stick")
    assert "can't be read" in refused("apply", "nothing.json")


def test_a_wrong_password_a_file_with_it_and_none(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet("init", "fleet")
    fleet("product", "add", "cells")
    bundle = make_bundle(here / "b", "pi")
    monkeypatch.setenv("EDGEPRUNE_KEY_PASSWORD_RELEASE", "something else")
    said = refused("publish", bundle, "--product", "cells")
    assert re.search(r"password of the key release-\w+ is wrong", said)
    assert PASSWORD not in said
    monkeypatch.delenv("EDGEPRUNE_KEY_PASSWORD")
    monkeypatch.delenv("EDGEPRUNE_KEY_PASSWORD_RELEASE")
    assert "no password for the release key" in refused("publish", bundle, "--product", "cells")
    monkeypatch.setenv("EDGEPRUNE_KEY_PASSWORD_FILE", str(here / "password"))
    assert "can't be read" in refused("publish", bundle, "--product", "cells")
    (here / "password").write_text(f"{PASSWORD}\n")
    fleet("publish", bundle, "--product", "cells")


def test_force_asks_and_is_recorded(here: Path) -> None:
    fleet("init", "fleet")
    fleet("product", "add", "cells")
    rejected = make_bundle(here / "b", "pi", accepted=False)
    publish = ("publish", rejected, "--product", "cells")
    assert "rejected it" in refused(*publish)
    assert "no yes" in refused(*publish, "--force", "--reason", "the customer waits")
    assert "needs a reason" in refused(*publish, "--force", "--yes")
    assert "add --force" in refused(*publish, "--reason", "the customer waits")
    said = fleet(*publish, "--force", "--yes", "--reason", "the customer waits")
    assert "forced: the customer waits" in said
    (build,) = Repository.open(here / "fleet").release("cells", 1).builds
    assert build.forced is not None
    assert build.forced.startswith("the customer waits (its report rejected it")


def test_a_sku_that_is_left_out_is_said(here: Path) -> None:
    fleet("init", "fleet")
    fleet("product", "add", "cells")
    pi, jetson = (make_bundle(here / sku, sku) for sku in ("pi", "jetson"))
    fleet("publish", pi, jetson, "--product", "cells")
    assert "keep what they have: jetson" in fleet("publish", pi, "--product", "cells")
    assert "never had the SKU toaster" in refused("publish", make_bundle(here / "t", "toaster"), "--product", "cells")


def test_holders_sign_one_after_another(here: Path) -> None:
    fleet("init", "fleet", "--root-keys", 2, "--root-threshold", 2)
    name = sorted(path.stem for path in (here / "fleet.keys").glob("root-*.json"))[0]
    fleet("keys", "move", name, "stick")
    assert f"1 of 2 signatures of the root so far; {name} can sign" in refused("keys", "rotate", "root")
    fleet("renew", "root", "--propose", "p.json")
    assert "aren't enough signatures" in refused("apply", "p.json")
    assert "no yes" in refused("sign", "p.json", "--keys", "stick")
    said = fleet("sign", "p.json", "--keys", "stick", "--yes")
    assert f"root: version 2, until {(NOW + days(365)):%Y-%m-%d}" in said
    assert "enough have signed" in said
    assert "adds a signature" in refused("sign", "p.json", "--keys", "stick", "--yes")
    fleet("apply", "p.json")
    assert (here / "fleet" / "metadata" / "2.root.json").is_file()
    fleet("keys", "move", name, "fleet.keys", "--keys", "stick")
    fleet("keys", "new", "targets", "--keys", "another")
    (theirs,) = (here / "another").glob("targets-*.json")
    assert theirs.stem in fleet("keys", "rotate", "targets", "--with", theirs)
    assert re.search(rf"{theirs.stem} +\w+ +elsewhere", fleet("keys", "list"))


def test_check_finds_what_is_missing(here: Path) -> None:
    fleet("init", "fleet")
    fleet("product", "add", "cells")
    fleet("publish", make_bundle(here / "b", "pi"), "--product", "cells")
    (archive,) = (here / "fleet" / "targets").rglob("*.tar")
    archive.unlink()
    assert "models/cells/1/pi.tar: No such file" in fleet("check", code=1)


def _typed(folder: Path, answers: list[tuple[str, str]], *arguments: str) -> tuple[int, str]:
    """Run it on a terminal and answer what it asks; returns exit code and what was on the screen."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("EDGEPRUNE_KEY")}
        os.execve(sys.executable, [sys.executable, "-m", "edgeprune", "fleet", *arguments], environment)
    screen, waiting = "", list(answers)
    while True:
        if not select.select([terminal], [], [], 120)[0]:
            os.kill(pid, signal.SIGKILL)
        try:
            part = os.read(terminal, 4096).decode()
        except OSError:
            break
        screen += part
        if waiting and waiting[0][0] in screen.rsplit("\n", 1)[-1]:
            os.write(terminal, f"{waiting.pop(0)[1]}\n".encode())
            screen += "\n"
    os.close(terminal)
    assert not waiting, screen
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), screen


def test_passwords_are_asked_for_once_a_role_and_never_shown(here: Path) -> None:
    new = [
        (question, PASSWORD)
        for role in ("root", "targets", "online", "release")
        for question in (f"Password of the {role} key: ", "Repeat for confirmation: ")
    ]
    code, screen = _typed(here, new, "init", "fleet", "--root-keys", "2")
    assert code == 0, screen
    assert PASSWORD not in screen
    asked = [(f"Password of the {role} key: ", PASSWORD) for role in ("release", "targets", "online")]
    code, screen = _typed(here, asked, "product", "add", "cells")
    assert code == 0, screen
    rejected = make_bundle(here / "b", "pi", accepted=False)
    answers = [("Publish it all the same? [y/N]: ", "y"), ("Why?: ", "a demonstration"),
               *[(f"Password of the {role} key: ", PASSWORD) for role in ("release", "online")]]  # fmt: skip
    code, screen = _typed(here, answers, "publish", str(rejected), "--product", "cells", "--force")
    assert code == 0, screen
    assert "forced: a demonstration" in screen
    code, screen = _typed(here, [("Publish it all the same? [y/N]: ", "n")], "publish", str(rejected), "--product",
                          "cells", "--force")  # fmt: skip
    assert code == 2, screen
    code, screen = _typed(here, [("Password of the release key: ", "no idea at all")], "product", "add", "toasters")
    assert code == 2, screen
    assert "is wrong" in screen
