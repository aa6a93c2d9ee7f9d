"""The release file of an image (sans-IO): lines `KEY=value` as in os-release(5), by one rule for all programs."""

from __future__ import annotations

from datetime import UTC, datetime

BUILT = "BUILT"  # when the image was built, by ISO 8601 or in seconds since the epoch
FLOOR = "SECURITY_VERSION_MIN"  # the lowest security version of firmware that this image lets be installed
TIME_MAX = 32_503_680_000  # the year 3000


def parse_release(text: str) -> dict[str, str]:
    """Return the values; quotes around one are taken off."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.strip().partition("=")
        if separator and not key.startswith("#"):
            values[key] = value[1:-1] if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'" else value
    return values


def built_at(release: dict[str, str]) -> float:
    """Return when the image was built, by its release file; 0 where that does not say so. Raises `ValueError` for a
    time that cannot be read."""
    text = release.get(BUILT, "")
    if not text:
        return 0.0
    if text.isascii() and text.isdigit():
        seconds = float(text)
    else:
        built = datetime.fromisoformat(text)
        seconds = built.replace(tzinfo=built.tzinfo or UTC).timestamp()
    if not 0 <= seconds <= TIME_MAX:
        raise ValueError(f"{text[:40]} is no time of a build")
    return seconds


def floor_of(release: dict[str, str]) -> int:
    """Return the lowest security version that the image lets be installed; 0 where its release file does not say so, or
    says no number."""
    text = release.get(FLOOR, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else 0
