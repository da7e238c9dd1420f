"""Artifacts from stores, by their real clients: S3 and Google's storage by emulators of others,
the Hub and Azure's storage by ones that we play.

Each is tested where its client is installed.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from jackfield import ModelLoadError, Server, ServerSettings
from jackfield._plugins import discover
from jackfield._sources.fetch import Sources, SourceSettings

DATA = bytes(range(256)) * 4096
KEY = "key-of-the-tests"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JACKFIELD_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "artifacts"


def sources(options, **settings):
    return Sources(discover([]).sources, SourceSettings(options=options, pauses_s=(), **settings))


def failure(call, *arguments):
    with pytest.raises(ModelLoadError) as caught:
        call(*arguments)
    return str(caught.value)


# ---- S3 ----


class Bucket:
    """A bucket of a server that speaks as S3."""

    name = "models"

    def __init__(self, endpoint):
        import boto3

        self.options = {"s3": {"endpoint_url": endpoint}}
        self._client = boto3.client("s3", endpoint_url=endpoint)
        self._client.create_bucket(Bucket=self.name)

    def put(self, key, data):
        self._client.put_object(Bucket=self.name, Key=key, Body=data)


@pytest.fixture(scope="module")
def s3():
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    server.url = f"http://{host}:{port}"
    yield server
    server.stop()


@pytest.fixture
def bucket(s3, monkeypatch):
    import requests

    # where the client looks for them
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    requests.post(f"{s3.url}/moto-api/reset", timeout=10)
    return Bucket(s3.url)


def test_a_folder_of_a_bucket_is_fetched_once_while_it_does_not_change(bucket, caplog):
    caplog.set_level(logging.INFO, "jackfield")
    bucket.put("wine/", b"")
    bucket.put("wine/model.bin", DATA)
    bucket.put("wine/deep/er/a.txt", b"a")
    bucket.put("wine-of-others/b.txt", b"b")
    place = sources(bucket.options).fetch("s3://models/wine").place
    files = {str(file.relative_to(place)): file for file in place.rglob("*") if file.is_file()}
    assert {*files} == {"model.bin", "deep/er/a.txt"}
    assert files["model.bin"].read_bytes() == DATA
    assert place.parts[-2:] == ("models", "wine")
    caplog.clear()
    assert sources(bucket.options).fetch("s3://models/wine/").place == place
    assert "is unchanged" in caplog.text
    bucket.put("wine/deep/er/a.txt", b"other")
    place = sources(bucket.options).fetch("s3://models/wine").place
    assert (place / "deep/er/a.txt").read_bytes() == b"other"


def test_one_object_is_fetched_as_a_file(bucket):
    bucket.put("wine/3/model.bin", DATA)
    place = sources(bucket.options).fetch("s3://models/wine/3/model.bin").place
    assert (place.name, place.read_bytes()) == ("model.bin", DATA)


@pytest.mark.parametrize(
    "key", ["wine/../../etc/passwd", "wine//etc/passwd", "wine/a\\..\\..\\b", "wine/./a"]
)
def test_keys_that_lead_elsewhere_are_refused(bucket, cache, key):
    bucket.put("wine/a.txt", b"a")
    bucket.put(key, b"evil")
    told = failure(sources(bucket.options).fetch, "s3://models/wine")
    assert "no path below a folder" in told
    assert list((cache / "uris").glob("*.json")) == []


@pytest.mark.parametrize("uri", ["s3://models/nothing", "s3://no-bucket/wine", "s3://models/a.txt"])
def test_what_is_not_in_a_bucket_is_named(bucket, uri):
    assert f"'{uri}' is not there" in failure(sources(bucket.options).fetch, uri)


def test_a_bucket_without_credentials_is_told_so(bucket, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    bucket.put("a.txt", b"a")
    told = failure(sources(bucket.options).fetch, "s3://models/a.txt")
    assert "'s3://models/a.txt' may not be read: NoCredentialsError" in told


def test_a_store_that_is_away_is_no_store_without_the_file(bucket, caplog):
    bucket.put("a.txt", b"a")
    place = sources(bucket.options).fetch("s3://models/a.txt").place
    away = {"s3": {"endpoint_url": "http://127.0.0.1:9", "key": "me", "secret": KEY}}
    assert sources(away).fetch("s3://models/a.txt").place == place
    assert "SERVING WHAT WAS FETCHED LAST" in caplog.text
    assert "can't be reached" in failure(sources(away).fetch, "s3://models/b.txt")
    assert KEY not in caplog.text


async def test_a_server_serves_a_folder_of_a_bucket(bucket, add_reader, request_of):
    add_reader("text", "*.txt")
    told = {"name": "mine", "implementation": "text"}
    bucket.put("all/a/model-settings.json", json.dumps(told).encode())
    bucket.put("all/a/model.txt", b"hello")
    bucket.put("all/b/2/model-settings.json", b'{"implementation": "text"}')
    bucket.put("all/b/2/model.txt", b"hello again")
    settings = ServerSettings(source_options=bucket.options)
    async with Server(["s3://models/all"], settings=settings, plugins=["text"]) as server:
        lines = [(line.name, line.version, line.state) for line in await server.index()]
        assert lines == [("b", "2", "READY"), ("mine", "", "READY")]
        response = await server.model("mine").infer(request_of(1.0))
        assert response.outputs[0].array.tolist() == [b"hello"]


# ---- Google's storage ----


@pytest.fixture
def google(monkeypatch):
    # the client would ask by gRPC what kind the bucket is, which the emulator does not speak
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    gcsfs = pytest.importorskip("gcsfs")
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    server = emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket="models")
    server.start()
    port = server._api._httpd.server_port  # it is told nowhere else
    options = {"endpoint_url": f"http://127.0.0.1:{port}", "token": "anon"}
    server.options = {"gs": options, "gcs": options}
    server.put = gcsfs.GCSFileSystem(**options, skip_instance_cache=True).pipe
    yield server
    server.stop()


#: The client that puts it there warns of more at once.
SMALL = DATA[:100_000]


def test_a_folder_of_googles_storage_is_fetched_once_while_it_does_not_change(google, caplog):
    caplog.set_level(logging.INFO, "jackfield")
    google.put("models/wine/model.bin", SMALL)
    google.put("models/wine/deep/er/a.txt", b"a")
    google.put("models/wine-of-others/b.txt", b"b")
    place = sources(google.options).fetch("gs://models/wine").place
    files = {str(file.relative_to(place)): file for file in place.rglob("*") if file.is_file()}
    assert {*files} == {"model.bin", "deep/er/a.txt"}
    assert files["model.bin"].read_bytes() == SMALL
    assert place.parts[-2:] == ("models", "wine")
    caplog.clear()
    assert sources(google.options).fetch("gs://models/wine/").place == place
    assert "is unchanged" in caplog.text
    google.put("models/wine/deep/er/a.txt", b"other")
    place = sources(google.options).fetch("gcs://models/wine").place
    assert (place / "deep/er/a.txt").read_bytes() == b"other"


def test_one_object_of_googles_storage_is_fetched_as_a_file(google):
    google.put("models/wine/3/model.bin", SMALL)
    place = sources(google.options).fetch("gs://models/wine/3/model.bin").place
    assert (place.name, place.read_bytes()) == ("model.bin", SMALL)


@pytest.mark.parametrize("uri", ["gs://models/nothing", "gs://no-bucket/wine"])
def test_what_is_not_in_googles_storage_is_named(google, uri):
    assert f"'{uri}' is not there" in failure(sources(google.options).fetch, uri)


# ---- Azure's storage ----


@pytest.fixture
def azure(stores):
    pytest.importorskip("adlfs")
    server = stores.Azure()
    told = f"AccountName=me;AccountKey={AZURE_KEY};BlobEndpoint={server.url}/me;"
    options = {"connection_string": f"DefaultEndpointsProtocol=http;{told}"}
    server.options = {"az": options, "abfss": options}
    yield server
    server.stop()


AZURE_KEY = "a2V5IG9mIHRoZSB0ZXN0cw=="


def test_a_folder_of_azures_storage_is_fetched_once_while_it_does_not_change(azure, caplog):
    caplog.set_level(logging.INFO, "jackfield")
    azure.files = {"wine/model.bin": DATA, "wine/deep/a.txt": b"a", "wine-of-others/b.txt": b"b"}
    place = sources(azure.options).fetch("az://models/wine").place
    files = {str(file.relative_to(place)): file for file in place.rglob("*") if file.is_file()}
    assert {*files} == {"model.bin", "deep/a.txt"}
    assert files["model.bin"].read_bytes() == DATA
    assert place.parts[-2:] == ("models", "wine")
    assert all(sent["authorization"].startswith("SharedKey me:") for _, _, sent in azure.requests)
    caplog.clear()
    assert sources(azure.options).fetch("az://models/wine/").place == place
    assert "is unchanged" in caplog.text
    azure.files["wine/deep/a.txt"] = b"b"
    place = sources(azure.options).fetch("abfss://models@me.dfs.core.windows.net/wine").place
    assert (place / "deep/a.txt").read_bytes() == b"b"
    assert place.parts[-2:] == ("models", "wine")


def test_one_blob_of_azures_storage_is_fetched_as_a_file(azure):
    azure.files = {"wine/model.bin": DATA}
    place = sources(azure.options).fetch("az://models/wine/model.bin").place
    assert (place.name, place.read_bytes()) == ("model.bin", DATA)


def test_what_is_not_in_azures_storage_is_named(azure):
    told = failure(sources(azure.options).fetch, "az://models/nothing")
    assert "'az://models/nothing' is not there" in told
    assert AZURE_KEY not in told


# ---- the Hub ----


@pytest.fixture
def hub(stores, monkeypatch, tmp_path):
    pytest.importorskip("huggingface_hub")
    server = stores.Hub()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    yield server
    server.stop()


def test_a_repository_of_the_hub_is_fetched_once_while_it_does_not_change(hub, caplog):
    caplog.set_level(logging.INFO, "jackfield")
    hub.files = {"model.bin": DATA, "deep/a.txt": b"a"}
    options = {"hf": {"endpoint": hub.url, "token": KEY}}
    place = sources(options).fetch("hf://me/wine").place
    assert (place / "model.bin").read_bytes() == DATA
    assert (place / "deep" / "a.txt").read_bytes() == b"a"
    assert place.parts[-2:] == ("me", "wine")
    asked = len(hub.gets("/me/wine/resolve/main/model.bin"))
    assert sources(options).fetch("hf://me/wine").place == place
    assert len(hub.gets("/me/wine/resolve/main/model.bin")) == asked == 1
    hub.files["deep/a.txt"] = b"b"
    changed = sources(options).fetch("hf://me/wine@main").place
    assert (changed / "deep" / "a.txt").read_bytes() == b"b"
    assert KEY not in caplog.text


def test_a_file_of_a_repository_is_fetched_alone(hub):
    hub.files = {"model.bin": DATA, "other.bin": b"other"}
    place = sources({"hf": {"endpoint": hub.url}}).fetch("hf://me/wine/model.bin").place
    assert (place.name, place.read_bytes()) == ("model.bin", DATA)
    assert hub.gets("/me/wine/resolve/main/other.bin") == []


def test_a_repository_that_is_not_there_is_named(hub):
    told = failure(sources({"hf": {"endpoint": hub.url}}).fetch, "hf://me/nothing")
    assert "'hf://me/nothing' is not there" in told


def test_a_store_that_answers_with_a_failure_of_its_own_is_away(hub, caplog):
    hub.files = {"model.bin": DATA}
    options = {"hf": {"endpoint": hub.url}}
    place = sources(options).fetch("hf://me/wine").place
    hub.answer = lambda handler, *, has_body: hub._send(handler, 503)
    assert sources(options).fetch("hf://me/wine").place == place
    assert "SERVING WHAT WAS FETCHED LAST" in caplog.text


# ---- what is not installed ----


@pytest.mark.parametrize(
    ("uri", "package", "extra"),
    [
        ("s3://b/k", "s3fs", "s3"),
        ("gs://b/k", "gcsfs", "gcs"),
        ("az://b/k", "adlfs", "azure"),
        ("hf://b/k", "huggingface_hub", "hf"),
        ("s3://b/k", "fsspec", "s3"),
    ],
)
def test_a_missing_client_is_named_with_the_extra_that_brings_it(uri, package, extra):
    # an interpreter of its own: fsspec keeps what it has imported once
    done = subprocess.run(
        [sys.executable, "-c", MISSING, package, uri], capture_output=True, text=True, check=False
    )
    assert f'install it: pip install "jackfield[{extra}]"' in done.stderr


MISSING = """
import sys
from jackfield._plugins import discover
from jackfield._sources.fetch import Sources
sys.modules[sys.argv[1]] = None
Sources(discover([]).sources).fetch(sys.argv[2])
"""
