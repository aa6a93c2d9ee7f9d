"""Packaging of dcu-agent: what goes into the firmware image, and what only a head-end or a developer needs."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

PACKAGES = ["agent", "omadm", "updateagent", "dlms", "plc", "headend"]

# The lower bounds are tried: `make oldest`, with constraints/oldest.txt. Those of the device are what Debian 12 has.
DEVICE = ["pyserial>=3.5", "crcmod>=1.7", "cryptography>=38.0.4", "PyYAML>=6.0", "click>=8.1.3"]
HEADEND = ["starlette>=0.37", "uvicorn>=0.30", "SQLAlchemy>=2.0", "httpx>=0.27", "jinja2>=3.1"]
PKCS11 = ["python-pkcs11>=0.9"]  # a head-end whose key is in a token
# Its CliRunner keeps the two outputs apart from click 8.2 on.
MQTT = ["paho-mqtt>=2.1"]
TEST = ["click>=8.2", "pytest>=8.0", "pytest-timeout>=2.3.1", "pytest-xdist>=3.6.1", "rich>=13"]
LINT = ["import-linter>=2.6", "ruff>=0.15", "mypy>=2.4", "types-PyYAML>=6.0.12", "types-pyserial>=3.5"]
DEV = [*LINT, "coverage>=7.10", "pre-commit>=4.7", "vulture>=2.16"]


def data_files(folder: str, target: str) -> list[tuple[str, list[str]]]:
    """Every file below `folder`, as setuptools wants it: one entry a directory."""
    found: dict[str, list[str]] = {}
    for path in sorted((HERE / folder).rglob("*")):
        if path.is_file():
            relative = path.relative_to(HERE / folder).parent
            found.setdefault(str(Path(target) / relative), []).append(str(path.relative_to(HERE)))
    return sorted(found.items())


def version() -> str:
    """The one version, as `updateagent/__init__.py` says it; read as text, since building imports nothing of ours."""
    found = re.search(r'^__version__ = "([^"]+)"$', (HERE / "updateagent" / "__init__.py").read_text("utf-8"), re.M)
    if found is None:
        raise SystemExit("updateagent/__init__.py has no __version__")
    return found[1]


setup(
    version=version(),
    license="Apache-2.0",
    packages=find_packages(include=[f"{name}{suffix}" for name in PACKAGES for suffix in ("", ".*")]),
    package_data={"": ["py.typed", "*.csv", "*.html", "*.css"]},
    data_files=data_files("etc", "share/dcu-agent"),
    install_requires=DEVICE,
    extras_require={
        "systemd": ["systemd-python>=235"],
        "mqtt": MQTT,
        "headend": HEADEND,
        "pkcs11": [*HEADEND, *PKCS11],
        "test": [*HEADEND, *PKCS11, *MQTT, *TEST],
        "dev": [*HEADEND, *PKCS11, *MQTT, *TEST, *DEV],
    },
    entry_points={
        "console_scripts": [
            "dcu-agent=agent.__main__:main",
            "dcu-update=updateagent.__main__:main",
            "dcuctl=agent.cli.__main__:main",
            "dlms=dlms.__main__:main",
            "dcu-pack=updateagent.buildhost.pack:main",
            "dcu-headend=headend.__main__:main",
        ]
    },
)
