"""Artifacts that are fetched: from a web server on loopback, and from sources made for a test."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import threading
import types
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from jackfield import (
    ArtifactSourceSpec,
    Listing,
    ModelLoadError,
    RemoteFile,
    Server,
    ServerSettings,
    SettingsError,
)
from jackfield._cli import cli
from jackfield._consent import _HARMLESS
from jackfield._plugins import discover
from jackfield._repository import Repository
from jackfield._sources.address import is_below, parse
from jackfield._sources.cache import Cache
from jackfield._sources.connecting import PlainHandler, Way
from jackfield._sources.digest import hash_artifact
from jackfield._sources.fetch import Sources, SourceSettings
from jackfield._sources.progress import Progress
from jackfield.settings import ModelParameters, ModelSettings, fields
from jackfield.stable import stable_file

DATA = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("JACKFIELD_CACHE_DIR", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path))  # of whom there is no ~/.netrc
    return folder / "artifacts"


def sources(**settings):
    return Sources(discover([]).sources, SourceSettings(**{"pauses_s": (0, 0, 0)} | settings))


def fetch(uri, sha256="", **settings):
    return sources(**settings).fetch(uri, sha256).place


def failure(uri, sha256="", **settings):
    with pytest.raises(ModelLoadError) as caught:
        fetch(uri, sha256, **settings)
    return str(caught.value)


def contents(cache):
    return [path.name for path in (cache / "content").glob("*")]


# ---- one file ----


def test_a_file_is_fetched_once_while_it_does_not_change(web, caplog):
    caplog.set_level(logging.INFO)
    web.files["/wine/model.ubj"] = DATA
    place = fetch(f"{web.url}/wine/model.ubj")
    assert place.read_bytes() == DATA
    assert (place.name, place.parent.name) == ("model.ubj", "wine")
    assert "100 % of 1.0 MB, " in caplog.text
    assert "MB/s" in caplog.text
    assert fetch(f"{web.url}/wine/model.ubj") == place
    assert web.gets() == [""]
    assert "is unchanged" in caplog.text


def test_what_changed_is_fetched_beside_what_it_was(web):
    web.files["/m.txt"] = b"old"
    old = fetch(f"{web.url}/m.txt")
    web.files["/m.txt"] = b"new"
    assert fetch(f"{web.url}/m.txt").read_bytes() == b"new"
    assert old.read_bytes() == b"old"


def test_what_is_fetched_may_be_written_by_nobody(web):
    web.files["/m.txt"] = b"x"
    assert fetch(f"{web.url}/m.txt").stat().st_mode & 0o222 == 0


def test_a_file_without_an_etag_is_fetched_at_each_start(web, caplog):
    caplog.set_level(logging.INFO)
    web.files["/m.txt"], web.has_etag = b"x", False
    assert fetch(f"{web.url}/m.txt") == fetch(f"{web.url}/m.txt")
    assert web.gets() == ["", ""]
    assert "fetched at each start" in caplog.text


def test_a_server_that_knows_no_head_is_asked_by_get(web):
    web.files["/m.txt"], web.takes_head = b"x", False
    assert fetch(f"{web.url}/m.txt").read_bytes() == b"x"


def test_a_broken_download_goes_on_where_it_broke(web, caplog):
    web.files["/m.bin"], web.faults["/m.bin"] = DATA, ["break", "busy"]
    assert fetch(f"{web.url}/m.bin").read_bytes() == DATA
    first, busy, rest = web.gets()
    assert (first, busy) == ("", rest)
    assert 0 < int(rest.removeprefix("bytes=").rstrip("-")) < len(DATA)
    assert "the connection broke after" in caplog.text


def test_a_broken_download_of_a_file_without_an_etag_begins_anew(web):
    web.files["/m.bin"], web.faults["/m.bin"], web.has_etag = DATA, ["break"], False
    assert fetch(f"{web.url}/m.bin").read_bytes() == DATA
    assert web.gets() == ["", ""]


@pytest.mark.parametrize("fault", ["break", "lie"])
def test_a_file_that_never_comes_whole_is_refused_and_nothing_is_kept(web, cache, fault):
    web.files["/m.bin"], web.has_etag = DATA, False
    web.faults["/m.bin"] = [fault] * 9
    assert "'m.bin' of '" in failure(f"{web.url}/m.bin")
    assert len(web.gets()) == 4
    assert contents(cache) == []
    assert list((cache / "partial").iterdir()) == []


def test_another_part_than_was_asked_for_is_not_joined(web):
    web.files["/m.bin"], web.faults["/m.bin"] = DATA, ["break", "begin"]
    assert fetch(f"{web.url}/m.bin").read_bytes() == DATA
    assert len(web.gets()) == 2


def test_a_file_that_is_compressed_for_the_way_is_refused(web):
    web.files["/m.bin"], web.faults["/m.bin"] = DATA, ["pack"]
    assert "compressed for the way" in failure(f"{web.url}/m.bin", pauses_s=())


def test_a_manifest_that_never_ends_is_given_up(web):
    web.files["/w/SHA256SUMS"], web.faults["/w/SHA256SUMS"] = b"", ["drip"]
    assert "SHA256SUMS did not come within 0.2 s" in failure(
        f"{web.url}/w/", wait_s=0.2, pauses_s=()
    )


def test_a_file_that_never_ends_meets_the_limits(web):
    web.files["/m.bin"], web.faults["/m.bin"] = b"", ["drip"] * 2
    uri, limits = f"{web.url}/m.bin", {"pauses_s": ()}
    web.has_etag, web.takes_head = False, False
    assert "(max_artifact_bytes)" in failure(uri, max_bytes=9, **limits)
    web.faults["/m.bin"] = ["drip"] * 2
    assert "(fetch_timeout_s)" in failure(uri, timeout_s=0.2, **limits)


def test_a_place_with_a_long_name_is_kept(web):
    web.files[f"/{'水' * 90}/m.bin"] = DATA
    assert fetch(f"{web.url}/{'%E6%B0%B4' * 90}/m.bin").read_bytes() == DATA


def test_a_file_that_stalls_is_given_up(web):
    web.files["/m.bin"], web.faults["/m.bin"] = DATA, ["stall"]
    assert "timed out" in failure(f"{web.url}/m.bin", wait_s=0.1, pauses_s=())


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("/nothing.txt", "/nothing.txt' is not there: the server answers 404"),
        ("/a/../m.txt", "has '.', '..' or '%2F' in its path"),
        ("/a/%2e%2e/m.txt", "has '.', '..' or '%2F' in its path"),
    ],
)
def test_a_url_that_names_nothing_is_refused(web, uri, problem):
    assert problem in failure(web.url + uri)


# ---- who may read ----


def test_the_user_of_a_url_is_sent_and_told_nobody(web, caplog, cache):
    caplog.set_level(logging.DEBUG)
    web.files["/m.txt"] = b"x"
    web.authorization = "Basic bWU6c2VjcmV0cGFzcw=="
    host = web.url.removeprefix("http://")
    uri = f"http://me:secretpass@{host}/m.txt?sig=signature"
    assert fetch(uri).read_bytes() == b"x"
    web.authorization = "other"
    told = failure(uri)
    assert "may not be read: the server answers 401" in told
    kept = "".join(path.read_text() for path in (cache / "uris").glob("*.json"))
    for secret in ("secretpass", "signature"):
        assert secret not in caplog.text + told + kept


def test_headers_of_the_settings_are_sent_but_to_no_other_host(web, stores):
    other = stores.WebServer()
    try:
        other.files["/m.txt"] = b"x"
        web.redirects["/m.txt"] = f"{other.url}/m.txt"
        options = {"http": {"headers": {"Authorization": "Bearer token-of-mine"}}}
        assert fetch(f"{web.url}/m.txt", options=options).read_bytes() == b"x"
        assert all(sent["authorization"] == "Bearer token-of-mine" for _, _, sent in web.requests)
        assert not any("authorization" in sent for _, _, sent in other.requests)
    finally:
        other.stop()


def test_a_header_that_was_read_from_a_file_is_sent_without_its_end(web):
    web.files["/m.txt"], web.authorization = b"x", "Bearer token-of-mine"
    options = {"http": {"headers": {"Authorization": "Bearer token-of-mine\n"}}}
    assert fetch(f"{web.url}/m.txt", options=options).read_bytes() == b"x"
    options["http"]["headers"]["Authorization"] = "Bearer token-\nof-mine"
    told = failure(f"{web.url}/m.txt", options=options)
    assert "header Authorization has characters that no header has" in told
    assert "of-mine" not in told


def test_an_unknown_option_is_refused(web):
    told = failure(f"{web.url}/m.txt", options={"http": {"header": {}}})
    assert "source_options for the web has header; known is: headers" in told


@pytest.fixture
def secure(stores, tmp_path, monkeypatch):
    """Serve HTTP and HTTPS on one port, with a certificate that is taken."""
    trustme = pytest.importorskip("trustme")
    import ssl

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    server = stores.WebServer(context)
    yield server
    server.stop()


def test_a_redirect_from_https_to_http_is_refused(web, secure, monkeypatch):
    web.files["/m.txt"] = b"x"
    secure.files["/m.txt"] = b"y"
    url = secure.url.replace("http:", "https:")
    assert fetch(f"{url}/m.txt").read_bytes() == b"y"
    secure.redirects["/down.txt"] = f"{web.url}/m.txt"
    assert "a redirect from https to http://127.0.0.1" in failure(f"{url}/down.txt")
    monkeypatch.delenv("SSL_CERT_FILE")
    assert "the server's certificate is refused" in failure(f"{url}/m.txt")
    assert web.requests == []


def test_headers_are_sent_to_no_other_scheme_of_the_same_host(secure):
    secure.files["/m.txt"] = b"x"
    secure.redirects["/up.txt"] = secure.url.replace("http:", "https:") + "/m.txt"
    options = {"http": {"headers": {"Authorization": "Bearer token-of-mine"}}}
    assert fetch(f"{secure.url}/up.txt", options=options).read_bytes() == b"x"
    told = {(path, sent.get("authorization")) for _, path, sent in secure.requests}
    assert told == {("/up.txt", "Bearer token-of-mine"), ("/m.txt", None)}


@pytest.mark.parametrize("place", ["ftp://127.0.0.1/m.txt", "file:///etc/hostname"])
def test_a_redirect_to_what_is_no_web_server_is_refused(web, place):
    web.redirects["/m.txt"] = place
    assert "not allowed" in failure(f"{web.url}/m.txt").replace("not followed", "not allowed")


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "2852039166", "0xa9fea9fe", "[fe80::1]", "[::ffff:169.254.169.254]"],
)
def test_a_redirect_to_the_metadata_of_a_cloud_is_refused(web, host):
    web.redirects["/m.txt"] = f"http://{host}/latest/meta-data/"
    told = failure(f"{web.url}/m.txt", wait_s=1)
    assert "an inner address, is not followed" in told


@pytest.mark.parametrize(
    ("addresses", "is_followed"),
    [
        (["127.0.0.1", "127.0.0.2"], True),
        (["10.0.0.1", "8.8.8.8", "10.0.0.2"], True),
        (["8.8.8.8", "1.1.1.1"], True),
        (["8.8.8.8", "8.8.8.8", "10.0.0.1"], False),
        (["8.8.8.8", "127.0.0.1"], False),
        (["8.8.8.8", "::1"], False),
        (["8.8.8.8", "fd00:ec2::254"], False),
        (["8.8.8.8", "100.100.100.200"], False),
        (["2001:4860:4860::8888", "::ffff:10.0.0.1"], False),
        (["10.0.0.1", "fe80::1%eth0"], False),
    ],
)
def test_a_redirect_from_a_public_address_leads_to_public_ones(addresses, is_followed):
    way = Way()
    way.check(addresses[0])
    for address in addresses[1:-1]:
        way.look(address, 80)
        way.check(address)
    refused = pytest.raises(ModelLoadError, match="an inner address")
    with contextlib.nullcontext() if is_followed else refused:
        way.look(addresses[-1], 80)


def test_a_name_that_gets_an_inner_address_after_the_look_is_refused(web, monkeypatch):
    way = Way()
    way.check("8.8.8.8")
    monkeypatch.setattr(way, "look", lambda host, port: None)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), PlainHandler(way))
    with pytest.raises(ModelLoadError, match="an inner address"):
        opener.open(f"{web.url}/m.txt")
    assert web.requests == []


def test_what_comes_with_a_redirect_is_not_read(web):
    web.files["/n.txt"] = b"x"
    web.redirects["/m.txt"], web.flood = "/n.txt", 0
    assert fetch(f"{web.url}/m.txt").read_bytes() == b"x"
    assert web.flood < 32 * 2**20


def test_redirects_in_a_circle_end(web):
    web.redirects["/m.txt"] = "/m.txt"
    assert "302" in failure(f"{web.url}/m.txt")


# ---- where the store is away ----


def test_what_was_fetched_last_is_served_while_the_store_is_away(web, caplog):
    web.files["/m.txt"] = b"x"
    place = fetch(f"{web.url}/m.txt")
    web.stop()
    assert fetch(f"{web.url}/m.txt") == place
    assert "SERVING WHAT WAS FETCHED LAST" in caplog.text
    assert "serve_offline is false" in failure(f"{web.url}/m.txt", serves_offline=False)
    assert "can't be reached" in failure(f"{web.url}/never.txt")


def test_what_was_fetched_last_is_not_served_for_another_pin(web):
    web.files["/m.txt"] = b"x"
    fetch(f"{web.url}/m.txt")
    web.stop()
    assert f"and {'0' * 64} is pinned" in failure(f"{web.url}/m.txt", "0" * 64)


def test_what_the_store_has_no_more_is_not_served(web):
    web.files["/m.txt"] = b"x"
    fetch(f"{web.url}/m.txt")
    del web.files["/m.txt"]
    assert "is not there" in failure(f"{web.url}/m.txt")


# ---- what is pinned ----


def test_a_pinned_file_is_checked_and_then_found_without_asking(web, cache):
    web.files["/m.bin"] = DATA
    uri = f"{web.url}/m.bin"
    assert f"is {SHA256}, and {'0' * 64} is pinned" in failure(uri, "0" * 64)
    assert contents(cache) == []
    place = fetch(uri, SHA256.upper())
    asked = len(web.requests)
    assert fetch(f"{uri}#sha256={SHA256}") == place
    assert len(web.requests) == asked
    assert "two SHA-256" in failure(f"{uri}#sha256={SHA256}", "0" * 64)


def test_a_pinned_file_that_was_changed_in_the_cache_is_not_used(web, caplog):
    web.files["/m.bin"] = DATA
    place = fetch(f"{web.url}/m.bin", SHA256)
    place.chmod(0o600)
    place.write_bytes(b"evil")
    assert fetch(f"{web.url}/m.bin", SHA256).read_bytes() == DATA
    assert "was changed in the cache" in caplog.text


def prune(days):
    result = CliRunner().invoke(
        cli, ["cache", "artifacts", "--prune", "--unused-days", str(days), "--json"]
    )
    assert result.exit_code == 0, result.output
    return json.loads(result.output)["removed"]


def test_the_cache_is_listed(web, tmp_path):
    web.files["/m.bin"] = DATA
    fetch(f"{web.url}/m.bin".replace("//", "//someone:s3cret@"))
    (tmp_path / "local.bin").write_bytes(DATA)
    stable_file(tmp_path / "local.bin", copy=True)
    fetched, copy = json.loads(CliRunner().invoke(cli, ["cache", "artifacts", "--json"]).output)
    assert (fetched["kind"], copy["kind"]) == ("artifact", "copy")
    assert fetched["description"] == f"{web.url}/m.bin"
    assert copy["description"] == "copy of local.bin"
    assert fetched["size_bytes"] == copy["size_bytes"] == len(DATA)
    listed = CliRunner().invoke(cli, ["cache"]).output
    assert f"{web.url}/m.bin" in listed
    assert "s3cret" not in listed
    assert "2 with 2 MB" in listed


def test_what_was_not_used_for_long_is_pruned(web, cache, tmp_path):
    web.files |= {"/m.bin": DATA, "/n.bin": b"new"}
    old, new = fetch(f"{web.url}/m.bin"), fetch(f"{web.url}/n.bin")
    (tmp_path / "local.bin").write_bytes(DATA)
    copy = stable_file(tmp_path / "local.bin", copy=True)
    assert prune(1) == []
    for home in (old.parents[len(old.relative_to(cache).parts) - 3], copy.parent):
        os.utime(home, (0, 0))
    assert len(prune(1)) == 2
    assert not old.exists()
    assert not copy.exists()
    assert new.exists()
    assert len(list((cache / "uris").glob("*.json"))) == 1
    # both are there again when they are asked for
    assert fetch(f"{web.url}/m.bin").read_bytes() == DATA
    assert stable_file(tmp_path / "local.bin", copy=True).read_bytes() == DATA


def test_what_a_server_has_fetched_is_not_pruned(web, cache):
    web.files["/m.bin"] = DATA
    mine = sources()
    place = mine.fetch(f"{web.url}/m.bin").place
    assert prune(0) == []
    assert place.read_bytes() == DATA
    del mine
    assert len(prune(0)) == 1
    assert not place.exists()
    assert not any(path.is_file() for path in (cache / "content").rglob("*"))


def test_of_a_uri_that_changes_the_last_contents_are_not_pruned(store):
    mine = Sources({"x": SPEC})
    places = []
    for number in range(12):
        store.files = {"m.txt": str(number).encode()}
        places.append(mine.fetch("x://store/wine").place)
    prune(0)
    assert [place.exists() for place in places] == [False] * 4 + [True] * 8


def test_what_is_pruned_just_as_it_is_found_is_fetched_again(store, monkeypatch):
    place = fetch_x()
    fcntl = pytest.importorskip("fcntl")
    lock = fcntl.flock

    def prune_first(descriptor, how):
        if how & fcntl.LOCK_SH and len(store.fetched) == 1:
            prune(0)
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", prune_first)
    assert fetch_x() == place
    assert (place / "m.txt").read_bytes() == b"x"
    assert len(store.fetched) == 2


def test_a_copy_of_what_changes_meanwhile_is_of_one_state(tmp_path, monkeypatch):
    file = tmp_path / "local.bin"
    file.write_bytes(b"old")
    copy, copied = shutil.copyfile, []

    def change_first(source, target):
        if not copied:
            file.write_bytes(b"new")
        copied.append(copy(source, target))

    monkeypatch.setattr(shutil, "copyfile", change_first)
    place = stable_file(file, copy=True)
    assert (place.read_bytes(), len(copied)) == (b"new", 2)
    assert place.parent.name == hash_artifact(place)


def test_what_was_left_half_fetched_is_pruned_unless_it_is_fetched_now(web, cache):
    web.files["/m.bin"] = DATA
    address = parse(f"{web.url}/m.bin")
    held = Cache()
    with held.lock(address.key, address.shown), held.begin(address.key) as half:
        (cache / "partial" / "killed").mkdir()
        prune(30)
        assert half.exists()
        assert not (cache / "partial" / "killed").exists()


def test_the_pin_of_a_folder_is_what_sha256sum_makes_of_it(tmp_path):
    folder = tmp_path / "a folder"
    (folder / "b" / "__pycache__").mkdir(parents=True)
    (folder / "z.txt").write_text("z")
    (folder / "b" / "a.txt").write_text("a")
    (folder / ".hidden").write_text("h")
    (folder / "b" / "__pycache__" / "a.pyc").write_text("compiled")
    command = (
        "find . -type f -not -path '*/__pycache__/*' -printf '%P\\n' | LC_ALL=C sort"
        " | xargs -d '\\n' sha256sum | sha256sum"
    )
    if sys.platform == "linux":
        found = subprocess.run(
            ["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=True
        )
        assert hash_artifact(folder) == found.stdout.split()[0]


# ---- folders ----


def manifest(files):
    lines = [f"{hashlib.sha256(data).hexdigest()}  {path}\n" for path, data in files.items()]
    return "".join(lines).encode()


def test_a_folder_of_a_web_server_is_what_its_manifest_names(web):
    files = {"model.txt": b"m", "data/a b.bin": b"d"}
    web.files = {f"/wine/3/{path}": data for path, data in files.items()}
    web.files["/wine/3/SHA256SUMS"] = manifest(files)
    place = fetch(f"{web.url}/wine/3/")
    found = {str(path.relative_to(place)): path for path in place.rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == files
    assert place.parts[-2:] == ("wine", "3")
    assert fetch(f"{web.url}/wine/3/", hash_artifact(place)) == place


def test_a_file_that_is_not_what_the_manifest_says_is_refused(web, cache):
    web.files = {"/w/SHA256SUMS": manifest({"m.txt": b"right"}), "/w/m.txt": b"wrong"}
    assert "was announced" in failure(f"{web.url}/w/")
    assert contents(cache) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "needs a file SHA256SUMS in it"),
        (b"", "0 files"),
        (b"nonsense\n", "line 1 of 'SHA256SUMS' is not of sha256sum"),
        (manifest({"../m.txt": b""}), "no path below a folder"),
        (manifest({"/m.txt": b""}), "no path below a folder"),
    ],
)
def test_a_folder_without_a_good_manifest_is_refused(web, text, problem):
    if text is not None:
        web.files["/w/SHA256SUMS"] = text
    assert problem in failure(f"{web.url}/w/")


# ---- any source ----


class Store(types.ModuleType):
    """A source that a test tells what to do."""

    def __init__(self):
        super().__init__("a_store")
        self.files = {"m.txt": b"x"}
        self.sizes = {}
        self.before_fetch = lambda path: None
        self.fetched = []
        self.lock = threading.Lock()
        store = self

        class Source:
            def __init__(self, options, *, timeout_s):
                self.options = options

            def list_files(self, uri):
                return Listing(
                    files=tuple(
                        RemoteFile(
                            path=path,
                            size=store.sizes.get(path, len(data)),
                            tag=hashlib.sha256(data).hexdigest(),
                        )
                        for path, data in store.files.items()
                    )
                )

            def fetch(self, uri, file, target, *, progress):
                with store.lock:
                    store.fetched.append(file.path)
                store.before_fetch(file.path)
                data = store.files[file.path]
                progress(len(data))
                target.write_bytes(data)

        self.Source = Source


@pytest.fixture
def store(monkeypatch):
    store = Store()
    monkeypatch.setitem(sys.modules, "a_store", store)
    return store


SPEC = ArtifactSourceSpec(schemes=("x",), source="a_store:Source", install="pip install x")


def fetch_x(uri="x://store/wine", sha256="", **settings):
    settings = SourceSettings(**{"pauses_s": (0, 0, 0)} | settings)
    return Sources({"x": SPEC}, settings).fetch(uri, sha256).place


def failure_x(**settings):
    with pytest.raises(ModelLoadError) as caught:
        fetch_x(**settings)
    return str(caught.value)


@pytest.mark.parametrize(
    "path",
    ["../m", "a/../../m", "/etc/m", "a//b", "a/./b", "", "a/", "a\\..\\b", "C:m", "a\0", "n" * 256],
)
def test_names_that_lead_elsewhere_are_refused(store, path, tmp_path):
    store.files = {"m.txt": b"x", path: b"evil"}
    assert "no path below a folder" in failure_x()
    assert store.fetched == []


@given(path=st.text(st.sampled_from("ab./\\:\0 "), min_size=1, max_size=12))
def test_a_name_is_written_below_the_folder_or_refused(path):
    from jackfield._sources.fetch import _check_paths

    try:
        _check_paths([RemoteFile(path=path)], "x")
    except ModelLoadError:
        return
    root = Path("/root/of/all")
    inside = (root / path).resolve()
    assert root in inside.parents
    assert inside == root / path


def test_a_name_that_is_a_file_and_a_folder_is_refused(store):
    store.files = {"a": b"x", "a/b": b"y"}
    assert "no path below a folder" in failure_x()


def test_what_python_compiled_elsewhere_is_not_fetched(store):
    store.files = {"m.txt": b"x", "code/__pycache__/evil.pyc": b"evil"}
    assert [path.name for path in fetch_x().rglob("*")] == ["m.txt"]


def test_the_limit_of_size_holds_for_what_is_listed_and_for_what_comes(store):
    store.files = {"a": b"12345678", "b": b"12345678"}
    assert "has 16 bytes or more, and at most 15 bytes" in failure_x(max_bytes=15)
    assert store.fetched == []
    store.sizes = dict.fromkeys(store.files, None)
    assert "and at most 15 bytes" in failure_x(max_bytes=15)


def test_a_file_of_another_length_than_was_listed_is_refused(store, cache):
    store.sizes = {"m.txt": 5}
    assert "1 bytes came of 5" in failure_x()
    assert len(store.fetched) == 4
    assert contents(cache) == []


def test_the_limit_of_time_ends_a_fetch():
    now = [0.0]
    progress = Progress("x", 10, max_bytes=10, timeout_s=5, clock=lambda: now[0])
    progress.reach("a", 1)
    now[0] = 5.5
    with pytest.raises(ModelLoadError, match=r"did not come within 5 s \(fetch_timeout_s\)"):
        progress.reach("a", 2)


def test_progress_is_told_every_few_seconds(caplog):
    caplog.set_level(logging.INFO)
    now = [0.0]
    progress = Progress("x", 40_000_000, max_bytes=10**9, timeout_s=99, clock=lambda: now[0])
    for second in range(1, 12):
        now[0] = float(second)
        progress.reach("a", second * 2_000_000)
        progress.reach("b", second * 1_000_000)
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "fetching 'x': 35 % of 40.0 MB, 2.8 MB/s",
        "fetching 'x': 72 % of 40.0 MB, 2.9 MB/s",
    ]


def test_one_file_that_fails_ends_all_and_nothing_is_kept(store, cache):
    store.files = {f"{number}.bin": b"x" for number in range(40)}

    def fail(path):
        if path == "1.bin":
            raise PermissionError("no")

    store.before_fetch = fail
    assert "'1.bin' of 'x://store/wine' may not be read: no" in failure_x()
    assert contents(cache) == []


def test_a_full_disk_is_told_at_once(store, cache):
    def fail(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    store.before_fetch = fail
    assert "No space left on device" in failure_x()
    assert store.fetched == ["m.txt"]
    assert list((cache / "partial").iterdir()) == []


def test_what_changes_while_it_is_fetched_is_fetched_again(store):
    def change(path):
        if len(store.fetched) == 1:
            store.files = {"m.txt": b"second"}

    store.before_fetch = change
    place = fetch_x()
    assert (place / "m.txt").read_bytes() == b"second"


def test_what_always_changes_is_refused(store):
    def change(path):
        store.files = {"m.txt": str(len(store.fetched)).encode()}

    store.before_fetch = change
    assert "was changed 3 times while it was fetched" in failure_x()


def test_servers_with_one_cache_fetch_once(store, caplog):
    caplog.set_level(logging.INFO)
    waits = threading.Event()

    def wait(path):
        assert waits.wait(10)

    class Told(logging.Handler):
        def emit(self, record):
            if "waiting for another" in record.getMessage():
                waits.set()

    logging.getLogger("jackfield").addHandler(told := Told())
    store.before_fetch = wait
    places = []
    try:
        threads = [threading.Thread(target=lambda: places.append(fetch_x())) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        logging.getLogger("jackfield").removeHandler(told)
    assert len(places) == 3
    assert len(set(places)) == 1
    assert store.fetched == ["m.txt"]


KILLED = """
import sys
from jackfield._plugins import discover
from jackfield._sources.fetch import Sources
Sources(discover([]).sources).fetch(sys.argv[1])
"""


def test_what_a_killed_server_left_half_is_never_used(web, cache):
    web.files["/m.bin"], web.faults["/m.bin"] = DATA, ["stall"]
    uri = f"{web.url}/m.bin"
    child = subprocess.Popen([sys.executable, "-c", KILLED, uri])
    try:
        while not web.gets():
            assert child.poll() is None
    finally:
        child.kill()
        child.wait()
    assert len(list((cache / "partial").iterdir())) == 1
    assert fetch(uri).read_bytes() == DATA
    assert list((cache / "partial").iterdir()) == []


def test_a_missing_package_is_named_with_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "a_store", None)
    assert "'x:' needs a package that is missing, a_store; install it: pip install x" in failure_x()


def test_secrets_of_options_are_in_no_error(store):
    def fail(path):
        raise RuntimeError("refused for key topsecret at https://host")

    store.before_fetch = fail
    told = failure_x(options={"x": {"key": "topsecret", "endpoint": "https://host"}})
    assert "RuntimeError: refused for key *** at https://host" in told


@pytest.mark.parametrize(
    ("uri", "options"),
    [
        ("x://store/wine?sig=c2VjcmV0&se=2030", {}),
        ("x://store/wine?sig=c2Vj%63mV0", {}),
        ("x://me:c2Vj%63mV0@store/wine", {}),
        ("x://store/wine", {"x": {"text": "Endpoint=https://store/x;AccountKey=c2VjcmV0;"}}),
        ("x://store/wine", {"x": {"url": "https://store/x?sig=c2VjcmV0"}}),
        ("x://store/wine", {"x": {"headers": {"Authorization": "Bearer c2VjcmV0\n"}}}),
    ],
)
def test_parts_of_secrets_are_in_no_error(store, uri, options):
    def fail(path):
        raise RuntimeError("refused for c2VjcmV0 at https://store/x")

    store.before_fetch = fail
    with pytest.raises(ModelLoadError, match=r"refused for \*\*\* at https://store/x"):
        fetch_x(uri, options=options)


def test_the_servers_settings_show_no_options():
    settings = ServerSettings(source_options={"s3": {"secret": "topsecret"}})
    assert "topsecret" not in repr(settings)


@pytest.mark.parametrize(
    ("uri", "prefix", "is_trusted"),
    [
        ("s3://bucket/models/wine", "s3://bucket/models", True),
        ("s3://bucket/models/wine", "s3://bucket/models/", True),
        ("s3://bucket/models", "s3://bucket/models", True),
        ("s3://bucket/models-of-others/wine", "s3://bucket/models", False),
        ("s3://bucket-of-others/wine", "s3://bucket", False),
        ("s3://Bucket/wine", "s3://bucket", False),
        ("hf://me/wine", "hf://me", True),
        ("hf://me/wine", "hf:", True),
        ("abfss://mine@account.example/wine", "abfss://mine@account.example", True),
        ("abfss://others@account.example/wine", "abfss://mine@account.example", False),
        ("abfss://others@account.example/wine", "abfss://account.example", False),
        ("https://HOST/wine", "https://host", True),
        ("http://host/wine", "https://host", False),
        ("https://host@evil/wine", "https://host", False),
        ("https://host:81/wine", "https://host", False),
        ("s3://bucket/wine", "", False),
        ("https://host/wine", "https://[host", False),
        ("s3://bucket/wine", " s3://bucket ", True),
    ],
)
def test_what_is_trusted_ends_where_a_name_ends(uri, prefix, is_trusted):
    assert is_below(parse(uri), prefix) is is_trusted


def test_a_plugins_source_goes_before_the_cores_own(add_plugin):
    code = (
        "from jackfield import ArtifactSourceSpec, hookimpl\n"
        "@hookimpl\ndef jackfield_artifact_sources():\n"
        "    return [ArtifactSourceSpec(schemes=('s3', 'x'), source='mine:Mine')]\n"
    )
    add_plugin("one", code)
    add_plugin("two", code)
    found = discover(["one", "two"])
    assert {found.sources[scheme].source for scheme in ("s3", "x")} == {"mine:Mine"}
    assert found.sources["s3a"].source.startswith("jackfield.")
    assert found.plugins[1].problem == "its scheme 's3' is jackfield-one's already"


# ---- as models ----


@pytest.fixture
def readers(add_reader):
    add_reader("text", "*.txt")
    add_reader("store", "*.store", schemes=("http", "runs"))
    return ["text", "store"]


@pytest.fixture
def scan(readers):
    def scan(*paths, **settings):
        settings = SourceSettings(**{"pauses_s": ()} | settings)
        return Repository(paths, discover(readers), sources=settings)

    return scan


def write_settings(folder, **settings):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model-settings.json").write_text(json.dumps(settings))


def serve_folder(web, root, files):
    web.files |= {f"{root}{path}": data for path, data in files.items()}
    web.files[f"{root}SHA256SUMS"] = manifest(files)
    return f"{web.url}{root}"


def test_a_file_at_a_uri_is_a_model_with_its_name(web, scan):
    web.files["/wine.txt"] = b"text of a model"
    [source] = scan(f"{web.url}/wine.txt").scan()
    assert (source.name, source.problem, source.spec.name) == ("wine", "", "text")
    assert source.artifact.read_bytes() == b"text of a model"


def test_a_folder_at_a_uri_is_scanned_as_a_local_one_is(web, scan):
    told = json.dumps({"name": "mine", "implementation": "text", "parameters": {"version": "7"}})
    files = {
        "a/model-settings.json": told.encode(),
        "a/model.txt": b"a",
        "b/2/model-settings.json": b'{"implementation": "text"}',
        "b/2/model.txt": b"b",
    }
    found = scan(serve_folder(web, "/models/", files)).scan()
    assert {(each.name, each.version, each.problem) for each in found} == {
        ("mine", "7", ""),
        ("b", "2", ""),
    }


def test_looking_again_fetches_nothing_until_it_is_asked_for(web, scan):
    web.files["/wine.txt"] = b"old"
    repository = scan(f"{web.url}/wine.txt")
    [old] = repository.scan()
    web.files["/wine.txt"] = b"new"
    asked = len(web.requests)
    assert [each.artifact for each in repository.scan()] == [old.artifact]
    assert len(web.requests) == asked
    [new] = repository.scan(refresh=True)
    assert new.artifact.read_bytes() == b"new"


def test_a_uri_that_can_not_be_fetched_is_a_model_that_says_why(web, scan):
    [source] = scan(f"{web.url}/wine/3/").scan()
    assert (source.name, source.version) == ("wine", "3")
    assert "needs a file SHA256SUMS" in source.problem


def test_a_uri_in_the_settings_is_fetched_when_the_model_loads(web, scan, models_dir):
    web.files["/wine.txt"] = b"wine"
    write_settings(models_dir / "w", parameters={"uri": f"{web.url}/wine.txt"})
    repository = scan(models_dir)
    [source] = repository.scan()
    assert (source.name, source.problem, web.requests) == ("w", "", [])
    fetched = repository.fetch(source)
    assert (fetched.spec.name, fetched.artifact.read_bytes()) == ("text", b"wine")
    assert fetched.remote == ""


def test_a_runtime_that_the_settings_name_fetches_its_own_schemes(web, scan, models_dir):
    uri = f"{web.url}/wine.store"
    write_settings(models_dir / "w", implementation="store", parameters={"uri": uri})
    repository = scan(models_dir)
    [source] = repository.scan()
    assert (source.uri, source.remote, source.spec.name) == (uri, "", "store")
    assert repository.fetch(source) is source


PICKLE = pickle.dumps({"a": 1})
REFUSED = "'model.txt' can run code when it is loaded; if you trust who can write there"


def test_a_form_that_runs_code_needs_consent(web, scan, models_dir):
    web.files["/wine/model.txt"] = PICKLE
    uri = f"{web.url}/wine/model.txt"
    [refused] = scan(uri).scan()
    assert f"it was fetched from '{uri}', and {REFUSED}" in refused.problem
    sha256 = hashlib.sha256(PICKLE).hexdigest()
    for paths, settings in [
        ([f"{uri}#sha256={sha256}"], {}),
        ([uri], {"trusted": (f"{web.url}/wine",)}),
    ]:
        [source] = scan(*paths, **settings).scan()
        assert (source.problem, source.artifact.read_bytes()) == ("", PICKLE)
    for parameters, problem in [
        ({}, REFUSED),
        ({"trust": True}, ""),
        ({"sha256": sha256}, ""),
        ({"sha256": "0" * 64}, "is pinned"),
    ]:
        write_settings(models_dir / "w", parameters={"uri": uri, **parameters})
        repository = scan(models_dir)
        [source] = repository.scan()
        if problem:
            with pytest.raises(ModelLoadError, match=problem):
                repository.fetch(source)
        else:
            assert repository.fetch(source).artifact.read_bytes() == PICKLE


def test_a_form_of_which_the_runtime_says_nothing_needs_consent(web, scan, models_dir):
    web.files["/wine.weights"] = b"who knows"
    given = {"implementation": "text", "parameters": {"uri": f"{web.url}/wine.weights"}}
    write_settings(models_dir / "w", **given)
    repository = scan(models_dir)
    [source] = repository.scan()
    with pytest.raises(ModelLoadError, match="is in no form that 'text' says is safe"):
        repository.fetch(source)


@pytest.mark.parametrize(
    ("settings", "files", "problem"),
    [
        ({"implementation": "evil.Model"}, {"evil.py": b"1 / 0"}, "code of the model's own"),
        ({"parameters": {"extra": {"a": 1}}}, {}, "it sets 'parameters.extra'"),
        ({"parameters": {"trust": True}}, {}, "it sets 'parameters.trust'"),
        ({"environment": {"requirements": ["evil"]}}, {}, "it sets 'environment'"),
        ({"environment": {"find_links": ["http://evil/"]}}, {}, "it sets 'environment'"),
        ({"environment": "./env"}, {"env/bin/python": b""}, "it sets 'environment'"),
        ({"parameters": {"environment_path": "env"}}, {}, "sets 'parameters.environment_path'"),
        ({"parameters": {"environment_tarball": "e"}}, {}, "'parameters.environment_tarball'"),
        ({"parameters": {"inference_pool_gid": "a"}}, {}, "'parameters.inference_pool_gid'"),
        ({"warm_up": ["../../other"]}, {}, "it sets 'warm_up'"),
        ({"golden": "../../other"}, {}, "it sets 'golden'"),
        ({"monitors": [{"detector": "d"}]}, {}, "it sets 'monitors'"),
        ({"parameters": {"uri": "../../../../etc"}}, {}, "'parameters.uri' leads out of it"),
        ({"parameters": {"uri": "/etc/hostname"}}, {}, "'parameters.uri' leads out of it"),
        ({"parameters": {"uri": "http://evil/m.txt"}}, {}, "'parameters.uri' leads out of it"),
        ({"parameters": {"uri": "http://[evil"}}, {}, "'parameters.uri' leads out of it"),
        ({"parameters": {"uri": "file:///etc/hostname"}}, {}, "'parameters.uri' leads out of it"),
        ({"parameters": {"uri": "..\\..\\etc"}}, {}, "'parameters.uri' leads out of it"),
    ],
)
def test_settings_from_elsewhere_that_reach_beyond_the_model_need_consent(
    web, scan, settings, files, problem
):
    files = {"model-settings.json": json.dumps(settings).encode(), "model.txt": b"x", **files}
    uri = serve_folder(web, "/w/", files)
    [source] = scan(uri).scan()
    assert problem in source.problem
    assert not any("evil/" in path for _, path, _ in web.requests)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"parameters": {"uri": "a\0b"}}, "parameters.uri can't be looked at"),
        ({"parameters": {"uri": "a" * 5000}}, "parameters.uri can't be looked at"),
        ({"parameters": {"uri": "a\0b"}, "environment": "x"}, "parameters.uri can't be looked at"),
        ({"name": "wine\n2030-01-01 ERROR all is lost"}, "can't stand in a URL"),
    ],
)
@pytest.mark.parametrize("is_local", [True, False])
def test_settings_that_no_file_should_have_are_one_models_matter(
    web, scan, models_dir, settings, problem, is_local
):
    told = json.dumps(settings).encode()
    files = {"w/model-settings.json": told, "w/1/model.txt": b"x", "v/model.txt": b"x"}
    files["v/model-settings.json"] = b'{"name": "well"}'
    if is_local:
        for path, data in files.items():
            (models_dir / path).parent.mkdir(parents=True, exist_ok=True)
            (models_dir / path).write_bytes(data)
    found = scan(models_dir if is_local else serve_folder(web, "/all/", files)).scan()
    assert [source.problem for source in found if source.name == "well"] == [""]
    problems = [source.problem for source in found if source.name != "well"]
    assert problems
    # what may not be set is told first
    assert all(problem in each or "it sets 'environment'" in each for each in problems)


@pytest.mark.parametrize("host", ["[bad", "x\u2100y"])
def test_a_uri_that_is_none_is_told_without_its_secrets(host):
    uri = f"http://me:secretpass@{host}/x"
    with pytest.raises(SettingsError, match="it is malformed") as refused:
        Repository([uri], discover([]))
    assert "malformed" in failure(uri)
    assert "secretpass" not in str(refused.value) + failure(uri)


def test_settings_from_elsewhere_that_stay_in_the_model_need_no_consent(web, scan):
    settings = {"max_restart_time": 5, "version_policy": {"latest": 1}, "parallel_workers": 2}
    files = {"model-settings.json": json.dumps(settings).encode(), "model.txt": b"x"}
    [source] = scan(serve_folder(web, "/w/", files)).scan()
    assert source.problem == ""


def test_of_each_setting_it_is_known_whether_it_needs_consent():
    needing = {"environment", "monitors", "warm_up", "golden"}
    needing |= {"trust", "extra", "environment_path", "environment_tarball", "inference_pool_gid"}
    assert not needing & _HARMLESS
    assert needing | _HARMLESS == {*fields(ModelSettings), *fields(ModelParameters)}


def test_code_from_elsewhere_is_served_where_it_is_trusted(web, scan):
    files = {
        "model-settings.json": b'{"implementation": "mine.Model"}',
        "mine.py": b"class Model: pass",
    }
    uri = serve_folder(web, "/w/", files)
    [source] = scan(uri, trusted=(uri,)).scan()
    assert (source.problem, source.spec.runtime) == ("", "mine:Model")


async def test_a_server_serves_what_it_fetches_and_loads_it_anew(
    web, readers, request_of, client_of
):
    web.files["/wine.txt"] = b"old"
    async with Server([f"{web.url}/wine.txt"], plugins=readers) as server:
        response = await server.model("wine").infer(request_of(1.0))
        assert response.outputs[0].array.tolist() == [b"old"]
        web.files["/wine.txt"] = b"new"
        async with client_of(server) as client:
            assert (await client.post("/v2/repository/models/wine/load")).status_code == 200
        response = await server.model("wine").infer(request_of(1.0))
        assert response.outputs[0].array.tolist() == [b"new"]
        [line] = await server.index()
        assert line.state == "READY"


async def test_the_index_tells_no_secret_of_a_uri(web, readers, models_dir, caplog):
    web.authorization = "somebody else's"
    uri = f"{web.url}/w.txt?sig=signature".replace("//", "//me:secretpass@")
    write_settings(models_dir / "w", parameters={"uri": uri})
    async with Server([models_dir, uri.replace("/w.txt", "/v.txt")], plugins=readers) as server:
        lines = await server.index()
    assert [line.name for line in lines] == ["v", "w"]
    for text in (*(line.reason for line in lines), caplog.text):
        assert "secretpass" not in text
        assert "signature" not in text
    assert all(f"'{web.url}/" in line.reason for line in lines)
