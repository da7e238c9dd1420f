"""Environments, made by the real uv of hand-made wheels: no network."""

import asyncio
import contextlib
import functools
import http.server
import importlib.metadata
import io
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
import threading
import types
import venv
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import jackfield
from jackfield import ModelLoadError, ModelNotReadyError
from jackfield._cache_folder import cache_folder
from jackfield._cli import cli
from jackfield._environments import Running, prepare
from jackfield._environments.tarball import unpack
from jackfield._models import Models
from jackfield._plugins import discover
from jackfield._repository import Repository
from jackfield.settings import (
    EnvironmentSettings,
    ModelParameters,
    ModelSettings,
    read_model_settings,
)

if sys.platform != "win32":
    import fcntl

# uv and flock: POSIX
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such processes on Windows")

PREPARE = """
import json, logging, sys
from pathlib import Path
from jackfield._environments import prepare
from jackfield.errors import ModelLoadError
from jackfield.settings import EnvironmentSettings
logging.basicConfig(level=logging.INFO, format="%(message)s")
sys.stdin.readline()
try:
    made = prepare(EnvironmentSettings(**json.loads(sys.argv[1])), Path.cwd())
    print(json.dumps({"key": made.key, "python": str(made.python)}))
except ModelLoadError as error:
    print(json.dumps({"error": str(error)}))
"""


def write_wheel(folder, name, version="1", *, files=None, requires=()):
    """Write a wheel; without files it has one module, which tells its version."""
    files = dict(files or {f"{name}.py": f"VERSION = {version!r}\n"})
    about = f"{name}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {each}" for each in requires]
    files[f"{about}/METADATA"] = "\n".join(lines) + "\n"
    files[f"{about}/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{about}/RECORD"] = "".join(f"{each},,\n" for each in [*files, f"{about}/RECORD"])
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for each, content in files.items():
            wheel.writestr(each, content)
    return path


def installed_files(name):
    """Read the files of a distribution that is installed here, without its metadata."""
    for file in importlib.metadata.distribution(name).files:
        top = file.parts[0]
        if top == ".." or top.endswith(".dist-info") or "tests" in file.parts:
            continue
        if file.suffix != ".pyc":
            yield file.as_posix(), Path(file.locate()).read_bytes()


@pytest.fixture(scope="session")
def thin_wheels(tmp_path_factory):
    """What the core needs in each environment, packed again from what is installed here."""
    folder = tmp_path_factory.mktemp("thin")
    for name in ("pluggy", "msgspec", "numpy", "orjson"):
        version = importlib.metadata.version(name)
        write_wheel(folder, name, version, files=dict(installed_files(name)))
    return folder


@pytest.fixture(scope="session")
def uv_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("uv")


@pytest.fixture
def cache(tmp_path, monkeypatch, uv_cache):
    """An empty cache of ours, uv's cache, and no index."""
    for name in list(os.environ):
        if name.startswith(("UV_", "PIP_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("JACKFIELD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_CACHE_DIR", str(uv_cache))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path / "cache" / "environments"


@pytest.fixture
def wheels(thin_wheels, tmp_path, cache):
    """A folder of wheels: what the core needs, and a package of two versions."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for wheel in thin_wheels.iterdir():
        (folder / wheel.name).symlink_to(wheel)
    write_wheel(folder, "greeter", "1")
    write_wheel(folder, "greeter", "2", requires=["jackfield>=0.1"])
    return folder


@pytest.fixture
def settings(wheels):
    def settings(*requirements, **others):
        return EnvironmentSettings(
            requirements=list(requirements), find_links=[str(wheels)], **others
        )

    return settings


@pytest.fixture
def start(tmp_path):
    """Start a process that makes an environment once it gets a line."""
    started = []

    def start(settings, *command, **variables):
        asked = {name: getattr(settings, name) for name in ("requirements", "find_links", "path")}
        process = subprocess.Popen(
            [*command, sys.executable, "-c", PREPARE, json.dumps(asked)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=os.environ | variables,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def finish(process):
    out, err = process.communicate("\n", timeout=120)
    return json.loads(out or "{}"), err


@pytest.fixture
def stand_in_for_uv(tmp_path):
    """Put a script in the place of uv; gives the variables that a process needs for it."""

    def write(script):
        path = tmp_path / "stand-in" / "uv"
        path.parent.mkdir()
        path.write_text(f'#!/bin/sh\n{script}\nexec {find_uv()} "$@"\n')
        path.chmod(0o755)
        # a package of this name goes before the PATH
        (path.parent / "uv.py").write_text(f"def find_uv_bin():\n    return {str(path)!r}\n")
        return {"PYTHONPATH": str(path.parent)}

    return write


def find_uv():
    with contextlib.suppress(ImportError):
        import uv

        return uv.find_uv_bin()
    return shutil.which("uv")


def run(environment, code):
    """Run code in an environment as a model's process does; gives the JSON that it prints."""
    path = f"import json, sys; sys.path += {list(environment.extra_path)!r}\n"
    done = subprocess.run(
        [environment.python, "-I", "-c", path + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def left_in(cache):
    """List what was made, and wheels aside."""
    return sorted(
        path.name
        for path in (cache / "made").glob("*")
        if not path.name.startswith(("core-", "wheel-"))
    )


class TestMade:
    def test_has_its_requirements_and_the_thin_side_of_the_core(self, settings, tmp_path):
        made = prepare(settings("greeter"), tmp_path)
        found = run(
            made,
            """
            import importlib.metadata, importlib.util
            import greeter, msgspec, numpy, pluggy
            present = [n for n in ("starlette", "grpc", "google", "uvicorn", "jackfield", "click")
                       if importlib.util.find_spec(n)]
            print(json.dumps([greeter.VERSION, float(numpy.ones(3).sum()), present,
                              importlib.metadata.version("jackfield")]))
            """,
        )
        assert found == ["2", 3.0, [], jackfield.__version__]
        assert made.extra_path == ()
        assert made.description.startswith("greeter on Python 3.")

    def test_is_found_again_without_uv_index_and_wheels(
        self, settings, wheels, tmp_path, monkeypatch
    ):
        asked = settings("greeter")
        first = prepare(asked, tmp_path)
        shutil.rmtree(wheels)
        monkeypatch.setenv("PATH", "")
        monkeypatch.setitem(sys.modules, "uv", None)
        assert prepare(asked, tmp_path) == first

    def test_is_found_again_in_a_cache_that_may_only_be_read(self, settings, cache, tmp_path):
        first = prepare(settings("greeter"), tmp_path)
        # stands for that: no lock can be taken, and root may write everywhere
        shutil.rmtree(cache / "locks")
        (cache / "locks").touch()
        assert prepare(settings("greeter"), tmp_path) == first

    def test_same_packages_by_another_way_are_the_same_environment(
        self, settings, wheels, tmp_path, monkeypatch
    ):
        first = prepare(settings("greeter"), tmp_path)
        monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))  # as a machine's operator has it
        second = prepare(EnvironmentSettings(requirements=["greeter>1"]), tmp_path)
        other = prepare(EnvironmentSettings(requirements=["greeter<2"]), tmp_path)
        assert second == first
        assert other.key != first.key

    def test_a_removed_environment_is_made_again_of_the_same_versions(
        self, settings, wheels, cache, tmp_path
    ):
        first = prepare(settings("greeter"), tmp_path)
        shutil.rmtree(cache / "made")
        write_wheel(wheels, "greeter", "3")
        assert (
            run(prepare(settings("greeter"), tmp_path), "import greeter; print(greeter.VERSION)")
            == 2
        )
        assert prepare(settings("greeter"), tmp_path) == first

    def test_one_whose_interpreter_is_gone_is_made_again(self, settings, cache, tmp_path):
        first = prepare(settings("greeter"), tmp_path)
        first.python.unlink()
        first.python.symlink_to(tmp_path / "removed")
        with contextlib.suppress(FileNotFoundError):
            first.python.with_name("python3").unlink()
        again = prepare(settings("greeter"), tmp_path)
        assert run(again, "import greeter; print(greeter.VERSION)") == 2

    @pytest.mark.parametrize("content", [b"", b"\xff", b'{"record": {}}'])
    def test_one_whose_record_can_not_be_read_is_made_again(
        self, settings, cache, tmp_path, caplog, content
    ):
        first = prepare(settings("greeter"), tmp_path)
        (cache / "made" / first.key / "record.json").write_bytes(content)
        again = prepare(settings("greeter"), tmp_path)
        assert again.key == first.key
        assert run(again, "import greeter; print(greeter.VERSION)") == 2
        assert "can't be read; it is made anew" in caplog.text

    def test_who_waits_for_another_process_can_give_up(
        self, settings, cache, tmp_path, caplog, until
    ):
        caplog.set_level("INFO", logger="jackfield")
        prepare(settings("greeter"), tmp_path)
        shutil.rmtree(cache / "made")
        running = Running()
        with contextlib.ExitStack() as held, ThreadPoolExecutor(1) as pool:
            for path in (cache / "locks").iterdir():
                lock = held.enter_context(path.open())
                fcntl.flock(lock, fcntl.LOCK_EX)
            waiting = pool.submit(prepare, settings("greeter"), tmp_path, running)
            asyncio.run(until(lambda: "another process makes it; waiting" in caplog.text))
            running.stop("no more")
            with pytest.raises(ModelLoadError, match="environment: no more"):
                waiting.result(60)

    def test_what_cannot_be_resolved_is_told_in_the_resolvers_words(
        self, settings, cache, tmp_path
    ):
        with pytest.raises(ModelLoadError, match="greeter==7") as raised:
            prepare(settings("greeter==7"), tmp_path)
        assert "resolving failed" in str(raised.value)
        assert "unsatisfiable" in str(raised.value)
        assert left_in(cache) == []

    def test_a_plugin_for_another_core_is_refused(self, settings, wheels, tmp_path):
        write_wheel(wheels, "later", requires=["jackfield>=99"])
        with pytest.raises(ModelLoadError, match="jackfield>=99"):
            prepare(settings("later"), tmp_path)

    @pytest.mark.parametrize(
        ("others", "problem"),
        [
            ({"python": "3.8"}, r"python: expected .*3\.11.*, found 3\.8"),
            ({"python": "./no/python"}, "no/python does not run here"),
        ],
    )
    def test_a_python_that_cannot_be_used_is_named(self, settings, tmp_path, others, problem):
        with pytest.raises(ModelLoadError, match=problem):
            prepare(settings("greeter", **others), tmp_path)

    def test_secrets_of_an_index_are_shown_nowhere(self, cache, tmp_path, monkeypatch, caplog):
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("UV_HTTP_RETRIES", "0")
        asked = EnvironmentSettings(
            requirements=["greeter"],
            index_url="http://someone:s3cret@127.0.0.1:9/t0ken/simple?key=k3y",
        )
        caplog.set_level("DEBUG")
        with pytest.raises(ModelLoadError, match=r"127\.0\.0\.1:9") as raised:
            prepare(asked, tmp_path)
        for secret in ("someone", "s3cret", "t0ken", "k3y"):
            assert secret not in f"{raised.value} {caplog.text} {asked!r}"

    def test_without_uv_the_error_says_how_to_get_it(self, settings, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", "")
        monkeypatch.setitem(sys.modules, "uv", None)
        with pytest.raises(ModelLoadError, match=r'pip install "jackfield\[environments\]"'):
            prepare(settings("greeter"), tmp_path)

    def test_offline_takes_only_what_is_there(self, settings, tmp_path, monkeypatch):
        monkeypatch.delenv("PIP_NO_INDEX")
        made = prepare(settings("greeter", offline=True), tmp_path)
        assert run(made, "import greeter; print(greeter.VERSION)") == 2
        with pytest.raises(ModelLoadError, match="nothing-of-this-name"):
            prepare(settings("nothing-of-this-name", offline=True), tmp_path)

    def test_progress_is_logged(self, settings, tmp_path, caplog):
        caplog.set_level("INFO", logger="jackfield")
        prepare(settings("greeter"), tmp_path)
        assert "resolving greeter for Python 3." in caplog.text
        assert "packages resolved in" in caplog.text
        assert "made in" in caplog.text


class TestLocal:
    @pytest.fixture
    def sources(self, tmp_path):
        """A folder of sources that builds itself, without a backend from an index."""
        folder = tmp_path / "models" / "local"
        folder.mkdir(parents=True)
        (folder / "pyproject.toml").write_text(
            "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
            "[project]\nname = 'local'\nversion = '1'\n"
        )
        (folder / "backend.py").write_text(
            textwrap.dedent("""
            import zipfile
            from pathlib import Path

            def build_wheel(folder, settings=None, metadata=None):
                name = "local-1-py3-none-any.whl"
                about = "local-1.dist-info"
                with zipfile.ZipFile(Path(folder) / name, "w") as wheel:
                    wheel.write("local.py")
                    wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\\nName: local\\n"
                        "Version: 1\\nProvides-Extra: all\\n"
                        "Requires-Dist: greeter; extra == 'all'\\n")
                    wheel.writestr(f"{about}/WHEEL",
                        "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
                    wheel.writestr(f"{about}/RECORD", "local.py,,\\n")
                return name
            """)
        )
        (folder / "local.py").write_text("VALUE = 1\n")
        return folder

    def test_a_folder_is_built_and_built_again_when_it_changes(self, settings, sources):
        asked = settings("./local[all]")
        folder = sources.parent
        first = prepare(asked, folder)
        code = "import local, greeter; print(json.dumps([local.VALUE, greeter.VERSION]))"
        assert run(first, code) == [1, "2"]
        assert prepare(asked, folder) == first
        (sources / "local.py").write_text("VALUE = 2\n")
        assert run(prepare(asked, folder), code) == [2, "2"]
        assert run(first, code) == [1, "2"]  # which may be in use

    def test_a_wheel_is_installed_with_its_extras(self, settings, tmp_path):
        about = {"mine.py": "VALUE = 1\n"}
        write_wheel(tmp_path / "own", "mine", files=about, requires=["greeter; extra == 'all'"])
        made = prepare(settings("mine[all] @ ./own/mine-1-py3-none-any.whl"), tmp_path)
        assert run(made, "import mine, greeter; print(mine.VALUE)") == 1

    @pytest.mark.parametrize(
        ("requirement", "problem"),
        [
            ("./nowhere", "nothing lies at"),
            ("./empty", r"expected a pyproject\.toml"),
            ("-r requirements.txt", "expected a package, wheel or folder"),
            ("./jackfield-9-py3-none-any.whl", "the server's own jackfield"),
        ],
    )
    def test_what_cannot_be_a_requirement_is_refused(
        self, settings, tmp_path, requirement, problem
    ):
        (tmp_path / "empty").mkdir()
        write_wheel(tmp_path, "jackfield", "9")
        with pytest.raises(ModelLoadError, match=problem):
            prepare(settings(requirement), tmp_path)


class TestTogether:
    def test_two_processes_at_once_make_it_once(self, settings, start):
        processes = [start(settings("greeter")) for _ in range(2)]
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        (first, told), (second, also_told) = (finish(process) for process in processes)
        assert first == second
        assert "key" in first
        assert (told + also_told).count("greeter on Python") == 1  # made in … s

    def test_the_next_one_makes_it_anew_when_the_maker_was_killed(
        self, settings, start, stand_in_for_uv, cache, tmp_path
    ):
        told = tmp_path / "told"
        os.mkfifo(told)
        variables = stand_in_for_uv(
            f'case "$*" in *"pip sync"*) for each in {cache}/made/*/venv; do touch $each/half; '
            f"done; echo $$ > {told}; exec sleep 100;; esac"
        )
        killed = start(settings("greeter"), **variables)
        killed.stdin.write("\n")
        killed.stdin.flush()
        pipe = os.open(told, os.O_RDWR)  # opened so, it waits for nobody
        assert select.select([pipe], [], [], 60)[0]
        tool = int(os.read(pipe, 100))
        os.close(pipe)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        assert list(cache.glob("made/environment-*/venv/half"))

        following = start(settings("greeter"))
        following.stdin.write("\n")
        following.stdin.flush()
        # while the tool still writes there, nobody else does
        assert any("another process makes it" in line for line in following.stderr)
        os.kill(tool, signal.SIGKILL)
        made, _ = finish(following)
        assert not list(cache.glob("made/environment-*/venv/half"))
        subprocess.run([made["python"], "-c", "import greeter, numpy"], check=True)

    def test_a_file_that_grows_too_large_leaves_nothing(
        self, settings, start, stand_in_for_uv, cache, tmp_path
    ):
        variables = stand_in_for_uv(
            "case \"$*\" in *'pip sync'*) trap '' XFSZ; ulimit -f 200;; esac"
        )
        asked = settings("greeter")
        failed, _ = finish(start(asked, **variables, UV_CACHE_DIR=str(tmp_path / "uv")))
        assert "File too large" in failed["error"]
        assert left_in(cache) == []
        made, _ = finish(start(asked))
        assert "key" in made

    def test_a_full_disk_leaves_nothing(self, settings, start, cache, tmp_path):
        small = tmp_path / "small"
        small.mkdir()
        mount = f"mount -t tmpfs -o size=24m tmpfs {small}"
        inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
        if (
            shutil.which("unshare") is None
            or subprocess.run([*inside, mount], check=False).returncode
        ):
            pytest.skip("nobody but root may mount a small disk here")
        after = f'{mount} && "$@"; find {small}/ours/environments/made >&2'
        variables = {"JACKFIELD_CACHE_DIR": str(small / "ours"), "UV_CACHE_DIR": str(small / "uv")}
        process = start(settings("greeter"), *inside, after, "sh", **variables)
        failed, left = finish(process)
        assert "No space left on device" in failed["error"]
        assert "environment-" not in left

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_server_that_stops_leaves_no_tool_running(
        self, stand_in_for_uv, cache, tmp_path, number
    ):
        told = tmp_path / "told"
        os.mkfifo(told)
        # with what it started, as a compiler, it holds the pipe open
        variables = stand_in_for_uv(f"exec 9>{told}; echo runs >&9; sleep 1000; true")
        settings = {"name": "m", "environment": {"requirements": ["greeter"]}}
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "model-settings.json").write_text(json.dumps(settings))
        ports = ["--http-port=0", "--grpc-port=0", "--metrics-port=0"]
        server = subprocess.Popen(
            [sys.executable, "-m", "jackfield", "serve", str(tmp_path / "m"), *ports],
            env=os.environ | variables,
        )
        try:
            pipe = os.open(told, os.O_RDONLY | os.O_NONBLOCK)
            assert select.select([pipe], [], [], 60)[0]
            assert os.read(pipe, 100) == b"runs\n"
            server.send_signal(number)
            assert server.wait(60) == 0
            assert select.select([pipe], [], [], 60)[0]
            assert os.read(pipe, 100) == b""  # nobody holds it any more
            os.close(pipe)
        finally:
            server.kill()
            server.wait()

    def test_two_threads_at_once_make_it_once(self, settings, tmp_path, caplog):
        caplog.set_level("INFO", logger="jackfield")
        found = []
        threads = [
            threading.Thread(target=lambda: found.append(prepare(settings("greeter"), tmp_path)))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({each.key for each in found}) == 1
        assert caplog.text.count("greeter on Python") == 1


class TestGiven:
    @pytest.fixture
    def given_folder(self, tmp_path):
        """A virtual environment without a package."""
        folder = tmp_path / "given"
        venv.create(folder, symlinks=True)
        return folder

    @pytest.fixture
    def site(self, given_folder):
        return next(given_folder.glob("lib/python*/site-packages"))

    @pytest.fixture
    def packed(self, given_folder, site, tmp_path):
        """The same as venv-pack leaves it: the interpreter is a link to another machine's."""
        (site / "mine.py").write_text("VALUE = 1\n")
        for path in (given_folder / "bin").glob("python*"):
            path.unlink()
            # as uv has them: the first is elsewhere, the others are links to it
            is_first = path.name == "python"
            path.symlink_to("/opt/elsewhere/bin/python3" if is_first else "python")
        archive = tmp_path / "environment.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(given_folder, arcname=".")
        return archive

    def test_gets_beside_it_what_it_lacks(self, settings, given_folder, tmp_path):
        made = prepare(settings(path="given"), tmp_path)
        assert made.python == given_folder / "bin" / "python"
        (extra,) = made.extra_path
        code = "import numpy, msgspec, pluggy; print(json.dumps([sys.prefix, numpy.__file__]))"
        prefix, numpy_file = run(made, code)
        assert prefix == str(given_folder)
        assert Path(numpy_file).is_relative_to(extra)
        assert not list(given_folder.glob("lib/python*/site-packages/numpy"))

    def test_needs_nothing_where_it_has_all(
        self, settings, given_folder, site, thin_wheels, tmp_path, monkeypatch
    ):
        for wheel in thin_wheels.iterdir():
            with zipfile.ZipFile(wheel) as content:
                content.extractall(site)
        monkeypatch.setenv("PATH", "")
        monkeypatch.setitem(sys.modules, "uv", None)
        made = prepare(EnvironmentSettings(path=str(given_folder)), tmp_path)
        assert made.extra_path == ()
        assert prepare(EnvironmentSettings(path="given"), tmp_path).key == made.key

    def test_keeps_what_it_has_beside_further_requirements(
        self, settings, wheels, given_folder, site, tmp_path
    ):
        with zipfile.ZipFile(wheels / "greeter-1-py3-none-any.whl") as content:
            content.extractall(site)
        write_wheel(wheels, "polite", requires=["greeter"])
        made = prepare(settings("polite", path="given"), tmp_path)
        assert run(made, "import greeter, polite; print(greeter.VERSION)") == 1
        assert not (Path(made.extra_path[0]) / "greeter.py").exists()

    def test_one_with_packages_too_old_is_refused(self, settings, site, tmp_path):
        about = site / "msgspec-0.1.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: msgspec\nVersion: 0.1\n")
        with pytest.raises(ModelLoadError, match=r"expected msgspec>=.*, found 0\.1"):
            prepare(settings(path="given"), tmp_path)

    @pytest.mark.parametrize(
        ("path", "problem"),
        [
            ("nowhere", "expected a folder or tarball, found nothing"),
            ("empty", "expected bin/python"),
            ("text", "no tar file"),
            ("s3://bucket/t0ken.tar.gz", "s3://bucket/…$"),
        ],
    )
    def test_what_is_no_environment_is_named(self, settings, tmp_path, path, problem):
        (tmp_path / "empty").mkdir()
        (tmp_path / "text").write_text("no archive" * 1000)
        with pytest.raises(ModelLoadError, match=problem):
            prepare(settings(path=path), tmp_path)

    def test_a_tarball_is_unpacked_once_and_gets_an_interpreter_of_this_machine(
        self, settings, packed, cache, tmp_path
    ):
        asked = settings(path="environment.tar.gz")
        first = prepare(asked, tmp_path)
        assert first.python.is_relative_to(cache)
        code = "import mine, numpy; print(json.dumps([mine.VALUE, sys.prefix]))"
        value, prefix = run(first, code)
        assert value == 1
        assert Path(prefix).is_relative_to(cache)
        moved = packed.rename(tmp_path / "moved.tar.gz")
        again = prepare(settings(path=str(moved)), tmp_path)
        assert again == prepare(settings(path=str(moved)), tmp_path)
        assert again.key == first.key

    def test_conda_unpack_is_run_where_it_stays(self, settings, given_folder, cache, tmp_path):
        script = given_folder / "bin" / "conda-unpack"
        script.write_text(
            "import sys, pathlib\n(pathlib.Path(sys.prefix) / 'prefix').write_text(sys.prefix)\n"
        )
        for path in (given_folder / "bin").glob("python*"):
            path.unlink()
        archive = tmp_path / "environment.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(given_folder, arcname="env")
        made = prepare(settings(path="environment.tar"), tmp_path)
        place = made.python.parent.parent
        assert (place / "prefix").read_text() == str(place)

    def test_what_nobody_has_thought_of_is_a_load_error(
        self, settings, given_folder, packed, cache, tmp_path, caplog
    ):
        (given_folder / "pyvenv.cfg").write_bytes(b"home = \xff\n")
        with tarfile.open(tmp_path / "strange.tar", "w") as tar:
            tar.add(given_folder, arcname=".")
        with pytest.raises(ModelLoadError, match="environment: UnicodeDecodeError: 'utf-8' codec"):
            prepare(settings(path="strange.tar"), tmp_path)
        assert "Traceback" in caplog.text
        assert left_in(cache) == []

    def test_an_unsafe_tarball_leaves_nothing(self, settings, packed, cache, tmp_path):
        with tarfile.open(tmp_path / "bad.tar", "w") as tar:
            tar.addfile(member("bin/python", b"x"), io.BytesIO(b"x"))
            tar.addfile(member("../../../escaped", b"x"), io.BytesIO(b"x"))
        with pytest.raises(ModelLoadError, match="leads out of it"):
            prepare(settings(path="bad.tar"), tmp_path)
        assert left_in(cache) == []
        assert not list(tmp_path.rglob("escaped"))


def member(name, content=b"", *, kind=tarfile.REGTYPE, to="", size=None):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, to, 0o755
    info.size = len(content) if size is None else size
    return info


def pack(path, members):
    with path.open("wb") as file:
        for info, content in members:
            file.write(info.tobuf(tarfile.GNU_FORMAT))
            file.write(content + b"\0" * (-len(content) % 512))
        file.write(b"\0" * 1024)


class TestTarball:
    @pytest.mark.parametrize(
        ("members", "problem"),
        [
            ([("../x", {})], "leads out of it"),
            ([("a/../../x", {})], "leads out of it"),
            ([("/tmp/x", {})], "leads out of it"),
            ([("a", {"kind": tarfile.SYMTYPE, "to": "/etc/passwd"})], "the link a leads out"),
            ([("bin/python", {"kind": tarfile.SYMTYPE, "to": "/etc/passwd"})], "leads out"),
            ([("a", {"kind": tarfile.SYMTYPE, "to": "b/../.."})], "the link a leads out"),
            (
                [
                    ("a", {"kind": tarfile.SYMTYPE, "to": "."}),
                    ("a/b", {}),
                ],
                "leads over the link a",
            ),
            (
                # each of them stays inside by its own text
                [
                    ("p/q/r", {"kind": tarfile.SYMTYPE, "to": "../.."}),
                    ("t", {"kind": tarfile.SYMTYPE, "to": "p/q/r/../x"}),
                ],
                "the link t leads out",
            ),
            ([("a", {"kind": tarfile.LNKTYPE, "to": "/etc/passwd"})], "leads out of it"),
            ([("a", {"kind": tarfile.LNKTYPE, "to": "../x"})], "leads out of it"),
            (
                [
                    ("s", {"kind": tarfile.SYMTYPE, "to": "q"}),
                    ("a", {"kind": tarfile.LNKTYPE, "to": "s"}),
                ],
                "is to no file",
            ),
            ([("a", {"kind": tarfile.CHRTYPE})], "no file, folder or link"),
            ([("a", {"kind": tarfile.BLKTYPE})], "no file, folder or link"),
            ([("a", {"kind": tarfile.FIFOTYPE})], "no file, folder or link"),
            ([("a", {"size": 2**31})], "bytes unpacked, found more"),
            ([("a", {"kind": tarfile.GNUTYPE_LONGNAME, "size": 2**30})], "a header of"),
            ([("a", {"kind": tarfile.XHDTYPE, "size": 2**30})], "a header of"),
            ([("a", {"content": b"x" * 100, "size": 2000})], "no tar file that can be read"),
        ],
    )
    def test_what_no_environment_has_is_refused(self, tmp_path, members, problem):
        written = []
        for name, facts in members:
            content = facts.pop("content", b"")
            written.append((member(name, content, **facts), content))
        pack(tmp_path / "x.tar", written)
        (tmp_path / "out").mkdir()
        with pytest.raises(ModelLoadError, match=problem):
            unpack(tmp_path / "x.tar", tmp_path / "out")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "x.tar"]

    def test_too_many_members_are_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr("jackfield._environments.tarball.MAX_MEMBERS", 3)
        pack(tmp_path / "x.tar", [(member(f"f{index}"), b"") for index in range(4)])
        with pytest.raises(ModelLoadError, match="at most 3 members"):
            unpack(tmp_path / "x.tar", tmp_path)

    @pytest.mark.parametrize("form", ["w", "w:gz", "w:bz2", "w:xz"])
    def test_files_folders_and_links_are_unpacked(self, tmp_path, form):
        written = np.random.default_rng(0).bytes(100_000)
        with tarfile.open(tmp_path / "x.tar", form) as tar:
            tar.addfile(member("lib", kind=tarfile.DIRTYPE))
            tar.addfile(member("lib/a", written), io.BytesIO(written))
            tar.addfile(member("lib64", kind=tarfile.SYMTYPE, to="lib"))
            tar.addfile(member("b", kind=tarfile.LNKTYPE, to="lib/a"))
            tar.addfile(member("x" * 150 + "/" + "y" * 150, b"1"), io.BytesIO(b"1"))
        (tmp_path / "out").mkdir()
        unpack(tmp_path / "x.tar", tmp_path / "out")
        assert (tmp_path / "out" / "lib64" / "a").read_bytes() == written
        assert (tmp_path / "out" / "b").read_bytes() == written
        assert os.access(tmp_path / "out" / "lib" / "a", os.X_OK)
        assert (tmp_path / "out" / ("x" * 150) / ("y" * 150)).read_bytes() == b"1"

    NAMES = st.lists(st.sampled_from(["a", "b", "c", "..", ".", "", "/"]), min_size=1, max_size=4)
    KINDS = st.sampled_from(
        [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]
    )

    @given(members=st.lists(st.tuples(NAMES, KINDS, NAMES), min_size=1, max_size=8))
    def test_whatever_it_has_nothing_leads_out(self, members, tmp_path_factory):
        place = tmp_path_factory.mktemp("tar")
        root = place / "deep" / "root"
        root.mkdir(parents=True)
        written = [
            (member("/".join(name), kind=kind, to="/".join(to)), b"") for name, kind, to in members
        ]
        pack(place / "x.tar", written)
        is_whole = False
        with contextlib.suppress(ModelLoadError, OSError):
            unpack(place / "x.tar", root)
            is_whole = True
        outside = [path for path in place.rglob("*") if not path.is_relative_to(root)]
        assert sorted(path.name for path in outside) == ["deep", "x.tar"]
        for path in root.rglob("*"):
            assert path.is_symlink() or path.is_file() or path.is_dir()
            if is_whole:
                assert Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


class TestLoads:
    """Models whose environment is made, as the server has them."""

    @pytest.fixture
    def hanging_uv(self, tmp_path, monkeypatch):
        """Put in the place of uv what tells its process and does nothing; gives where it tells."""
        script = tmp_path / "uv"
        script.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid.new\n")
        with script.open("a") as file:
            file.write(f"mv {tmp_path}/pid.new {tmp_path}/pid\nexec sleep 3600\n")
        script.chmod(0o755)
        stand_in = types.ModuleType("uv")
        stand_in.find_uv_bin = lambda: str(script)
        monkeypatch.setitem(sys.modules, "uv", stand_in)
        return tmp_path / "pid"

    @pytest.fixture
    async def models(self, add_model, models_dir, cache):
        add_model("apart", environment={"requirements": ["greeter"]})
        add_model("double")
        models = Models(Repository([models_dir], discover(())))
        models.open()
        yield models
        await models.close(5)

    async def test_an_unload_gives_up_what_is_made_at_the_start(self, models, hanging_uv, until):
        starting = asyncio.create_task(models.start())
        await until(hanging_uv.exists)
        await until(lambda: models.names() == ["double"])
        [apart, double] = await models.index()
        assert (double.name, double.state) == ("double", "READY")
        assert (apart.state, apart.reason) == ("LOADING", "its environment is being prepared")
        assert models.problem == (
            "models are loading; model 'apart': its environment is being prepared"
        )
        with pytest.raises(ModelNotReadyError, match="its environment is being prepared"):
            models.get("apart")
        async with asyncio.timeout(30):
            await models.unload("apart")
            await starting
        with pytest.raises(ProcessLookupError):
            os.kill(int(hanging_uv.read_text()), 0)
        assert [(each.name, each.state, each.reason) for each in await models.index()] == [
            ("apart", "UNAVAILABLE", "unloaded"),
            ("double", "READY", ""),
        ]

    async def test_an_unload_gives_up_loads_that_wait_for_their_turn_too(
        self, models, hanging_uv, until
    ):
        await models.start(load=False)
        loads = [asyncio.create_task(models.load("apart")) for _ in range(2)]
        await until(hanging_uv.exists)
        async with asyncio.timeout(30):
            await models.unload("apart")
            for load in loads:
                with pytest.raises(ModelNotReadyError, match="given up, since the model is unload"):
                    await load
        assert models.state("apart").reason.endswith("unloaded")

    async def test_the_end_of_the_server_and_of_who_asked_end_it_too(
        self, models, hanging_uv, until
    ):
        await models.start(load=False)
        asked = asyncio.create_task(models.load("apart"))
        await until(hanging_uv.exists)
        asked.cancel()
        await asyncio.wait([asked])

        def is_gone():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(hanging_uv.read_text()), 0)
                return False
            return True

        await until(is_gone)
        hanging_uv.unlink()
        asked = asyncio.create_task(models.load("apart"))
        await until(hanging_uv.exists)
        await models.close(5)
        with pytest.raises(ModelNotReadyError, match="the server stops"):
            await asked
        await until(is_gone)

    async def test_whatever_keeps_an_environment_from_being_made_the_others_serve(
        self, models, monkeypatch
    ):
        def fail(*_):
            raise KeyError("nobody has thought of it")

        monkeypatch.setattr("jackfield._models.resolve_in_host", fail)
        await models.start()
        assert models.names() == ["double"]
        reason = "failed to load: KeyError: 'nobody has thought of it'"
        assert (await models.index())[0].reason == reason
        with pytest.raises(ModelNotReadyError, match=reason):
            await models.load("apart")


class TestCommand:
    @pytest.fixture
    def jackfield_cache(self):
        def call(*options):
            result = CliRunner().invoke(cli, ["cache", "environments", *options])
            assert result.exit_code == 0, result.output
            return result.output

        return call

    def test_lists_what_was_made(self, settings, cache, tmp_path, jackfield_cache):
        made = prepare(settings("greeter"), tmp_path)
        assert made.key in jackfield_cache()
        stood_in, found = json.loads(jackfield_cache("--json"))
        assert stood_in["kind"] == "wheel"
        assert found["kind"] == "environment"
        assert "greeter==2" in found["packages"]
        assert found["size_bytes"] > 1e6

    def test_prunes_what_nobody_uses(self, settings, cache, tmp_path, jackfield_cache):
        used = prepare(settings("greeter"), tmp_path)
        unused = prepare(settings("greeter<2"), tmp_path).key
        half = cache / "made" / "environment-half"
        half.mkdir()
        assert unused not in jackfield_cache("--prune")  # used today
        assert not half.exists()
        assert jackfield_cache("--prune", "--unused-days", "0").count("removed env") == 1
        assert left_in(cache) == [used.key]
        assert run(used, "import greeter; print(greeter.VERSION)") == 2
        del used
        jackfield_cache("--prune", "--unused-days", "0")
        assert left_in(cache) == []

    def test_shows_no_more_of_a_url_than_its_host(
        self, settings, wheels, tmp_path, jackfield_cache
    ):
        handler = functools.partial(QuietHandler, directory=wheels)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            host = f"127.0.0.1:{server.server_port}"
            url = f"http://someone:s3cret@{host}/greeter-1-py3-none-any.whl"
            made = prepare(settings(f"greeter @ {url}"), tmp_path)
            server.shutdown()
        assert run(made, "import greeter; print(greeter.VERSION)") == 1
        shown = f"{made} {jackfield_cache()} {jackfield_cache('--json')}"
        assert host in shown
        assert "someone" not in shown
        assert "s3cret" not in shown

    def test_an_empty_cache_is_no_error(self, cache, jackfield_cache):
        assert jackfield_cache().startswith("0 with 0 MB")


class TestSettings:
    def test_the_names_of_mlserver_stand_for_ours(self):
        for name in ("environment_path", "environment_tarball"):
            parameters = ModelParameters(**{name: "env.tar.gz"})
            assert ModelSettings(parameters=parameters).own_environment == EnvironmentSettings(
                path="env.tar.gz"
            )

    def test_requirements_go_beside_the_environment_of_mlserver(self):
        settings = ModelSettings(
            environment=EnvironmentSettings(requirements=["greeter"]),
            parameters=ModelParameters(environment_tarball="env.tar.gz"),
        )
        assert settings.own_environment == EnvironmentSettings(
            requirements=["greeter"], path="env.tar.gz"
        )

    def test_by_default_there_is_none(self):
        assert ModelSettings().own_environment is None
        assert ModelSettings(environment="").own_environment is None

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("envs/mine", EnvironmentSettings(path="envs/mine")),
            ('{"python": "3.12"}', EnvironmentSettings(python="3.12")),
        ],
    )
    def test_a_variable_holds_a_path_or_json(self, text, expected):
        settings, _ = read_model_settings(None, environ={"JACKFIELD_MODEL_ENVIRONMENT": text})
        assert settings.own_environment == expected

    def test_the_cache_folder_follows_its_variables(self, tmp_path, monkeypatch):
        monkeypatch.setenv("JACKFIELD_CACHE_DIR", str(tmp_path / "ours"))
        assert cache_folder("things") == tmp_path / "ours" / "things"
        assert (tmp_path / "ours" / "things").is_dir()
        monkeypatch.delenv("JACKFIELD_CACHE_DIR")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        if sys.platform == "linux":
            assert cache_folder("things") == tmp_path / "xdg" / "jackfield" / "things"
        (tmp_path / "file").touch()
        monkeypatch.setenv("JACKFIELD_CACHE_DIR", str(tmp_path / "file"))
        with pytest.raises(ModelLoadError, match="set JACKFIELD_CACHE_DIR"):
            cache_folder("things")
