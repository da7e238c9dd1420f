"""Every command that a person or CI runs; ``nox -l`` is the manual.

Each session makes its own environment. Plain ``nox`` runs what CI runs.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import nox

if TYPE_CHECKING:
    from collections.abc import Iterable

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_missing_interpreters = True
nox.options.reuse_venv = "yes"
# else each process that a test starts compiles its framework anew: 69 s of tests, not 36
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# uv doesn't look where pip is told to: for PyTorch without CUDA, say, which PyPI doesn't have
os.environ.setdefault("UV_FIND_LINKS", ",".join(os.environ.get("PIP_FIND_LINKS", "").split()))

ROOT = Path(__file__).parent
PLUGINS = sorted(path.name for path in (ROOT / "plugins").iterdir() if path.is_dir())
ONNX_EXAMPLE = "examples/onnx-plugin"
#: Extras of a plugin that its tests need.
EXTRAS = {
    "alibi": "[detect,explain]",
    "sklearn": "[onnx,skops,pandas]",
    "xgboost": "[cpu,sklearn]",
    "lightgbm": "[sklearn]",
    "mlflow": "[skops,parquet]",
    "mllib": "[connect]",
}
#: The plugins whose files are of tables.
TABULAR = ("sklearn", "xgboost[cpu]", "lightgbm", "catboost")
#: Plugins of which a plugin's tests load models.
BESIDE = {"alibi": TABULAR, "mlflow": TABULAR, "mllib": ("sklearn",)}
TEST_TOOLS = ("pytest>=9", "pytest-asyncio>=1", "hypothesis>=6.150", "httpx[http2]>=0.28")
# all plugins have tables of pandas and the data that scikit-learn brings in their tests
TABLES = ("pandas>=2", "scikit-learn>=1.4")
# its build without CUDA is 5 GB smaller: PIP_FIND_LINKS may name a folder or page that has it
TORCH = "torch==2.13.0"
# one of each major that a framework asks for
NUMPYS = {"1": "numpy==1.26.4", "2": "numpy>=2"}
#: Parts of the core that know nothing of arrays, nor of tables: tested with one NumPy.
ONCE = ("cache", "environments", "reload", "sources", "watch", "workers")
# where artifacts are fetched from: clients, and servers to ask that run here; and file events
STORES = (
    *("s3fs", "moto[server]", "boto3", "requests", "gcsfs", "gcp-storage-emulator", "adlfs"),
    *("huggingface_hub", "trustme", "watchfiles"),
)
# the clients' protobuf caps differ, and kserve and tritonclient.grpc can't share a process
TRITONCLIENT = "tritonclient[all]==2.73.0"
KSERVE = "kserve==0.21.0"
MLSERVER = ("mlserver==1.7.1", "uvloop<0.22")
# its own server, beside ours: the plugin needs a part of it only; its answers are compared byte by
# byte, so that what makes them is of one version on both sides
MLFLOW = "mlflow==3.17.2"
SHARED_WITH_MLFLOW = ("numpy", "pandas", "pyarrow", "scikit-learn", "skops", "pydantic")


def install(session: nox.Session, *plugins: str, also: Iterable[str] = ()) -> None:
    """Install the core, some plugins of this checkout and other distributions.

    All at once: a later install that moves protobuf would leave grpcio's companions behind.
    """
    paths = ["./core", *(f"./plugins/{name}" for name in plugins)]
    session.install(*(part for path in paths for part in ("-e", path)), *also)


def client_python(session: nox.Session, name: str, *requirements: str) -> str:
    """Make an environment of its own for a client; returns its interpreter."""
    folder = Path(session.cache_dir).resolve() / f"client-{name}"
    python = folder / "bin" / "python"
    stamp = folder / "requirements.txt"
    # what an editable install depends on is decided when it is installed
    wanted = "\n".join([*requirements, (ROOT / "core" / "pyproject.toml").read_text()])
    if not stamp.is_file() or stamp.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        if session.venv_backend == "uv":
            make, install = ["uv", "venv"], ["uv", "pip", "install", "--python", str(python)]
        else:
            make, install = ["python", "-m", "venv"], [str(python), "-m", "pip", "install"]
        session.run_install(*make, str(folder), external=True, silent=True)
        session.run_install(*install, *requirements, external=True, silent=True)
        stamp.write_text(wanted)
    return str(python)


def installed_version(session: nox.Session, distribution: str) -> str:
    """Tell the version that a session's environment has of a distribution."""
    code = f"import importlib.metadata as m; print(m.version('{distribution}'))"
    return str(session.run("python", "-c", code, silent=True)).strip()


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting and the direction of imports."""
    install(session, *PLUGINS, also=["ruff==0.17.6", "import-linter==2.16"])
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly."""
    stubs = ["grpc-stubs", "types-protobuf", "types-PyYAML"]
    tools = ["mypy==2.4.1", "nox", "rich", "pytest", "httpx", "watchfiles"]
    install(session, *PLUGINS, also=[*tools, *stubs])
    session.run("mypy", "core/src", *(f"plugins/{name}/src" for name in PLUGINS))
    session.run("mypy", f"{ONNX_EXAMPLE}/src")
    session.run("mypy", "noxfile.py", "benchmarks")


@nox.session
@nox.parametrize("numpy", list(NUMPYS))
def tests(session: nox.Session, numpy: str) -> None:
    """Test the core, on NumPy 1 with no framework installed and on NumPy 2 with pandas."""
    schemas = ["openapi-spec-validator", "jsonschema"]
    # all but tables in files has to work without pandas and pyarrow, too
    tables = ["pandas>=2", "pyarrow>=15", *STORES] if numpy == "2" else []
    tools = [*TEST_TOOLS, *schemas, "blockbuster", "pytest-xdist", "uv"]
    install(session, also=[*tools, NUMPYS[numpy], *tables])
    left_out = [f"--ignore-glob=*/test_{name}*" for name in ONCE] if numpy == "1" else []
    # two processes: the suite waits for servers and child processes as much as it computes
    session.run("pytest", "-n2", "--dist=worksteal", "core/tests", *left_out, *session.posargs)


@nox.session(default=False, python=["3.12", "3.13"])
def pythons(session: nox.Session) -> None:
    """Test the core on the other Pythons that are declared."""
    schemas = ["openapi-spec-validator", "jsonschema"]
    install(session, also=[*TEST_TOOLS, *schemas, "blockbuster"])
    session.run("pytest", "core/tests", *session.posargs)


@nox.session
@nox.parametrize("name", PLUGINS)
def plugin(session: nox.Session, name: str) -> None:
    """Test one plugin in an environment with its own framework."""
    plugins = (f"{name}{EXTRAS.get(name, '')}", *BESIDE.get(name, ()))
    # what the whole of MLflow allows
    shared = {"alibi": [TORCH], "mlflow": ["pyarrow<26", MLFLOW.replace("flow", "flow-skinny")]}
    also = [*TEST_TOOLS, *TABLES, "pytest-xdist", *shared.get(name, [])]
    install(session, *plugins, also=also)
    env = {}
    if name == "mlflow":
        pins = [f"{each}=={installed_version(session, each)}" for each in SHARED_WITH_MLFLOW]
        env["JACKFIELD_MLFLOW_PYTHON"] = client_python(session, "mlflow", MLFLOW, *pins)
    # Spark's tests are long, and Alibi's: two processes, each with what its tests share
    options = ["-n2", "--dist=loadfile"] if name in ("alibi", "mllib") else []
    more = ["-m", "not slow"] if name == "mllib" else []
    session.run("pytest", *options, *more, f"plugins/{name}/tests", *session.posargs, env=env)


@nox.session
def shap(session: nox.Session) -> None:
    """Test explainers where SHAP is, and Alibi is not: on NumPy 2."""
    install(session, "alibi[shap]", *TABULAR, also=[*TEST_TOOLS, *TABLES, NUMPYS["2"]])
    session.run("pytest", "plugins/alibi/tests", *session.posargs)


@nox.session(default=False)
def tensorflow(session: nox.Session) -> None:
    """Test the explainers that look into networks of TensorFlow, in the one that Alibi allows."""
    frameworks = ["alibi[shap,tensorflow]", "click"]
    install(session, "alibi", "sklearn", also=[*TEST_TOOLS, *TABLES, *frameworks])
    session.run("pytest", "plugins/alibi/tests/test_whitebox.py", *session.posargs)


@nox.session(default=False)
def slow(session: nox.Session) -> None:
    """Test what starts a Spark of its own: Spark Connect, executors that die. Some minutes."""
    install(session, "mllib[connect]", *BESIDE["mllib"], also=[*TEST_TOOLS, *TABLES])
    session.run("pytest", "-m", "slow", "plugins/mllib/tests", *session.posargs)


@nox.session
def contract(session: nox.Session) -> None:
    """Check that the prose is true: hooks, settings, errors, names, README, the request's path."""
    install(session, *PLUGINS, also=[*TEST_TOOLS, "mypy==2.4.1", "import-linter==2.16"])
    session.run("pytest", "tests/contract", *session.posargs)


@nox.session
def protocol(session: nox.Session) -> None:
    """Test the wire with real clients: tritonclient, kserve, MLServer's own messages."""
    install(session, "sklearn", also=[*TEST_TOOLS, TRITONCLIENT, "grpcio-tools", "pandas>=2"])
    env = {
        "JACKFIELD_KSERVE_PYTHON": client_python(session, "kserve", KSERVE, "-e", "./core"),
        "JACKFIELD_MLSERVER_PYTHON": client_python(session, "mlserver", *MLSERVER, "-e", "./core"),
    }
    session.run("pytest", "tests/protocol", *session.posargs, env=env)


@nox.session
def embedding(session: nox.Session) -> None:
    """Run the snippets of docs/embedding.md in FastAPI, Starlette, Litestar, Quart and Django."""
    install(session, also=[*TEST_TOOLS, "fastapi", "litestar>=2", "quart", "django>=5"])
    session.run(
        "pytest", "tests/embedding", "--ignore=tests/embedding/test_ray.py", *session.posargs
    )


@nox.session
def ray(session: nox.Session) -> None:
    """Run the snippet for Ray Serve on a local Ray: two replicas."""
    install(session, also=[*TEST_TOOLS, "ray[serve]==2.60.0"])
    session.run("pytest", "tests/embedding/test_ray.py", *session.posargs)


@nox.session
def e2e(session: nox.Session) -> None:
    """Test installed wheels: the command, signals, HTTP/2, reflection, the README from a clone."""
    folder = build_wheels(session, Path(session.create_tmp()) / "wheels")
    # this environment has all runtimes that go with NumPy 2 (Alibi's examples are in its plugin's
    # own tests); the one that the tests make has a single one
    every = f"jackfield[{','.join(name for name in PLUGINS if name != 'alibi')}]"
    session.install("--find-links", str(folder), every, *TEST_TOOLS)
    # these wheels, where a cache has older ones of the same version
    session.install("--force-reinstall", "--no-deps", *map(str, folder.glob("*.whl")))
    session.run("pytest", "tests/e2e", *session.posargs, env={"JACKFIELD_WHEELS": str(folder)})


@nox.session
def downstream(session: nox.Session) -> None:
    """Test a plugin of somebody else, its wheel beside the core's, by its own tests."""
    folder = build_wheels(session, Path(session.create_tmp()) / "wheels", also=[ONNX_EXAMPLE])
    session.install("--find-links", str(folder), "jackfield-onnx-example[test]")
    # these wheels, where the environment is used again and has older ones of the same version
    names = ("jackfield", "jackfield_onnx_example")
    ours = [str(file) for name in names for file in folder.glob(f"{name}-[0-9]*.whl")]
    session.install("--force-reinstall", "--no-deps", *ours)
    with session.chdir(ONNX_EXAMPLE):
        # not its checkout: what the wheel lacks, the tests lack
        session.run("pytest", "-o", "pythonpath=tests", *session.posargs)


@nox.session(default=False)
def wheels(session: nox.Session) -> None:
    """Build a wheel of each distribution into dist/."""
    print(f"wheels are in {build_wheels(session, ROOT / 'dist')}")


def build_wheels(session: nox.Session, folder: Path, *, also: Iterable[str] = ()) -> Path:
    """Build all distributions, and those in other folders, into an emptied folder."""
    session.install("build")
    shutil.rmtree(folder, ignore_errors=True)
    for path in ("core", *(f"plugins/{name}" for name in PLUGINS), *also):
        session.run("python", "-m", "build", "--wheel", "--outdir", str(folder), path, silent=True)
    return folder


@nox.session(default=False)
def chaos(session: nox.Session) -> None:
    """Kill, reload and unload at random under load for ten minutes; no answer may be wrong."""
    install(session, also=[*TEST_TOOLS, "watchfiles"])
    session.run("python", "-m", "tests.chaos", *(session.posargs or ["--watch"]))


@nox.session(default=False)
def proto(session: nox.Session) -> None:
    """Compile the .proto into the descriptors that the core ships."""
    session.install("grpcio-tools")
    session.run("python", "tests/protocol/compile_proto.py")


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Write the generated pages anew: hooks, settings, errors."""
    install(session)
    session.run("python", "docs/generate.py", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure beside the floor, MLServer and other servers; better with wrk."""
    session.run("python", "benchmarks/run.py", *session.posargs)


@nox.session(default=False)
def demo(session: nox.Session) -> None:
    """Train a real scikit-learn model and serve it."""
    install(session, "sklearn")
    folder = Path(session.create_tmp()) / "models" / "wines"
    session.run("python", "examples/sklearn/train.py", str(folder))
    session.run("jackfield", "serve", str(folder.parent), *session.posargs)
