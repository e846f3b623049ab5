"""Addresses of devices: what is one, what isn't, and where a target may write one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.errors import DeviceError, ProfileError
from edgeprune.records import DeviceAddress, TargetProfile, read_yaml
from edgeprune.records.address import parse_address


@pytest.mark.parametrize(
    ("text", "user", "host", "port"),
    [
        ("ssh://pi@raspberrypi", "pi", "raspberrypi", None),
        ("ssh://pi@raspberrypi:2222/", "pi", "raspberrypi", 2222),
        ("ssh://alias", None, "alias", None),
        ("ssh://me@192.168.0.7:22", "me", "192.168.0.7", 22),
        ("ssh://me@[fe80::1%eth0]:22", "me", "fe80::1%eth0", 22),
        ("ssh://[::1]", None, "::1", None),
    ],
)
def test_an_address_is_read(text: str, user: str | None, host: str, port: int | None) -> None:
    assert parse_address(text) == DeviceAddress(user=user, host=host, port=port)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "doesn't begin with ssh://"),
        ("pi@raspberrypi", "doesn't begin with ssh://"),
        ("http://raspberrypi", "doesn't begin with ssh://"),
        ("LOCAL", "doesn't begin with ssh://"),
        ("ssh://", "names no host"),
        ("ssh://pi@", "names no host"),
        ("ssh://pi@:22", "names no host"),
        ("ssh://@host", "'' is no user name"),
        ("ssh://pi@host:", "'' is no port"),
        ("ssh://pi@host:0", "'0' is no port"),
        ("ssh://pi@host:65536", "'65536' is no port"),
        ("ssh://pi@host:٣", "'٣' is no port"),
        ("ssh://pi@host:ssh", "'ssh' is no port"),
        ("ssh://pi@host/home/pi", "not a folder"),
        ("ssh://pi@host?x", "not a folder"),
        ("ssh://pi@-oProxyCommand=x", "no host name"),
        ("ssh://-l@host", "no user name"),
        ("ssh://pi@ho st", "no host name"),
        ("ssh://pi@host\n", "no host name"),
        ("ssh://a@b@c", "not user@host:port"),
        ("ssh://pi@::1:22", "in brackets"),
        ("ssh://pi@[zz]", "no host name"),
    ],
)
def test_what_is_no_address_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(DeviceError) as caught:
        parse_address(text)
    assert why in str(caught.value)
    assert "ssh://user@host" in str(caught.value)


@pytest.mark.parametrize("rest", ["host", "host:22", "[::1]:22"])
def test_a_password_is_refused(rest: str) -> None:
    with pytest.raises(DeviceError) as caught:
        parse_address(f"ssh://pi:raspberry@{rest}")
    assert "it holds a password" in str(caught.value)


@pytest.mark.parametrize("rest", ["host", "host:many", "host/home", "a@b", "ho st", "::1"])
def test_a_password_is_never_repeated(rest: str) -> None:
    with pytest.raises(DeviceError) as caught:
        parse_address(f"ssh://pi:raspberry@{rest}")
    assert "raspberry" not in str(caught.value)


@given(
    st.from_regex(r"[a-z_][a-z0-9_-]{0,8}", fullmatch=True) | st.none(),
    st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}", fullmatch=True) | st.ip_addresses(v=6).map(str),
    st.integers(1, 65535) | st.none(),
)
def test_an_address_written_and_read_is_the_same(user: str | None, host: str, port: int | None) -> None:
    address = DeviceAddress(user=user, host=host, port=port)
    assert parse_address(str(address)) == address


def target(folder: Path, device: str) -> Path:
    file = folder / "pi.yaml"
    file.write_text(f"description: x\nruntime: onnxruntime\ndevice: {device}\ninput_shape: [1, 3, 320, 320]\n")
    return file


def test_a_target_says_where_it_runs(tmp_path: Path) -> None:
    assert read_yaml(target(tmp_path, "ssh://pi@host:22"), TargetProfile, ProfileError).device == "ssh://pi@host:22"
    with pytest.raises(ProfileError) as caught:
        read_yaml(target(tmp_path, "ssh://pi@host:many"), TargetProfile, ProfileError)
    assert "pi.yaml:3" in str(caught.value)
    assert "'many' is no port" in str(caught.value)
