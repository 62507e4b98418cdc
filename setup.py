"""Installs zmqha: ``pip install .`` puts ``zmqha`` and ``zmqha-server`` on the path. Exact versions for tests: requirements/."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def version() -> str:
    """As ``zmqha.__version__``, read without importing: the dependencies may not be there yet."""
    found = re.search(r'^__version__ = "([^"]+)"', (HERE / "zmqha" / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else "0.0.0"


def readme() -> str:
    """The long description, if it is there."""
    path = HERE / "README.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def wanted(name: str) -> list[str]:
    """The ranges in a file of requirements/."""
    lines = (HERE / "requirements" / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


setup(
    name="zmqha",
    version=version(),
    description="Highly available messaging for exactly two machines",
    long_description=readme(),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["zmqha", "zmqha.*"]),
    package_data={"zmqha": ["py.typed"]},
    python_requires=">=3.11",
    install_requires=wanted("run.txt"),
    extras_require={"test": wanted("test.txt")},
    entry_points={"console_scripts": ["zmqha = zmqha.cli:main", "zmqha-server = zmqha.cli:server_main"]},
)
