"""The floors: a file imports only from its own floor's neighbours below. This table is the architecture."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "nhn_tf"

# Room -> floor. A room imports rooms of lower floors, or its own folder, or a room listed before it on its floor.
FLOORS: list[list[str]] = [
    ["errors"],
    ["storage"],
    ["values"],
    ["settings", "layers"],
    ["data", "models", "runs"],
    ["training", "sparse", "pruning"],
    ["search", "report"],
    ["stages"],
    ["export"],
    ["__main__"],
]
ORDER = [room for floor in FLOORS for room in floor]
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}
NEED_KERAS = ("layers", "models", "training", "pruning", "search", "report", "stages")
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def imported_modules(path: Path) -> set[str]:
    """Dotted names of everything a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imported_rooms(path: Path) -> set[str]:
    names = {name.split(".")[1] for name in imported_modules(path) if name.startswith("nhn_tf.")}
    return names - {"__version__"}


def test_every_file_has_a_floor():
    assert {room_of(path) for path in FILES} <= set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_what_stands_below_it(path):
    own = room_of(path)
    for room in imported_rooms(path) - {own}:
        assert ORDER.index(room) < ORDER.index(own), f"{own} imports {room}, which stands above it"


def test_nothing_stands_loose():
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "errors.py"}


@pytest.mark.parametrize(
    "path", [p for p in FILES if room_of(p) in ("errors", "storage", "values", "settings")], ids=lambda path: path.name
)
def test_values_need_only_numpy(path):
    roots = {name.split(".")[0] for name in imported_modules(path)}
    assert not roots & {"keras", "tensorflow", "jax", "absl", "matplotlib", "sklearn", "PIL"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_library_reads_no_flags(path):
    """Nor does `__main__` import them: it hands over to a command by name."""
    modules = imported_modules(path)
    assert not {name.split(".")[0] for name in modules} & {"absl", "flags"}
    assert not any(f"{name}.".startswith("nhn_tf.flags.") for name in modules)


def test_flags_import_themselves_relatively():
    """They are `flags` in a checkout and `nhn_tf.flags` in an installation."""
    for path in (ROOT / "flags").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
        assert not any(f"{node.module}.".startswith(("flags.", "nhn_tf.flags.")) for node in froms), path


@pytest.mark.parametrize("room", NEED_KERAS)
def test_a_room_that_needs_keras_asks_first_whether_there_is_a_backend(room):
    tree = ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))
    first = next(node for node in tree.body if isinstance(node, ast.ImportFrom))
    assert (first.module, first.names[0].name) == ("nhn_tf.storage", "backends")


SPARSE_FLOORS = [
    "program", "native", "plan", "assembly", "code_cache", "library", "runtime", "calibration", "mixed", "sized",
    "compiler", "profiling", "__init__",
]  # fmt: skip
"""Inside the sparse compiler: a floor imports only floors before it. `program` and `native` do not know each other."""


@pytest.mark.parametrize(
    "path", [path for path in FILES if room_of(path) == "sparse"], ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_a_floor_of_the_sparse_compiler_imports_only_what_stands_below_it(path):
    own = path.relative_to(PACKAGE / "sparse").parts[0].removesuffix(".py")
    modules = [name.split(".") for name in imported_modules(path) if name.startswith("nhn_tf.sparse.")]
    for floor in {parts[2] for parts in modules} - {own}:
        assert SPARSE_FLOORS.index(floor) < SPARSE_FLOORS.index(own), f"{own} imports {floor}, which stands above it"
        assert (own, floor) != ("native", "program")


def test_backends_differ_in_one_file_only():
    # TFDS brings TensorFlow along, which must then be kept off the GPU that another backend trains on.
    # A SavedModel is checked by loading it in a process of its own, which only TensorFlow can.
    allowed = {
        PACKAGE / "layers" / "backend.py",
        PACKAGE / "layers" / "devices.py",
        PACKAGE / "layers" / "processes.py",
        PACKAGE / "data" / "tfds_source.py",
        PACKAGE / "export" / "reload.py",
    }
    for path in FILES:
        roots = {name.split(".")[0] for name in imported_modules(path)}
        if path not in allowed:
            assert not roots & {"tensorflow", "jax"}, f"{path} imports a backend"


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_runs_in_a_checkout_that_is_not_installed(path):
    """Before it imports the package, it says where that is."""
    lines = path.read_text(encoding="utf-8").splitlines()
    imports = [number for number, line in enumerate(lines) if line.startswith(("import nhn_tf", "from nhn_tf"))]
    if '__name__ == "__main__"' in "\n".join(lines) and imports:
        assert any(line.startswith(("sys.path.insert(0, ", "import turns")) for line in lines[: imports[0]])
