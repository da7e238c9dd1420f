"""Each framework's snippet, served as its reader would serve it."""

import re

import httpx
import pytest
from tests.embedding.conftest import RUNNERS
from tests.embedding.snippets import snippets

FRAMEWORKS = ["fastapi", "own_lifespan", "starlette", "litestar", "quart", "django"]
REQUEST = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP64", "data": [6, 3, 5.1, 2]}]}

SETTINGS = """
SECRET_KEY = "of a test"
ROOT_URLCONF = "website.urls"
ALLOWED_HOSTS = ["127.0.0.1"]
"""
URLS = """
from django.http import HttpResponse
from django.urls import path


async def hello(request):
    return HttpResponse("hello")


urlpatterns = [path("hello", hello)]
"""


@pytest.fixture
def website(home):
    """A Django project."""
    folder = home / "website"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "settings.py").write_text(SETTINGS)
    (folder / "urls.py").write_text(URLS)


def test_every_snippet_is_run():
    others = {"sync", "grpc", "ray"}
    assert set(snippets()) == {*FRAMEWORKS, *others}


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("name", FRAMEWORKS)
@pytest.mark.usefixtures("website")
def test_the_rest_api_is_there_below_a_mount_in(name, runner, serve, log):
    with serve(name, runner) as client:
        assert client.get("/ml/v2/health/ready").json() == {"live": True, "ready": True}
        assert client.get("/ml/v2").json()["name"] == "jackfield"
        assert client.get("/ml/v2/models/iris").json()["inputs"][0]["shape"] == [-1, 4]
        answer = client.post("/ml/v2/models/iris/infer", json=REQUEST)
        assert answer.json()["outputs"][0]["data"] == [2]
        with client.stream("POST", "/ml/v2/models/iris/infer_stream", json=REQUEST) as stream:
            assert next(stream.iter_lines()).startswith("data: {")

        answer = client.post("/ml/v2/models/irsi/infer", json=REQUEST)
        assert answer.status_code == 404
        assert answer.json()["error"].endswith("did you mean 'iris'")
        answer = client.post("/ml/v2/models/iris/infer", json={"inputs": []})
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("model 'iris': inputs: expected")
        assert client.get("/ml/nothing").status_code == 404
        assert log() == ["load"]
    assert log() == ["load", "close"]


@pytest.mark.parametrize("name", FRAMEWORKS)
@pytest.mark.usefixtures("website")
def test_the_docs_page_finds_its_document_and_files_below_a_mount_in(name, serve):
    with serve(name) as client:
        for page in ("/ml/v2/docs", "/ml/v2/models/iris/docs"):
            text = client.get(page).text
            assert client.get(f"{page}/dataplane.json").json()["openapi"] == "3.1.0"
            (script,) = (part for part in text.split('"') if "docs.js" in part)
            # as a browser follows a link
            assert client.get(httpx.URL(client.base_url.join(page)).join(script)).status_code == 200


@pytest.mark.usefixtures("website")
def test_the_apps_own_routes_stay_and_may_call_a_model(serve):
    with serve("fastapi") as client:
        assert client.get("/kind", params={"petal_length": 1.4}).json() == 0
        answer = client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=")
        assert 'jackfield_infer_requests_total{model="iris",outcome="success"' in answer.text
    with serve("quart") as client:
        assert client.get("/kind/5.1").json() == {"kind": 2}
    with serve("django") as client:
        assert client.get("/hello").text == "hello"


@pytest.mark.parametrize("name", ["fastapi", "starlette", "litestar", "django"])
@pytest.mark.usefixtures("website")
def test_a_forgotten_lifespan_is_told_with_what_to_add_in(name, serve, home, monkeypatch):
    text = snippets()[name]
    without = re.sub(r"lifespan=(server\.lifespan|\[server\.lifespan])", "debug=False", text)
    assert without != text
    monkeypatch.setattr("tests.embedding.snippets.snippets", lambda: {name: without})
    with serve(name) as client:
        for answer in (
            client.post("/ml/v2/models/iris/infer", json=REQUEST),
            client.get("/ml/v2/health/ready"),
            client.post("/ml/v2/repository/models/iris/load"),
        ):
            assert answer.status_code == 503
            assert "'lifespan=server.lifespan' to the app that mounts it" in answer.json()["error"]
