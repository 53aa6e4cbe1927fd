"""The direction of imports, and what importing costs."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import sparsecode

PACKAGE = Path(sparsecode.__file__).parent
# A module imports from modules above it only; docs/architecture.md shows this list to people.
ORDER = """
_version errors files strict_json hdf5 listing inputs rows_hdf5 rows_parquet arrays images
image_worker image_pool sources codes device streams loader distributions kl networks gate vae elbo
coding refinement capture trainer progress history_log calibration defaults fitting model_config
persistence content codes_writer storage parts merging stopping diagnostics labels companions probe
probing report displays transformer model_view baseline_models probe_device file_fitting
encoding_job encoding_summary encoding decoding cli_options cli_reports cli_files cli_work cli
__main__ __init__
""".split()  # noqa: SIM905
WITHOUT_TORCH = """
errors files strict_json hdf5 listing inputs rows_hdf5 rows_parquet arrays images image_worker
image_pool sources codes progress history_log model_config content codes_writer storage parts
merging stopping diagnostics labels companions probe probing report displays cli_options
cli_reports cli_files cli_work cli
""".split()  # noqa: SIM905
HEAVY = {"torch", "sklearn", "scipy", "h5py", "numpy", "safetensors", "PIL", "rich", "typer"}
OPTIONAL = {"matplotlib", "pyarrow", "tensorboard"}


def top(path):
    """Name of the module or subpackage right under sparsecode."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


SOURCES = sorted(PACKAGE.rglob("*.py"))


def test_the_documentation_shows_this_list():
    page = PACKAGE.parent / "docs" / "architecture.md"
    if not page.exists():
        pytest.skip("the documentation is not beside the package here")
    rows = [line.split("|")[1] for line in page.read_text().splitlines() if line.startswith("| `")]
    shown = [(re.findall(r"`(\w+)", row), "○" in row) for row in rows]
    names = [name for row, _ in shown for name in row]
    assert names == [name for name in ORDER if not name.startswith("_")]
    assert [name for row, is_light in shown if is_light for name in row] == WITHOUT_TORCH


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imported(tree):
    """Names imported at run time, as dotted names, with whether a function holds the import."""
    stack = [(node, False) for node in tree.body]
    while stack:
        node, inside = stack.pop()
        if is_type_checking(node):
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((f"{node.module}.{alias.name}", inside) for alias in node.names)
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        stack += [(child, inside) for child in ast.iter_child_nodes(node)]


def all_imports(path):
    return list(imported(ast.parse(path.read_text())))


def test_the_order_names_every_module():
    assert {top(path) for path in SOURCES} == set(ORDER)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_above(path):
    above = ORDER[: ORDER.index(top(path)) + (path.parent != PACKAGE)]
    for name, _ in all_imports(path):
        package, *rest = name.split(".")
        if package == "sparsecode" and rest:
            assert rest[0] in above, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_optional_extras_are_imported_inside_functions(path):
    inside = {name.split(".")[0] for name, within in all_imports(path) if within}
    assert inside <= OPTIONAL


def runtime_closure(name):
    """Modules of sparsecode that importing one of them imports."""
    done, waiting = set(), {name}
    while waiting:
        name = waiting.pop()
        done.add(name)
        for path in SOURCES:
            if top(path) == name:
                found = {
                    n.split(".")[1] for n, _ in all_imports(path) if n.startswith("sparsecode.")
                }
                waiting |= (found & set(ORDER)) - done
    return done


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_the_file_half_never_reaches_torch(name):
    reached = runtime_closure(name)
    for path in SOURCES:
        if top(path) in reached:
            packages = {found.split(".")[0] for found, _ in all_imports(path)}
            assert not packages & {"torch", "safetensors"}, path.name
            assert "sklearn" not in packages or top(path) == "probe", path.name


def modules_after(code):
    command = f"import sys; {code}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_the_package_imports_nothing_heavy():
    assert not modules_after("import sparsecode; sparsecode.__version__") & HEAVY


def test_reading_codes_imports_no_torch():
    code = (
        "import sparsecode; sparsecode.read_codes, sparsecode.SparseCodes, sparsecode.diagnostics"
    )
    loaded = modules_after(code)
    assert "h5py" in loaded
    assert not loaded & {"torch", "sklearn", "safetensors"}


def test_public_names_resolve_and_are_listed():
    assert set(sparsecode.__all__) <= set(dir(sparsecode))
    for name in dir(sparsecode):
        assert getattr(sparsecode, name) is not None
    assert sparsecode.SparseVAETransformer.__module__ == "sparsecode.transformer"
    assert sparsecode.errors is import_module("sparsecode.errors")


def test_unknown_names_are_refused_as_python_does():
    with pytest.raises(AttributeError, match="module 'sparsecode' has no attribute 'nonsense'"):
        _ = sparsecode.nonsense
