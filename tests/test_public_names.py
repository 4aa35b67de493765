"""The names that `nnunet_ext` offers to programs."""

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from verb_functions import PUBLIC

import nnunet_ext

NAMES = [name for name in nnunet_ext.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_defined_in_the_module_that_the_root_imports(name):
    assert getattr(nnunet_ext, name).__module__ == nnunet_ext._MODULES[name]


def test_type_checkers_see_the_public_names_where_programs_get_them():
    tree = ast.parse(Path(nnunet_ext.__file__).read_text(encoding="utf-8"))
    (seen_by_type_checkers,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = {alias.name: node.module for node in seen_by_type_checkers.body for alias in node.names}
    assert imports == nnunet_ext._MODULES
    assert sorted(NAMES) == sorted(imports)


def test_every_verb_has_a_public_function():
    assert set(PUBLIC.values()) <= set(NAMES)


def test_no_module_has_the_name_of_a_public_function():
    """The import of such a module would put it in place of the function."""
    assert {module.name for module in pkgutil.iter_modules(nnunet_ext.__path__)}.isdisjoint(NAMES)


def test_the_docstring_has_one_line_per_package():
    packages = {module.name for module in pkgutil.iter_modules(nnunet_ext.__path__) if module.ispkg}
    described = [line.split("`")[1] for line in nnunet_ext.__doc__.splitlines() if line.startswith("- `")]
    assert sorted(described) == sorted(packages)


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, nnunet_ext; print([n for n in ('numpy', 'SimpleITK', 'matplotlib', 'torch') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_name_that_is_not_public_is_refused():
    with pytest.raises(AttributeError, match="module 'nnunet_ext' has no attribute 'prediction_of_the_future'"):
        nnunet_ext.prediction_of_the_future  # noqa: B018


@pytest.mark.parametrize("module", ["nnunet_ext.dataset_conversion.convert", "nnunet_ext.cases.preparing"])
def test_preparing_arrays_imports_neither_matplotlib_nor_torch(module, tmp_path):
    code = f"import sys, {module}; print(sorted({{'matplotlib', 'torch', 'nnunetv2'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"
