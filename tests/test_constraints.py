"""What constraints.txt promises: every pin can be installed on each Python version that the README names."""

import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = (ROOT / "pyproject.toml").read_text()
VERSIONS = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PROJECT)

# What the pins say of themselves (Requires-Python) that some of these Python versions do not install, so that they
# can be judged where they are absent. "" admits every version. A pin that is here is asked itself, too.
REQUIRES_PYTHON = {
    "coloredlogs==15.0.1": ">=2.7,!=3.0.*,!=3.1.*,!=3.2.*,!=3.3.*,!=3.4.*", "contourpy==1.3.2": ">=3.10",
    "contourpy==1.3.3": ">=3.11", "exceptiongroup==1.3.2": ">=3.7", "filelock==4.1.0": ">=3.10",
    "filelock==4.2.12": ">=3.11", "fonttools==4.65.0": ">=3.10", "fonttools==4.68.0": ">=3.11", "ghp-import==2.1.0": "",
    "humanfriendly==10.0": ">=2.7,!=3.0.*,!=3.1.*,!=3.2.*,!=3.3.*,!=3.4.*", "hypothesis==6.168.5": ">=3.10",
    "hypothesis==6.170.17": ">=3.11", "importlib_metadata==9.0.1": ">=3.10", "importlib_metadata==10.2.0": ">=3.11",
    "lazy-importer==0.1.0": ">=3.11", "Markdown==3.10.3": ">=3.10", "Markdown==3.11.3": ">=3.11",
    "matplotlib==3.10.9": ">=3.10", "matplotlib==3.11.2": ">=3.11",
    "mergedeep==1.3.4": ">=3.6", "mkdocs==1.6.1": ">=3.8", "mkdocs-get-deps==0.2.2": ">=3.9",
    "networkx==3.4.2": ">=3.10", "networkx==3.6.1": "!=3.14.1,>=3.11", "numpy==2.2.6": ">=3.10",
    "numpy==2.4.6": ">=3.11", "numpy-typing-compat==20251206.2.4": ">=3.11", "onnxruntime==1.23.2": ">=3.10",
    "onnxruntime==1.32.0": ">=3.11", "optype==0.9.3": ">=3.10", "optype==0.17.1": ">=3.11", "pandas==2.3.3": ">=3.9",
    "pandas==3.1.1": ">=3.11", "pandas-stubs==2.3.3.260113": ">=3.10", "pandas-stubs==3.1.0.261029": ">=3.11",
    "pillow==12.3.0": ">=3.10", "pillow==13.0.0": ">=3.11", "platformdirs==4.12.4": ">=3.10",
    "platformdirs==4.14.8": ">=3.11", "pyarrow==25.0.1": ">=3.10", "pyarrow==26.0.1": ">=3.11",
    "python-dateutil==3.0.0": "!=3.0.*,!=3.1.*,!=3.2.*,>=2.7", "python-dateutil==4.0.0": ">=3.11", "pytz==2026.6": "",
    "pyyaml_env_tag==1.1": ">=3.9",
    "scipy==1.15.3": ">=3.10", "scipy==1.17.1": ">=3.11", "scipy-stubs==1.15.3.0": ">=3.10",
    "scipy-stubs==1.17.1.5": ">=3.11", "six==1.17.0": ">=2.7,!=3.0.*,!=3.1.*,!=3.2.*", "tomli==2.5.0": ">=3.8",
    "tornado==6.5.10": ">=3.9", "tornado==6.6.1": ">=3.11", "types-pytz==2026.6.0.20261031": ">=3.10",
    "watchdog==6.0.0": ">=3.9", "watchdog==7.1.0": ">=3.11", "zipp==4.1.2": ">=3.10",
}  # fmt: skip


def pins() -> list[Requirement]:
    """The lines of constraints.txt."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def applies(requirement: Requirement, version: str) -> bool:
    """Whether a line counts on this Python version, on Linux."""
    environment = {"python_version": version, "python_full_version": f"{version}.0", "sys_platform": "linux"}
    return requirement.marker is None or requirement.marker.evaluate(environment)


def pinned(requirement: Requirement) -> Version:
    """The one version that a line names."""
    (specifier,) = requirement.specifier
    assert specifier.operator == "==", requirement
    return Version(specifier.version)


def installed_rule(requirement: Requirement) -> str | None:
    """Requires-Python of a pin by its metadata; None where another version, or none, is installed."""
    try:
        found = metadata.distribution(requirement.name)
    except metadata.PackageNotFoundError:
        return None
    rules = found.metadata.get_all("Requires-Python") or [""]
    return rules[0] if Version(found.version).public == str(pinned(requirement)) else None


def requirements_of_the_project() -> list[Requirement]:
    """Every package that pyproject.toml names to run, to test and in the extras, but MLflow."""
    names = "dependencies|faiss|onnx|serve|dask|tensorboard|docs|test"  # mlflow wants older packages than are pinned
    lists = re.findall(rf"^(?:{names}) = \[(.*?)\]$", PROJECT, re.MULTILINE | re.DOTALL)
    assert len(lists) == 8
    return [Requirement(text) for each in lists for text in re.findall(r'"([^"]+)"', each)]


def test_the_readme_and_the_metadata_name_the_same_versions() -> None:
    assert f"on Python {VERSIONS[0]} to {VERSIONS[-1]}" in (ROOT / "README.md").read_text()
    assert [f"3.{minor}" for minor in range(10, 10 + len(VERSIONS))] == VERSIONS
    assert f'requires-python = ">={VERSIONS[0]}"' in PROJECT


@pytest.mark.parametrize("requirement", pins(), ids=str)
def test_a_pin_admits_every_version_that_it_is_for(requirement: Requirement) -> None:
    stated, found = REQUIRES_PYTHON.get(f"{requirement.name}=={pinned(requirement)}"), installed_rule(requirement)
    if stated is None and found is None:
        if any(metadata.distributions(name=requirement.name)):
            pytest.skip("another version is installed, whose metadata say nothing of this one")
        pytest.fail("it is not installed; state its Requires-Python in REQUIRES_PYTHON")
    for rule in {stated, found} - {None}:
        for version in VERSIONS:
            assert not applies(requirement, version) or SpecifierSet(rule or "").contains(f"{version}.9"), rule
    assert stated is None or found is None or SpecifierSet(stated) == SpecifierSet(found)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_project_names_is_pinned_once(version: str) -> None:
    """On each version there is one pin of every package that the project names, and it lies in the project's range."""
    lines = [(canonicalize_name(pin.name), pinned(pin)) for pin in pins() if applies(pin, version)]
    found = dict(lines)
    assert len(lines) == len(found), "two pins of one package"
    for requirement in requirements_of_the_project():
        assert found[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_a_pin_that_a_version_cannot_install_is_seen() -> None:
    """Pillow 13.0.0 needs Python 3.11: without a marker it made the installation on 3.10 impossible."""
    assert applies(Requirement("pillow==13.0.0"), "3.10")
    assert not applies(Requirement('pillow==13.0.0; python_version >= "3.11"'), "3.10")
    assert not SpecifierSet(REQUIRES_PYTHON["pillow==13.0.0"]).contains("3.10.9")
