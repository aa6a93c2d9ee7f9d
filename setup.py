"""Packaging of dcu-agent: what goes into the firmware image, and what only a head-end or a developer needs."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

PACKAGES = ["agent", "omadm", "updateagent", "dlms", "plc", "headend"]

DEVICE = ["pyserial>=3.5", "crcmod>=1.7", "cryptography>=38", "PyYAML>=6.0", "click>=8.1"]
HEADEND = ["starlette>=0.37", "uvicorn>=0.30", "SQLAlchemy>=2.0", "httpx>=0.27", "jinja2>=3.1"]
DEV = [
    "pytest>=8",
    "hypothesis>=6.90",
    "ruff>=0.6",
    "mypy>=1.10",
    "types-PyYAML",
    "types-pyserial",
    "rich>=13",
]


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
    name="dcu-agent",
    version=version(),
    description="Software of a smart-metering data concentrator: OMA DM, DLMS/COSEM, PLC bridge, A/B update",
    long_description=(HERE / "README.md").read_text(encoding="utf-8") if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=[f"{name}{suffix}" for name in PACKAGES for suffix in ("", ".*")]),
    package_data={"": ["py.typed", "*.csv", "*.html", "*.css"]},
    data_files=data_files("etc", "share/dcu-agent"),
    install_requires=DEVICE,
    extras_require={
        "systemd": ["systemd-python>=235"],
        "headend": HEADEND,
        "dev": [*HEADEND, *DEV],
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
