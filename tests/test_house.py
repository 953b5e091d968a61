"""The rules of the house: who may import whom, and what no file may contain.

Imports are read from the syntax tree, nested ones included, and checked once more in a fresh interpreter,
which also sees what the imported packages pull in.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HARNESS = ROOT / "harness"
WORKER = HARNESS / "worker"
MAX_LINES, MAX_LINES_IN_HARNESS, MAX_ROOMS = 600, 350, 10
# The rooms of the harness along the way of a run; each may import itself and those before it.
ROOMS = ("values", "ask", "judge", "sinks", "run")
# What a user calls, on top of the rooms; one door may use another.
DOORS = ("__main__", "compare", "gate", "log")
# Beside them: what measures, and what is shipped.
BESIDE = ("data", "worker")
# The files of values/ that need more than the standard library: to calculate, and to read parquet.
BEYOND_STANDARD = {
    HARNESS / "values" / "estimates.py": {"numpy", "scipy"},
    HARNESS / "values" / "sentence_pairs.py": {"pyarrow"},
}


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def cpp_files(folder: str) -> list[Path]:
    suffixes = {".cpp", ".h", ".hpp", ".inl"}
    return sorted(path for path in (ROOT / "cpp" / folder).rglob("*") if path.suffix in suffixes)


PARENT = [path for path in python_files("harness") if WORKER not in path.parents]
WORKERS = python_files("harness/worker")
OP = python_files("op/bert_op")


def named(paths: list[Path]) -> list:
    """The files as pytest parameters, each named by its path in the repository."""
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in paths]


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of all modules that the code imports, wherever the statement stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (str(arg.value) for arg in node.args if isinstance(arg, ast.Constant))


def packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(ast.parse(path.read_text()))}


def module_name(path: Path, base: Path) -> str:
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def loaded_by(modules: list[str]) -> set[str]:
    """Top-level packages in `sys.modules` of a fresh interpreter after it imported the modules."""
    lines = [f"import {name}" for name in modules]
    code = "\n".join(["import sys", *lines, "print(*{name.split('.')[0] for name in sys.modules})"])
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def room(module: str) -> str:
    """The room or door of a module of the harness: `harness.run.job` is in `run`."""
    return module.split(".")[1] if "." in module else "__init__"


def neighbours(path: Path) -> set[str]:
    """Rooms and doors of the harness that a file imports something from, wherever the statement stands."""
    found = imported(ast.parse(path.read_text()))
    return {room(name) for name in found if name.split(".")[0] == "harness"} - {"__init__"}


def harness_modules() -> dict[str, Path]:
    """All modules of the harness by their full names; packages are left out where they hold no code."""
    return {
        module_name(path, ROOT): path
        for path in python_files("harness")
        if path.name != "__init__.py" or imported_here(path)
    }


def imported_here(path: Path) -> set[str]:
    """The modules of the harness that a file imports, wherever the statement stands."""
    every = {module_name(one, ROOT) for one in python_files("harness")}
    return every & set(imported(ast.parse(path.read_text())))


# --- who may import whom -----------------------------------------------------------------------------------


def test_the_rooms_are_where_the_tests_look():
    assert PARENT and WORKERS and OP
    assert all(cpp_files(folder) for folder in ("kernels", "encoder", "bindings"))


@pytest.mark.parametrize("path", named(PARENT))
def test_parent_names_no_torch(path):
    assert not packages(path) & {"torch", "transformers", "bert_op"}
    names = set(imported(ast.parse(path.read_text())))
    assert not any(name.startswith("harness.worker") for name in names)


@pytest.mark.parametrize("path", named(WORKERS))
def test_worker_names_no_hydra_and_no_mlflow(path):
    assert not packages(path) & {"hydra", "omegaconf", "mlflow"}


@pytest.mark.parametrize("path", named(OP))
def test_op_names_neither_harness_nor_its_tools(path):
    assert not packages(path) & {"harness", "hydra", "omegaconf", "mlflow"}


def test_parent_loads_no_torch():
    loaded = loaded_by([module_name(path, ROOT) for path in PARENT])
    assert not loaded & {"torch", "transformers"}


def test_worker_and_op_load_no_hydra_and_no_mlflow():
    loaded = loaded_by([*(module_name(path, ROOT) for path in WORKERS), "bert_op"])
    assert "torch" in loaded
    assert not loaded & {"hydra", "omegaconf", "mlflow"}


def allowed_to(own: str) -> set[str]:
    """What a file of this room, or this door, may import of the harness."""
    if own == "worker":
        return {"worker", "values"}
    return {*ROOMS, *DOORS} if own in DOORS else set(ROOMS[: ROOMS.index(own) + 1])


@pytest.mark.parametrize("path", named([path for path in python_files("harness") if path.parent != HARNESS]))
def test_no_arrow_goes_upwards(path):
    own = path.relative_to(HARNESS).parts[0]
    assert neighbours(path) <= allowed_to(own)


@pytest.mark.parametrize("door", ["__main__", "gate", "log"])
def test_a_door_opens_rooms_only(door):
    assert neighbours(HARNESS / f"{door}.py") <= allowed_to(door)


def test_the_harness_has_no_other_rooms_and_doors():
    folders = {path.name for path in HARNESS.iterdir() if path.is_dir() and path.name != "__pycache__"}
    files = {path.stem for path in HARNESS.glob("*.py")} - {"__init__"}
    assert folders | files == {*ROOMS, *DOORS, *BESIDE}
    assert len(folders) <= MAX_ROOMS


def test_no_module_of_the_harness_needs_itself():
    """No circle, whichever way it goes."""
    needs = {module_name(path, ROOT): imported_here(path) for path in python_files("harness")}
    while needs:
        free = {name for name, those in needs.items() if not those & (needs.keys() - {name})}
        assert free, f"a circle among {sorted(needs)}"
        needs = {name: those for name, those in needs.items() if name not in free}


@pytest.mark.parametrize("path", named(sorted((HARNESS / "values").glob("*.py"))))
def test_what_both_processes_share_needs_the_standard_library_only(path):
    assert packages(path) - set(sys.stdlib_module_names) - {"harness"} == BEYOND_STANDARD.get(path, set())


def test_the_values_themselves_load_nothing_else():
    """Not even when a file is read that needs more for some of what it does."""
    calculates = HARNESS / "values" / "estimates.py"
    modules = [module_name(path, ROOT) for path in (HARNESS / "values").glob("*.py") if path != calculates]
    assert not loaded_by(modules) & {"numpy", "scipy", "pyarrow"}


@pytest.mark.parametrize("path", named(python_files("harness")))
def test_imports_are_absolute(path):
    """The tests of this file see no others."""
    nodes = ast.walk(ast.parse(path.read_text()))
    assert not [node.lineno for node in nodes if isinstance(node, ast.ImportFrom) and node.level]


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


TORCH = ("torch/", "ATen/", "c10/", "caffe2/")
PYTHON = ("Python.h", "pybind11/", "numpy/")


@pytest.mark.parametrize("path", named([*cpp_files("kernels"), *cpp_files("encoder")]))
def test_kernels_and_encoder_know_neither_torch_nor_python(path):
    assert not [header for header in includes(path) if header.startswith((*TORCH, *PYTHON))]


def test_one_file_knows_torch():
    knows = {path.name for path in cpp_files(".") if any(h.startswith(TORCH) for h in includes(path))}
    assert knows == {"torch_library.cpp"}
    library = ROOT / "cpp" / "bindings" / "torch_library.cpp"
    assert not [header for header in includes(library) if header.startswith(PYTHON)]


# --- what no file may contain ------------------------------------------------------------------------------

BUILD_FILES = [ROOT / "CMakeLists.txt", ROOT / "Makefile", ROOT / "pyproject.toml", *ROOT.glob("cmake/*")]


@pytest.mark.parametrize("path", named([*BUILD_FILES, *cpp_files(".")]))
def test_no_flag_of_the_building_machine(path):
    assert not re.search(r"m(arch|tune)=native", path.read_text())


@pytest.mark.parametrize("path", named([*python_files("harness"), *OP]))
def test_nothing_runs_what_a_config_or_a_file_names(path):
    """No eval, no shell, no object built from a name, no unpickling, no code from a hub."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        where = f"line {node.lineno}: {name}"
        assert name not in {"eval", "exec", "os.system", "os.popen"}, where
        assert not name.split(".")[-1].startswith("instantiate"), where
        assert name not in {"pickle.load", "pickle.loads"}, where
        assert keywords.get("shell", "False") == "False", where
        assert keywords.get("trust_remote_code", "False") == "False", where
        assert name != "torch.load" or keywords.get("weights_only") == "True", where


SOURCES = [*python_files("harness", "op", "tests"), *cpp_files(".")]


@pytest.mark.parametrize("path", named(SOURCES))
def test_a_file_fits_on_a_few_screens(path):
    limit = MAX_LINES_IN_HARNESS if HARNESS in path.parents else MAX_LINES
    assert len(path.read_text().splitlines()) <= limit


@pytest.mark.parametrize("path", named(python_files("harness")))
def test_no_module_bears_a_name_of_the_standard_library(path):
    """One that does is found instead of Python's own by whoever starts in its folder."""
    assert path.stem in ("__init__", "__main__") or path.stem not in sys.stdlib_module_names


TESTED = {name for path in python_files("tests") for name in imported_here(path)}


@pytest.mark.parametrize("name", sorted(harness_modules()))
def test_every_module_of_the_harness_has_its_test(name):
    """A test imports it: what is reached through another module only is tested by chance."""
    assert name in TESTED


@pytest.mark.parametrize("path", named([*python_files("harness"), *OP]))
def test_a_module_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


# --- dependencies ------------------------------------------------------------------------------------------


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    parsed = [re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line) for line in lines if line[:1] != "#"]
    assert all(parsed), "a line of constraints.txt is no exact pin"
    return {canonical(match[1]): match[2] for match in parsed if match}


def test_every_direct_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = project["build-system"]["requires"] + project["project"]["dependencies"]
    for extra in project["project"]["optional-dependencies"].values():
        declared = declared + extra
    names = {canonical(re.split(r"[^A-Za-z0-9._-]", requirement)[0]) for requirement in declared}
    assert not names - set(pins())


def declared(*extras: str) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [
        *project["dependencies"],
        *(x for name in extras for x in project["optional-dependencies"][name]),
    ]
    return {canonical(re.split(r"[^A-Za-z0-9._-]", line)[0]) for line in lines}


def test_every_import_is_declared():
    """What is there only because another package needs it may be gone with that package's next version."""
    providers = packages_distributions()
    own = {"bert_op", "harness"}
    for paths, allowed in ((OP, declared()), (python_files("harness"), declared("harness"))):
        for path in paths:
            for name in packages(path) - own - set(sys.stdlib_module_names):
                provided_by = {canonical(distribution) for distribution in providers.get(name, [])}
                assert provided_by & allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_who_installs_bert_op_gets_torch_and_transformers_and_nothing_else():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert declared() == {"torch", "transformers"}
    assert not [line for line in project["project"]["dependencies"] if "==" in line]
    assert project["tool"]["scikit-build"]["wheel"]["packages"] == ["op/bert_op"]


def test_torch_comes_from_either_index_and_not_from_the_isolated_build():
    assert "+" not in pins()["torch"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert not [name for name in project["build-system"]["requires"] if name.startswith("torch")]
